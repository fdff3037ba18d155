//! Many clients, and such as come and go.

use api::mailbox::{Call, mailbox};
use api::request::{Request, Response};
use api::server::{Address, Server};

use crate::scene::{Raw, Scene, serve};

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
