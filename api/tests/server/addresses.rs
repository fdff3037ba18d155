//! Where the server listens, and where it may not.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use api::mailbox::mailbox;
use api::request::{Request, Response};
use api::server::{Address, BindError, Server};

use crate::scene::{Raw, Scene, pass_on, serve};

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
    let (server, stop) = Server::bind(&Address::Fd(pass_on(&listener))).unwrap();
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

    let connected = Server::bind(&Address::Fd(pass_on(&socket))).unwrap_err();
    let regular = Server::bind(&Address::Fd(pass_on(&file))).unwrap_err();

    let directory = tempfile::tempdir().unwrap();
    let ours = UnixListener::bind(directory.path().join("api.sock")).unwrap();
    let not_passed_on = Server::bind(&Address::Fd(ours.as_raw_fd())).unwrap_err();

    assert!(matches!(not_passed_on, BindError::Inherited { .. }), "{not_passed_on}");
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
