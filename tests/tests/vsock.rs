//! Sockets between guest and host: bytes both ways, over connections that either side opens, with a device that comes and
//! goes, and after a reboot; and what is refused.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use api::schema::interrupts::InterruptMode;
use serde_json::{Value, json};
use tests::artifacts::pack_program;
use tests::error::{Doing, ensure, same};
use tests::host::run;
use tests::sockets::{Listener, connection};
use tests::wait::{Look, until};
use tests::{Options, Result, Vm, in_lab};

const CID: u32 = 7;
/// Where the guest listens.
const PORT: u32 = 5000;
/// Bytes that go each way.
const MUCH: usize = 1 << 20;
/// Bytes that are on the way at a time: less than either side keeps for the other.
const PIECE: usize = 32 << 10;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn bytes_go_both_ways_before_and_after_an_unplug_and_a_reboot() {
    in_lab(|host| {
        let mut vm = with_vsock()?;
        vm.mode_becomes("sock", InterruptMode::Msix)?;
        let before = vm.settled_descriptors(host)?;
        carries(&mut vm)?;

        for _ in 0..2 {
            let mut left = listens(&mut vm)?;
            vm.remove("sock")?;
            left.set_read_timeout(Some(LIMIT)).doing("set a limit")?;
            let ended = left.read(&mut [0]).map_err(|error| error.kind());
            same("what a connection ends with", &ended, &Err(ErrorKind::ConnectionReset))?;
            let refused = connection(CID, PORT).is_err();
            ensure(refused, || "a guest without a vsock is reached".into())?;
            vm.api.put_json("vm.add-vsock", &json!({ "cid": CID, "id": "sock" }))?.ok()?;
            vm.guest.wait_for(
                "the driver",
                "ls -d /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*",
            )?;
            carries(&mut vm)?;
        }
        vm.descriptors_return_to(host, before)?;
        let trapped = vm.counters()?["sock"]["trapped_notifications"].take();
        same("notifications that took an exit", &trapped, &json!(0))?;
        same("the guest's address", &vm.info()?["config"]["vsock"]["cid"], &json!(CID))?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;
        carries(&mut vm)?;
        vm.pause()?;
        vm.resume()?;
        carries(&mut vm)
    });
}

#[test]
fn address_that_is_taken_a_second_device_and_a_host_without_vsock_are_refused_with_what_to_do() {
    in_lab(|host| {
        let vm = with_vsock()?;
        let other = Options::default().boot()?;
        let before = other.settled_descriptors(host)?;

        refused(&other, &json!({ "cid": CID }), (400, "device.in-use"), "has CID 7")?;
        refused(&other, &json!({ "cid": 2 }), (400, "device.bad-request"), "cid 2 is not 3 to")?;
        refused(&vm, &json!({ "cid": 8 }), (400, "device.in-use"), "remove that first")?;
        let userspace = json!({ "cid": 8, "socket": "/run/v.sock" });
        refused(&other, &userspace, (400, "api.not-offered"), "AF_VSOCK")?;
        let hidden = host.hide("/dev/vhost-vsock")?;
        refused(&other, &json!({ "cid": 8 }), (500, "device.host-failed"), "modprobe vhost_vsock")?;
        drop(hidden);

        other.descriptors_return_to(host, before)?;
        vm.remove("sock")?;
        other.api.put_json("vm.add-vsock", &json!({ "cid": CID }))?.ok().map(drop)
    });
}

fn refused(vm: &Vm, body: &Value, (status, code): (u16, &str), words: &str) -> Result {
    let refused = vm.api.put_json("vm.add-vsock", body)?;
    let said = format!("{refused:?}");
    let as_expected = refused.status == status && said.contains(code) && said.contains(words);
    ensure(as_expected, || format!("{body}: {said}"))
}

/// Boots a guest with a vsock, and a program that uses it.
fn with_vsock() -> Result<Vm> {
    run(Command::new("modprobe").arg("vhost_vsock"))?;
    let dir = tempfile::tempdir().doing("make a folder")?;
    let archive = dir.path().join("echo.cpio");
    pack_program(env!("CARGO_BIN_EXE_echo"), "echo-vsock", dir.path(), &archive)?;
    let arguments = vec!["--vsock".to_owned(), format!("cid={CID},id=sock")];
    let archives = vec![archive];
    Options { arguments, archives, cpus: "boot=2", ..Options::default() }.boot()
}

/// Has the guest send back what it gets, over a connection of its own and one of the host's.
fn carries(vm: &mut Vm) -> Result {
    let listener = Listener::new(None).doing("listen")?;
    let port = listener.port().doing("ask for the port")?;
    vm.guest.run(&format!("(echo-vsock connect {port} >/tmp/said 2>&1 &)"))?;
    echoes(listener.accept().doing("accept a connection of the guest's")?)?;
    all_was_echoed(vm)?;

    echoes(listens(vm)?)?;
    all_was_echoed(vm)
}

/// A connection to a program that listens in the guest.
fn listens(vm: &mut Vm) -> Result<UnixStream> {
    vm.guest.run(&format!("(echo-vsock listen {PORT} >/tmp/said 2>&1 &)"))?;
    until("a connection to the guest", LIMIT, || {
        Ok(match connection(CID, PORT) {
            Ok(stream) => Look::Holds(stream),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
}

fn echoes(mut stream: UnixStream) -> Result {
    stream.set_read_timeout(Some(LIMIT)).doing("set a limit")?;
    let (mut sent, mut received) = (vec![0; PIECE], vec![0; PIECE]);
    for _ in 0..MUCH / PIECE {
        fastrand::fill(&mut sent);
        stream.write_all(&sent).doing("send to the guest")?;
        stream.read_exact(&mut received).doing("receive from the guest")?;
        ensure(received == sent, || "what came back is not what was sent".into())?;
    }
    stream.shutdown(Shutdown::Both).doing("end the connection")
}

fn all_was_echoed(vm: &mut Vm) -> Result {
    vm.guest
        .wait_for("the end of the program", &format!("grep -x 'echoed {MUCH}' /tmp/said"))
        .map(drop)
}
