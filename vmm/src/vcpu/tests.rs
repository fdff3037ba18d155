use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use devices::io::Access;
use devices::memory::{Backing, Windows as _};
use devices::space::{Claim, Space};
use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::events::{self, Inbox};
use crate::kvm::{Irqchips, testing};
use crate::memory::layout;
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
    spaces: Spaces,
    written: Receiver<Vec<u8>>,
    inbox: Inbox<Event>,
    vm: Arc<VmFd>,
}

/// `None` on a machine without a hypervisor.
fn scene(count: u8, code: &[u8]) -> Option<Scene> {
    if !testing::has_hypervisor() {
        return None;
    }
    let kvm = Kvm::open().unwrap();
    let vm = kvm.create_vm().unwrap();
    let backings = Backings { size: 2 << 20, ..Backings::default() };
    let slots = Slots::new(Arc::clone(&vm), 8);
    let ram = Ram::new(backings, &slots).unwrap();
    ram.memory().write_slice(code, GuestAddress(CODE)).unwrap();
    entry().write_tables(ram.memory()).unwrap();
    let (ports, memory) = (Arc::new(Space::default()), Arc::new(Space::default()));
    let (sender, written) = mpsc::channel();
    let claim = ports.claim(PORT, 1, Arc::new(Tap(sender))).unwrap();
    let (poster, inbox) = events::channel().unwrap();
    let filters = Arc::new(Filters::new(Mode::False).unwrap());
    let spaces = Spaces { memory, ports, windows: slots.of_devices() };
    let vcpus = Vcpus::new((&kvm, &vm), count, &spaces, (&poster, &filters)).unwrap();
    Some(Scene { vcpus, _ram: ram, _claim: claim, spaces, written, inbox, vm })
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

impl Scene {
    /// Takes the processors out; what the guest said until then.
    fn park(&self) -> Vec<Event> {
        self.vcpus.hold();
        let mut events = Vec::new();
        while events.last() != Some(&Event::Parked) {
            events.extend(await_event(&self.inbox));
        }
        events.pop();
        events
    }
}

#[test]
fn guest_writes_a_port_and_does_so_again_after_each_reset() {
    // mov al, 42; out 0x80, al; hlt; jmp back to the hlt
    let Some(scene) = scene(1, &[0xb0, 42, 0xe6, 0x80, 0xf4, 0xeb, 0xfd]) else { return };

    for _ in 0..3 {
        scene.vcpus.start(entry());
        assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [42]);
        assert_eq!(scene.park(), []);
    }

    assert!(scene.written.try_recv().is_err());
}

#[test]
fn edge_on_a_shared_line_does_not_reach_a_guest_that_has_set_up_nothing() {
    // sti; nop; mov al, 42; out 0x80, al; hlt; jmp back to the hlt
    let code = [0xfb, 0x90, 0xb0, 42, 0xe6, 0x80, 0xf4, 0xeb, 0xfd];
    let Some(scene) = scene(1, &code) else { return };
    // As it is when a machine is built, and again when its guest starts afresh.
    Irqchips::capture(&scene.vm).unwrap().restore(&scene.vm).unwrap();
    for level in [true, false] {
        scene.vm.set_irq_line(layout::EVENT_GSI, level).unwrap();
    }

    scene.vcpus.start(entry());

    // There is no interrupt table: an interrupt would be a triple fault.
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [42]);
    assert_eq!(scene.park(), []);
}

#[test]
fn triple_fault_asks_for_a_reset_once() {
    // ud2, without an interrupt table
    let Some(scene) = scene(2, &[0x0f, 0x0b]) else { return };

    scene.vcpus.start(entry());

    assert_eq!(await_event(&scene.inbox), [Event::TripleFault { vcpu: 0 }]);
    assert_eq!(scene.park(), []);
}

#[test]
fn spinning_guest_can_be_parked_and_dropped() {
    // jmp to itself
    let Some(scene) = scene(3, &[0xeb, 0xfe]) else { return };

    scene.vcpus.start(entry());
    assert_eq!(scene.park(), []);
    scene.vcpus.start(entry());

    drop(scene);
}

