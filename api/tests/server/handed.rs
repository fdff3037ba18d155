//! Descriptors that come with requests.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use api::client::{Client, ClientError};
use api::descriptors::{Fds, MOST};
use api::request::{Request, Response};
use api::schema::device::PciDeviceInfo;
use api::schema::net::NetConfig;
use micro_http::ScmSocket;

use crate::scene::{PATIENCE, Raw, Scene};

/// The request whole, or its beginning.
fn add_net(body: &str) -> String {
    format!("PUT /api/v1/vm.add-net HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Raw {
    fn send_with(&mut self, text: &str, fds: &[RawFd]) {
        let sent = self.0.send_with_fds(&[text.as_bytes()], fds).unwrap();
        assert_eq!(sent, text.len());
    }
}

/// A descriptor to hand over, and the other end of it.
fn end() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    (ours, theirs)
}

/// What the machine was asked, and those that came with it.
fn card(scene: &Scene) -> NetConfig {
    let call = scene.call();
    let Request::AddNet(card) = call.request else { panic!("{:?}", call.request) };
    call.reply.send(Ok(Response::Done));
    card
}

#[test]
fn descriptors_reach_the_machine_in_order_whole_or_in_pieces() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let ((one, mut at_one), (two, mut at_two)) = (end(), end());
    let fds = [one.as_raw_fd(), two.as_raw_fd()];
    let request = add_net(r#"{"id":"a","fds":[7,7]}"#);

    for cut in [request.len(), 20] {
        let (beginning, rest) = request.split_at(cut);
        client.send_with(beginning, &fds);
        client.send(rest);
        let Some(Fds::Here(handed)) = card(&scene).fds else { panic!("they have not come") };
        assert!(client.page().is(204));

        let mut files = handed.iter().map(|fd| File::from(fd.try_clone_to_owned().unwrap()));
        for (mark, theirs) in [(b"1", &mut at_one), (b"2", &mut at_two)] {
            files.next().unwrap().write_all(mark).unwrap();
            let mut seen = [0];
            theirs.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, mark);
        }
        assert!(files.next().is_none());
    }
}

#[test]
fn descriptors_are_of_one_request_and_closed_with_it() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let (ours, mut theirs) = end();

    client.send_with(&add_net("{}"), &[ours.as_raw_fd()]);
    assert!(card(&scene).fds.is_some());
    assert!(client.page().is(204));
    drop(ours);
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "it is still open");

    client.send(&add_net(r#"{"tap":"t"}"#));
    assert!(card(&scene).fds.is_none());
    assert!(client.page().is(204));
}

#[test]
fn requests_without_use_for_descriptors_and_other_than_promised_are_refused() {
    let scene = Scene::new();
    let file = tempfile::tempfile().unwrap();
    let one = [file.as_raw_fd()];

    let cases = [
        ("PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n".to_owned(), &one[..], "takes none"),
        (add_net(r#"{"fds":[3,4]}"#), &one[..], "`fds` has 2, 1 came"),
        (add_net(r#"{"fds":[3]}"#), &[][..], "`fds` has 1, 0 came"),
        (add_net(r#"{"fds":[]}"#), &one[..], "`fds` has 0, 1 came"),
    ];
    for (request, fds, why) in cases {
        let mut client = scene.connect();
        client.send_with(&request, fds);
        let page = client.page();
        assert!(page.is(400) && page.body.contains("[api.bad-descriptors]"), "{page:?}");
        assert!(page.body.contains(why), "{page:?}");
        client.get("vmm.ping");
        let call = scene.call();
        assert_eq!(call.request, Request::Ping, "the connection goes on");
    }
}

#[test]
fn more_descriptors_than_any_request_needs_are_refused() {
    let scene = Scene::new();
    let file = tempfile::tempfile().unwrap();
    let mut client = scene.connect();

    client.send_with(&add_net("{}"), &[file.as_raw_fd(); MOST + 1]);

    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("[api.bad-descriptors]"), "{text}");
    assert!(scene.receiver.next().is_none(), "it reached the machine");
}

#[test]
fn client_hands_descriptors_over() {
    let scene = Scene::new();
    let (ours, mut theirs) = end();
    let fds = Some(Fds::Here(vec![ours.into()].into()));
    let mut body: NetConfig = serde_json::from_str(r#"{"id":"a"}"#).unwrap();
    body.fds = fds;
    let path = scene.directory.path().join("api.sock");

    let asked = std::thread::Builder::new()
        .name("client".to_owned())
        .spawn(move || Client::new(path).patience(PATIENCE).ask(&Request::AddNet(body)))
        .unwrap();
    let call = scene.call();
    let Request::AddNet(card) = &call.request else { panic!("{:?}", call.request) };
    let Some(Fds::Here(handed)) = &card.fds else { panic!("they have not come") };
    let fd = handed.iter().next().unwrap().try_clone_to_owned().unwrap();
    File::from(fd).write_all(b"x").unwrap();
    theirs.read_exact(&mut [0]).unwrap();
    let info = PciDeviceInfo { id: "a".to_owned(), bdf: "0000:00:01.0".to_owned() };
    call.reply.send(Ok(Response::Added(info.clone())));

    let answer: Result<Response, ClientError> = asked.join().unwrap();
    assert_eq!(answer.unwrap(), Response::Added(info));
}
