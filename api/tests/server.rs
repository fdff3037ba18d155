//! The HTTP server on a real socket, with the test in the machine's place.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

use api::client::{Client, ClientError};
use api::mailbox::{Call, Receiver, Sender, mailbox};
use api::request::{Fault, Request, Response, Status, code};
use api::schema::device::PciDeviceInfo;
use api::server::{Address, BindError, Server, Stop};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Nothing here takes long; whoever waits longer has been forgotten.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; the test answers what arrives at `receiver`.
struct Scene {
    receiver: Receiver,
    epoll: Epoll,
    stop: Option<Stop>,
    http: Option<JoinHandle<()>>,
    address: Address,
    directory: tempfile::TempDir,
}

fn serve(server: Server, machine: Sender) -> JoinHandle<()> {
    std::thread::Builder::new().name("http".to_owned()).spawn(move || server.run(&machine)).unwrap()
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Path(directory.path().join("api.sock"));
        let (server, stop) = Server::bind(&address).unwrap();
        let (sender, receiver) = mailbox().unwrap();
        let epoll = Epoll::new().unwrap();
        let readable = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, receiver.as_raw_fd(), readable).unwrap();
        let http = Some(serve(server, sender));
        Self { receiver, epoll, stop: Some(stop), http, address, directory }
    }

    fn connect(&self) -> Raw {
        Raw::connect(&self.directory.path().join("api.sock"))
    }

    /// The next request that reached the machine.
    fn call(&self) -> Call {
        loop {
            if let Some(call) = self.receiver.next() {
                return call;
            }
            let patience = i32::try_from(PATIENCE.as_millis()).unwrap();
            let ready = self.epoll.wait(patience, &mut [EpollEvent::default()]).unwrap();
            assert_eq!(ready, 1, "no request reached the machine");
        }
    }

    /// Answers the next request, which must be `expected`.
    fn answer(&self, expected: &Request, response: Response) {
        let call = self.call();
        assert_eq!(&call.request, expected);
        call.reply.send(Ok(response));
    }

    fn stop(&mut self) {
        self.stop.as_ref().unwrap().stop();
        self.http.take().unwrap().join().unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if self.http.is_some() {
            self.stop();
        }
    }
}

struct Raw(UnixStream);

/// One answer, taken apart.
#[derive(Debug)]
struct Page {
    head: String,
    body: String,
}

impl Page {
    fn is(&self, status: u16) -> bool {
        self.head.starts_with(&format!("HTTP/1.1 {status} \r\n"))
    }
}