/// Reads of the port wait until the test answers them, and say that they do.
struct Slow {
    entered: Sender<()>,
    answers: Mutex<Receiver<u8>>,
    written: Sender<Vec<u8>>,
}

impl Access for Slow {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        self.entered.send(()).unwrap();
        data.fill(self.answers.lock().unwrap().recv_timeout(PATIENCE).unwrap());
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let _ = self.written.send(data.to_vec());
    }
}

/// inc al; out 0x80, al; jmp back to the inc
const COUNTER: [u8; 6] = [0xfe, 0xc0, 0xe6, 0x80, 0xeb, 0xfa];

#[test]
fn held_guest_stands_still_and_goes_on_where_it_stood() {
    let Some(scene) = scene(1, &COUNTER) else { return };
    scene.vcpus.start(entry());
    let [mut last] = scene.written.recv_timeout(PATIENCE).unwrap()[..] else { panic!() };

    for _ in 0..20 {
        scene.vcpus.hold();
        assert_eq!(await_event(&scene.inbox), [Event::Parked]);
        for written in scene.written.try_iter() {
            assert_eq!(written, [last.wrapping_add(1)], "each write once");
            last = written[0];
        }
        assert!(scene.written.try_recv().is_err(), "nobody runs");

        scene.vcpus.go_on();

        let next = scene.written.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next, [last.wrapping_add(1)], "nothing twice, nothing left out");
        last = next[0];
    }
}

#[test]
fn access_under_way_is_completed_before_a_vcpu_counts_as_parked() {
    // in al, 0x81; out 0x81, al; jmp to itself
    let code = [0xe4, 0x81, 0xe6, 0x81, 0xeb, 0xfe];
    let Some(scene) = scene(2, &code) else { return };
    let (entered, is_entered) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let (written, writes) = mpsc::channel();
    let slow = Slow { entered, answers: Mutex::new(answers), written };
    let _claim = scene.spaces.ports.claim(0x81, 1, Arc::new(slow)).unwrap();
    scene.vcpus.start(entry());
    is_entered.recv_timeout(PATIENCE).unwrap();

    scene.vcpus.hold();
    assert_eq!(scene.inbox.drain(), [], "one is still inside");
    answer.send(77).unwrap();
    assert_eq!(await_event(&scene.inbox), [Event::Parked]);
    assert!(writes.try_recv().is_err(), "the next instruction has not run");

    scene.vcpus.go_on();
    assert_eq!(writes.recv_timeout(PATIENCE).unwrap(), [77], "the read has kept its value");
    assert!(is_entered.try_recv().is_err(), "and was not repeated");
}

#[test]
fn hold_of_processors_that_never_ran_or_have_stalled_is_answered_at_once() {
    // ud2, without an interrupt table
    let Some(scene) = scene(2, &[0x0f, 0x0b]) else { return };
    scene.vcpus.start(entry());
    assert_eq!(await_event(&scene.inbox), [Event::TripleFault { vcpu: 0 }]);

    for _ in 0..3 {
        scene.vcpus.hold();
        assert_eq!(await_event(&scene.inbox), [Event::Parked]);
        scene.vcpus.go_on();
    }

    assert_eq!(scene.inbox.drain(), [], "the stalled one waits for a reset");
}

#[test]
fn what_a_guest_says_last_comes_before_the_news_that_it_is_held() {
    for _ in 0..50 {
        let Some(scene) = scene(1, &[0x0f, 0x0b]) else { return };

        scene.vcpus.start(entry());
        scene.vcpus.hold();

        let mut events = await_event(&scene.inbox);
        while !events.contains(&Event::Parked) {
            events.extend(await_event(&scene.inbox));
        }
        assert_eq!(events.last(), Some(&Event::Parked), "{events:?}");
        assert_eq!(scene.inbox.drain(), []);
    }
}

#[test]
fn held_guest_can_be_reset_and_dropped() {
    let Some(scene) = scene(3, &COUNTER) else { return };
    scene.vcpus.start(entry());
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [1]);
    scene.vcpus.hold();
    assert_eq!(await_event(&scene.inbox), [Event::Parked]);
    scene.written.try_iter().for_each(drop);

    scene.vcpus.start(entry());
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [1], "from the start");

    scene.vcpus.hold();
    drop(scene);
}

