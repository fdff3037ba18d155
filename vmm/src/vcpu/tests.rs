use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use devices::io::Access;
use devices::space::{Claim, Space};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::events::{self, Inbox};
use crate::memory::ram::{Backings, Ram};
use crate::memory::slots::Slots;
use crate::seccomp::{Filters, Mode};

const CODE: u64 = 0x1_0000;
const PORT: u64 = 0x80;
const PATIENCE: Duration = Duration::from_secs(20);

/// Passes on what is written to a port.
struct Tap(Sender<Vec<u8>>);

impl Access for Tap {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let _ = self.0.send(data.to_vec());
    }
}

/// A machine of processors, memory and one port. Field order is teardown order.
struct Scene {
    vcpus: Vcpus,
    _ram: Ram,
    _claim: Claim,
    written: Receiver<Vec<u8>>,
    inbox: Inbox<Event>,
}

/// `None` on a machine without a hypervisor.
fn scene(count: u8, code: &[u8]) -> Option<Scene> {
    if !std::path::Path::new("/dev/kvm").exists() {
        eprintln!("skipped: there is no /dev/kvm here");
        return None;
    }
    let kvm = Kvm::open().unwrap();
    let vm = kvm.create_vm().unwrap();
    let backings = Backings { size: 2 << 20, ..Backings::default() };
    let ram = Ram::new(backings, &Slots::new(Arc::clone(&vm), 8)).unwrap();
    ram.memory().write_slice(code, GuestAddress(CODE)).unwrap();
    entry().write_tables(ram.memory()).unwrap();
    let (ports, memory) = (Arc::new(Space::default()), Arc::new(Space::default()));
    let (sender, written) = mpsc::channel();
    let claim = ports.claim(PORT, 1, Arc::new(Tap(sender))).unwrap();
    let (poster, inbox) = events::channel().unwrap();
    let filters = Arc::new(Filters::new(Mode::False).unwrap());
    let spaces = Spaces { memory, ports };
    let vcpus = Vcpus::new((&kvm, &vm), count, &spaces, (&poster, &filters)).unwrap();
    Some(Scene { vcpus, _ram: ram, _claim: claim, written, inbox })
}

fn entry() -> Entry {
    Entry::Long { start: CODE, zero_page: 0x7000 }
}

fn await_event(inbox: &Inbox<Event>) -> Vec<Event> {
    let mut poll = libc::pollfd { fd: inbox.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let patience = i32::try_from(PATIENCE.as_millis()).unwrap();
    // SAFETY: one pollfd, valid for the call.
    #[expect(unsafe_code, reason = "waits for a descriptor")]
    let ready = unsafe { libc::poll(&raw mut poll, 1, patience) };
    assert_eq!(ready, 1, "no event came");
    inbox.drain()
}

#[test]
fn guest_writes_a_port_and_does_so_again_after_each_reset() {
    // mov al, 42; out 0x80, al; hlt; jmp back to the hlt
    let Some(scene) = scene(1, &[0xb0, 42, 0xe6, 0x80, 0xf4, 0xeb, 0xfd]) else { return };

    for _ in 0..3 {
        scene.vcpus.start(entry());
        assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [42]);
        scene.vcpus.park();
    }

    assert!(scene.written.try_recv().is_err());
}

#[test]
fn triple_fault_asks_for_a_reset_once() {
    // ud2, without an interrupt table
    let Some(scene) = scene(2, &[0x0f, 0x0b]) else { return };

    scene.vcpus.start(entry());

    assert_eq!(await_event(&scene.inbox), [Event::Reset]);
    scene.vcpus.park();
    assert_eq!(scene.inbox.drain(), []);
}

#[test]
fn spinning_guest_can_be_parked_and_dropped() {
    // jmp to itself
    let Some(scene) = scene(3, &[0xeb, 0xfe]) else { return };

    scene.vcpus.start(entry());
    scene.vcpus.park();
    scene.vcpus.start(entry());

    drop(scene);
}