impl Raw {
    fn connect(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn get(&mut self, verb: &str) {
        self.send(&format!("GET /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    fn put(&mut self, verb: &str, body: &str) {
        let length = body.len();
        self.send(&format!(
            "PUT /api/v1/{verb} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }

    fn page(&mut self) -> Page {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Page { head, body: String::from_utf8(body).unwrap() }
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

fn counters(entries: usize) -> Response {
    let per_device = (0..entries).map(|number| (format!("counter-{number:06}"), 1 << 60)).collect();
    Response::Counters([("nic0".to_owned(), per_device)].into())
}

#[test]
fn ch_remotes_four_writes_are_one_request() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let body = r#"{"id":"nic0","pci_segment":0,"path":"/sys/x","x_exclude_mmap_bars":[]}"#;

    client.send("PUT /api/v1/vm.add-device HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
    client.send(&format!("Content-Length: {}\r\n", body.len()));
    client.send("\r\n");
    client.send(body);

    let call = scene.call();
    assert!(matches!(&call.request, Request::AddDevice(device) if device.path.ends_with("x")));
    let info = PciDeviceInfo { id: "nic0".to_owned(), bdf: "0000:00:03.0".to_owned() };
    call.reply.send(Ok(Response::Added(info)));
    let page = client.page();
    assert!(page.is(200), "{page:?}");
    assert_eq!(page.body, r#"{"id":"nic0","bdf":"0000:00:03.0"}"#);
}

#[test]
fn our_own_client_understands_successes_and_refusals() {
    let scene = Scene::new();
    let client = Client::new(scene.directory.path().join("api.sock")).patience(PATIENCE);
    let asking = std::thread::Builder::new().name("client".to_owned());
    let asking =
        asking.spawn(move || (client.ask(&Request::Counters), client.ask(&Request::Boot))).unwrap();
    scene.answer(&Request::Counters, counters(5_000));
    let error = std::io::Error::other("the host is on fire");
    let fault = Fault::new(Status::Internal, code::VM_BOOT_FAILED, "cannot boot the VM", &error);
    scene.call().reply.send(Err(fault));

    let (counted, booted) = asking.join().unwrap();

    assert_eq!(counted.unwrap(), counters(5_000));
    let Err(ClientError::Refused(refusal)) = booted else { panic!("{booted:?}") };
    assert_eq!(refusal.status, 500);
    assert_eq!(refusal.code, code::VM_BOOT_FAILED);
    assert_eq!(refusal.chain, ["cannot boot the VM", "the host is on fire"]);
}

#[test]
fn request_in_single_bytes_is_one_request() {
    let scene = Scene::new();
    let mut client = scene.connect();

    for byte in
        "PUT /api/v1/vm.remove-device HTTP/1.1\r\nContent-Length: 11\r\n\r\n{\"id\":\"n0\"}".chars()
    {
        client.send(&byte.to_string());
    }

    assert!(matches!(scene.call().request, Request::RemoveDevice(body) if body.id == "n0"));
}

#[test]
fn pipelined_requests_are_answered_one_after_the_other() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let boot = "PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n";
    let wrong = "GET /api/v1/vm.fly HTTP/1.1\r\n\r\n";
    let counters_of = "GET /api/v1/vm.counters HTTP/1.1\r\n\r\n";

    client.send(&[boot, wrong, counters_of, boot].concat());

    let first = scene.call();
    assert!(scene.receiver.next().is_none(), "one in flight at a time");
    first.reply.send(Ok(Response::Done));
    scene.answer(&Request::Counters, counters(1));
    scene.answer(&Request::Boot, Response::Done);
    let statuses: Vec<bool> = [204, 404, 200, 204].map(|status| client.page().is(status)).into();
    assert_eq!(statuses, [true; 4]);
}

#[test]
fn others_are_served_while_one_waits() {
    let scene = Scene::new();
    let (mut slow, mut quick) = (scene.connect(), scene.connect());
    slow.put("vm.boot", "");
    let pending = scene.call();

    quick.put("vm.reboot", "");
    scene.answer(&Request::Reboot, Response::Done);

    assert!(quick.page().is(204));
    pending.reply.send(Ok(Response::Done));
    assert!(slow.page().is(204));
}

#[test]
fn answer_larger_than_the_socket_buffer_arrives_whole() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.get("vm.counters");
    scene.answer(&Request::Counters, counters(100_000));

    let page = client.page();

    assert!(page.body.len() > 3_000_000);
    assert!(page.body.starts_with(r#"{"nic0":{"counter-000000":"#));
    assert!(page.body.ends_with("}}"));
}

#[test]
fn half_closed_client_still_gets_every_answer() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.get("vm.counters");
    client.put("vm.boot", "");
    client.0.shutdown(Shutdown::Write).unwrap();

    scene.answer(&Request::Counters, counters(10_000));
    assert!(client.page().body.len() > 300_000);
    scene.answer(&Request::Boot, Response::Done);

    assert_eq!(client.rest(), "HTTP/1.1 204 \r\nServer: hotbay\r\nConnection: keep-alive\r\n\r\n");
}

#[test]
fn client_that_leaves_early_harms_nobody() {
    let scene = Scene::new();
    let mut gone = scene.connect();
    gone.put("vm.boot", "");
    let call = scene.call();
    drop(gone);

    call.reply.send(Ok(Response::Done));

    let mut client = scene.connect();
    client.put("vm.boot", "");
    scene.answer(&Request::Boot, Response::Done);
    assert!(client.page().is(204));
}

#[test]
fn ten_mebibytes_are_refused_and_never_executed() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let bait = "PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n";
    let body = bait.repeat((10 << 20) / bait.len());

    client.put("vm.create", &body);

    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 413 \r\n"), "{text}");
    assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
    assert!(text.ends_with(
        r#"["[api.too-large] the request is too large; a body may have 131072 bytes"]"#
    ));
    assert!(scene.receiver.next().is_none());
}

#[test]
fn endless_headers_are_refused() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.send("GET /api/v1/vmm.ping HTTP/1.1\r\n");

    client.send(&"X-Padding: 0123456789\r\n".repeat(8_000));

    assert!(client.rest().starts_with("HTTP/1.1 413 \r\n"));
}

#[test]
fn garbage_is_refused_after_the_requests_before_it() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n\x16\x03\x01 what?\r\n\r\n");

    scene.answer(&Request::Boot, Response::Done);
    assert!(client.page().is(204));
    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 400 \r\n"), "{text}");
    assert!(text.contains("[api.bad-http]"), "{text}");
}

#[test]
fn chunked_body_is_refused_and_never_executed() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nPUT /api/v1/vm.boot HTTP/1.1\r\n\r\n");

    assert!(client.rest().contains("a chunked body is not supported"));
    assert!(scene.receiver.next().is_none());
}

#[test]
fn unknown_method_is_told_which_there_are() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("BREW /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n");

    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 405 \r\n"), "{text}");
    assert!(text.contains("\r\nAllow: GET, PUT\r\n"), "{text}");
}

#[test]
fn wrong_method_is_told_the_right_one_and_may_go_on() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("POST /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");

    let page = client.page();
    assert!(page.is(405), "{page:?}");
    assert!(page.head.contains("\r\nAllow: PUT\r\n"), "{page:?}");
    client.put("vm.boot", "");
    scene.answer(&Request::Boot, Response::Done);
    assert!(client.page().is(204));
}

#[test]
fn head_is_answered_without_a_body() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("HEAD /api/v1/vm.info HTTP/1.1\r\n\r\n");

    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 405 \r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn client_that_asks_for_leave_to_send_gets_it() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.send("PUT /api/v1/vm.remove-device HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.page().head, "HTTP/1.1 100 \r\n\r\n");

    client.send(r#"{"id":"n"}"#);

    assert!(matches!(scene.call().request, Request::RemoveDevice(_)));
    assert!(client.page().is(503), "the call was dropped");
}

#[test]
fn connection_ends_when_the_client_wants_it() {
    let scene = Scene::new();
    for request in [
        "PUT /api/v1/vm.boot HTTP/1.1\r\nconnection: Close\r\n\r\n",
        "PUT /api/v1/vm.boot HTTP/1.0\r\n\r\n",
    ] {
        let mut client = scene.connect();
        client.send(request);
        scene.answer(&Request::Boot, Response::Done);

        assert_eq!(client.rest(), "HTTP/1.1 204 \r\nServer: hotbay\r\nConnection: close\r\n\r\n");
    }
}

#[test]
fn three_hundred_clients_at_once_are_all_served() {
    let scene = Scene::new();
    let mut clients: Vec<Raw> = (0..300).map(|_| scene.connect()).collect();
    for client in &mut clients {
        client.put("vm.boot", "");
    }

    let calls: Vec<Call> = clients.iter().map(|_| scene.call()).collect();
    for call in calls {
        call.reply.send(Ok(Response::Done));
    }

    assert!(clients.iter_mut().all(|client| client.page().is(204)));
}

#[test]
fn more_clients_than_the_server_keeps_are_told_so() {
    let scene = Scene::new();
    let mut idle: Vec<Raw> = (0..512).map(|_| scene.connect()).collect();
    let mut surplus = scene.connect();

    surplus.put("vm.boot", "");

    assert!(surplus.rest().starts_with("HTTP/1.1 503 \r\n"));
    let first = &mut idle[0];
    first.put("vm.boot", "");
    scene.answer(&Request::Boot, Response::Done);
    assert!(first.page().is(204));
}

#[test]
fn machine_that_is_gone_answers_503() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let (server, stop) = Server::bind(&Address::Path(path.clone())).unwrap();
    let (sender, receiver) = mailbox().unwrap();
    drop(receiver);
    let http = serve(server, sender);
    let mut client = Raw::connect(&path);

    client.get("vmm.ping");

    assert!(client.page().body.contains("[vmm.stopping]"));
    stop.stop();
    http.join().unwrap();
}

#[test]
fn last_answers_go_out_before_the_server_stops() {
    let mut scene = Scene::new();
    let mut client = scene.connect();
    client.put("vmm.shutdown", "");
    scene.answer(&Request::VmmShutdown, Response::Done);

    scene.stop();

    assert!(client.page().is(204));
    assert_eq!(client.rest(), "");
}

#[test]
fn socket_is_private_and_leaves_with_the_server() {
    let mut scene = Scene::new();
    let path = scene.directory.path().join("api.sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    scene.stop();
    scene.stop = None;

    assert_eq!(scene.directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn live_socket_is_refused_and_keeps_working() {
    let scene = Scene::new();

    let error = Server::bind(&scene.address).unwrap_err();

    assert!(matches!(error, BindError::InUse(_)), "{error}");
    let mut client = scene.connect();
    client.put("vm.boot", "");
    scene.answer(&Request::Boot, Response::Done);
    assert!(client.page().is(204));
}

#[test]
fn live_socket_of_a_server_without_lock_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let _other = UnixListener::bind(&path).unwrap();

    let error = Server::bind(&Address::Path(path.clone())).unwrap_err();

    assert!(matches!(error, BindError::InUse(_)), "{error}");
    assert!(path.exists());
}

#[test]
fn stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(UnixListener::bind(&path).unwrap());
    std::fs::write(directory.path().join("api.sock.lock"), "").unwrap();

    let (_server, _stop) = Server::bind(&Address::Path(path.clone())).unwrap();

    UnixStream::connect(&path).unwrap();
}

#[test]
fn file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "precious").unwrap();

    let error = Server::bind(&Address::Path(path.clone())).unwrap_err();

    assert!(matches!(error, BindError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}

#[test]
fn inherited_socket_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (server, stop) = Server::bind(&Address::Fd(listener.as_raw_fd())).unwrap();
    // The server owns it now.
    std::mem::forget(listener);
    let (sender, _) = mailbox().unwrap();
    let http = serve(server, sender);
    let mut client = Raw::connect(&path);

    client.get("vmm.ping");

    assert!(client.page().is(503));
    stop.stop();
    http.join().unwrap();
}

#[test]
fn descriptor_that_does_not_listen_is_refused() {
    let (socket, _) = UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();

    let connected = Server::bind(&Address::Fd(socket.as_raw_fd())).unwrap_err();
    let regular = Server::bind(&Address::Fd(file.as_raw_fd())).unwrap_err();

    assert!(matches!(connected, BindError::Inherited { .. }), "{connected}");
    assert!(matches!(regular, BindError::Inherited { .. }), "{regular}");
}

#[test]
fn addresses_are_read_as_cloud_hypervisor_does() {
    assert_eq!("path=/run/a".parse(), Ok(Address::Path("/run/a".into())));
    assert_eq!("/run/a".parse(), Ok(Address::Path("/run/a".into())));
    assert_eq!("fd=7".parse(), Ok(Address::Fd(7)));
    assert!("fd=x".parse::<Address>().is_err());
    assert!("path=".parse::<Address>().is_err());
}