/// mov eax, [WINDOW]; out 0x80, al; jmp back to the mov
const READER: [u8; 13] = [0xa1, 0, 0, 0, 0x10, 0, 0, 0, 0, 0xe6, 0x80, 0xeb, 0xf3];
const WINDOW: u64 = 0x1000_0000;

/// A page of 42s as a device's memory, and the file that it is of.
fn device_memory() -> (std::fs::File, vm_memory::MmapRegion<()>) {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[42; 4096], 0).unwrap();
    let of_file = vm_memory::FileOffset::new(file.try_clone().unwrap(), 0);
    (file, vm_memory::MmapRegion::from_file(of_file, 4096).unwrap())
}

#[test]
fn guest_whose_device_memory_goes_away_lives_and_its_accesses_come_out() {
    let Some(scene) = scene(1, &READER) else { return };
    let (file, memory) = device_memory();
    let backing = Backing { host: std::ptr::NonNull::new(memory.as_ptr()).unwrap(), size: 4096 };
    let _window = scene.spaces.windows.open(WINDOW, backing).unwrap();
    let (sender, _written) = mpsc::channel();
    let _claim = scene.spaces.memory.claim(WINDOW, 4096, Arc::new(Tap(sender))).unwrap();
    scene.vcpus.start(entry());
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [42]);

    // As if the host had found the device gone.
    file.set_len(0).unwrap();

    while scene.written.recv_timeout(PATIENCE).unwrap() != [0] {}
    assert_eq!(scene.inbox.drain(), []);
}

/// Makes an interrupt table at 0x2000 whose gate of vector 2 leads to the handler, writes
/// 1 to the port and halts; the handler writes 2.
#[rustfmt::skip]
const HALTED: &[u8] = &[
    0x48, 0x8d, 0x05, 0x28, 0, 0, 0, // lea rax, [rip + 0x28]: the handler
    0x66, 0x89, 0x04, 0x25, 0x20, 0x20, 0, 0, // mov [0x2020], ax: its lowest 16 bits
    0x8c, 0x0c, 0x25, 0x22, 0x20, 0, 0, // mov [0x2022], cs
    0xc7, 0x04, 0x25, 0x24, 0x20, 0, 0, 0, 0x8e, 1, 0, // mov dword [0x2024], 0x18e00: gate, next 16 bits
    0x0f, 0x01, 0x1d, 0x0d, 0, 0, 0, // lidt [rip + 0x0d]: the last line
    0xb0, 1, 0xe6, 0x80, // mov al, 1; out 0x80, al
    0xf4, 0xeb, 0xfd, // hlt; jmp back to the hlt
    0xb0, 2, 0xe6, 0x80, 0x48, 0xcf, // mov al, 2; out 0x80, al; iretq
    0x2f, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, // limit and base of the table
];

#[test]
fn nmi_reaches_a_processor_that_has_interrupts_off_and_passes_over_one_that_waits() {
    let Some(scene) = scene(2, HALTED) else { return };
    scene.vcpus.start(entry());
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [1]);

    for _ in 0..3 {
        scene.vcpus.interrupt_all();
        assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [2]);
    }

    assert_eq!(scene.park(), []);
    assert!(scene.written.try_recv().is_err(), "once each");
}

#[test]
fn nmi_of_a_held_guest_is_kept_until_it_goes_on_and_forgotten_by_a_reset() {
    let Some(scene) = scene(1, HALTED) else { return };
    scene.vcpus.start(entry());
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [1]);
    assert_eq!(scene.park(), []);

    scene.vcpus.interrupt_all();
    scene.vcpus.go_on();
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [2]);

    assert_eq!(scene.park(), []);
    scene.vcpus.interrupt_all();
    scene.vcpus.start(entry());
    assert_eq!(scene.written.recv_timeout(PATIENCE).unwrap(), [1]);
    assert_eq!(scene.park(), []);
    assert!(scene.written.try_recv().is_err());
}
