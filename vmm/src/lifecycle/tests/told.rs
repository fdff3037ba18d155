//! What a monitor is told of a VM.

use super::start::unreadable;
use super::*;
use crate::monitor::testing::monitor;

#[test]
fn monitor_is_told_of_every_stage() {
    let Some(mut scene) = scene() else { return };
    let (monitor, heard) = monitor(64);
    scene.vmm.monitor = monitor;

    scene.boot();
    assert_eq!(heard.names(), ["booting", "booted"]);
    scene.plug();
    scene.pause();
    scene.does(Request::Resume);
    assert_eq!(heard.names(), ["pausing", "paused", "resuming", "resumed"]);
    scene.stop(Request::Shutdown);
    assert_eq!(heard.names(), ["shutdown"]);
    assert_eq!(scene.refuses(Request::Pause), (400, code::VM_NOT_RUNNING));
    scene.does(Request::Delete);
    assert_eq!(heard.names(), ["deleted"]);
}

#[test]
fn monitor_is_told_why_a_boot_failed() {
    let Some((mut scene, fifo)) = unreadable() else { return };
    let (monitor, heard) = monitor(64);
    scene.vmm.monitor = monitor;
    let answer = scene.ask(Request::Boot);

    let _open = fifo.answer();
    scene.until(|_| answer.try_recv().is_ok());

    let events = heard.events();
    assert_eq!([&events[0]["event"], &events[1]["event"]], ["booting", "boot-failed"]);
    assert_eq!(events[1]["properties"]["code"], code::VM_BAD_PAYLOAD);
}
