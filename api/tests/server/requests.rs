//! What a client says in whatever pieces, and the answers it gets.

use std::net::Shutdown;

use api::client::{Client, ClientError};
use api::request::{Fault, Request, Response, Status, code};
use api::schema::device::PciDeviceInfo;

use crate::scene::{PATIENCE, Scene, counters};

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
