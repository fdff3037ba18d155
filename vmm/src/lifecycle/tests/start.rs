//! From a configuration to a guest that runs, or does not.

use std::path::PathBuf;

use super::*;
use crate::arch::x86_64::registers::Entry;
use crate::hotplug::AddError;

#[test]
fn vm_whose_device_cannot_be_had_is_created_again() {
    let Some(mut scene) = scene() else { return };
    let answer = scene.ask(Request::Boot);

    let out_of_threads = io::Error::from_raw_os_error(libc::EAGAIN);
    scene.vmm.go_on_starting(Err(Error::Device(AddError::Worker(out_of_threads))));

    assert!(answer.try_recv().is_err(), "not all is given back yet");
    assert_eq!(state(&scene.vmm), Some(VmState::Created));
    assert_eq!(scene.refuses(Request::Boot), (503, code::VM_STOPPING));
    scene.until(|vmm| stands(vmm, Standing::Created));
    let fault = answer.try_recv().unwrap().unwrap_err();
    assert_eq!((fault.status.code(), fault.code), (500, code::DEVICE_HOST_FAILED));
    scene.boot();
}

/// A kernel on slow storage: a FIFO without a writer.
pub(super) struct Fifo {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Fifo {
    /// Lets everybody who reads it have a few bytes. That is no kernel.
    pub(super) fn answer(&self) -> std::fs::File {
        let mut fifo = std::fs::File::options().read(true).write(true).open(&self.path).unwrap();
        io::Write::write_all(&mut fifo, &[0; 64]).unwrap();
        fifo
    }
}

pub(super) fn unreadable() -> Option<(Scene, Fifo)> {
    let mut scene = scene()?;
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("kernel");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut config = scene.vmm.vm.as_ref().unwrap().config.clone();
    config.payload = Some(PayloadConfig { kernel: Some(fifo.clone()), ..Default::default() });
    scene.does(Request::Delete);
    scene.does(Request::Create(Box::new(config)));
    Some((scene, Fifo { path: fifo, _dir: dir }))
}

#[test]
fn others_are_served_while_the_kernel_is_being_read() {
    let Some((mut scene, fifo)) = unreadable() else { return };

    let answer = scene.ask(Request::Boot);

    assert!(answer.try_recv().is_err(), "it is not read yet");
    for request in [Request::Info, Request::Ping, Request::Counters] {
        scene.does(request);
    }
    assert_eq!(state(&scene.vmm), Some(VmState::Created));
    for request in [Request::Boot, Request::Reboot, Request::Pause, Request::Resume] {
        assert_eq!(scene.refuses(request), (503, code::VM_STARTING));
    }
    let _open = fifo.answer();
    scene.until(|vmm| stands(vmm, Standing::Created));
    let fault = answer.try_recv().unwrap().unwrap_err();
    assert_eq!((fault.status.code(), fault.code), (400, code::VM_BAD_PAYLOAD));
    assert_eq!(state(&scene.vmm), Some(VmState::Created));
}

#[test]
fn boot_can_be_given_up_while_the_kernel_is_being_read() {
    for end in [Request::Shutdown, Request::Delete] {
        let Some((mut scene, fifo)) = unreadable() else { return };
        let answer = scene.ask(Request::Boot);

        scene.stop(end);

        let fault = answer.try_recv().unwrap().unwrap_err();
        assert_eq!((fault.status, fault.code), (Status::Busy, code::VMM_STOPPING));
        // What is read in the end belongs to nobody.
        let _open = fifo.answer();
        scene.await_event();
        scene.vmm.take_events();
        scene.vmm.take_finished();
        assert_ne!(state(&scene.vmm), Some(VmState::Running));
    }
}

#[test]
fn what_was_read_for_an_earlier_boot_does_not_start_this_one() {
    let Some((mut scene, fifo)) = unreadable() else { return };
    let first = scene.ask(Request::Boot);
    scene.stop(Request::Shutdown);
    let second = scene.ask(Request::Boot);

    let stale = Finished::Loaded(1, Ok(Entry::Pvh { start: 0, start_info: 0 }));
    scene.vmm.finished_poster.post(stale);
    scene.vmm.take_finished();

    assert!(first.try_recv().unwrap().is_err());
    assert!(second.try_recv().is_err(), "its own kernel is still being read");
    let _open = fifo.answer();
    scene.until(|vmm| stands(vmm, Standing::Created));
    assert!(second.try_recv().is_ok());
}
