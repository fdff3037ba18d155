use std::collections::{BTreeMap, BTreeSet};
use std::io;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::irq::{Delivery, LineEnds, Message, Way};
use crate::pci::msix::{ENABLE, FUNCTION_MASK};
use crate::vfio::sys::device::Index;

const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x41 };

/// What a fake was told, in order, in words.
type Notes = Arc<Mutex<Vec<String>>>;

fn note(notes: &Notes, words: String) {
    notes.lock().unwrap().push(words);
}

/// The device's side: refuses the vectors it is told to refuse.
struct Host {
    notes: Notes,
    grows: bool,
    refuses: Mutex<BTreeSet<u32>>,
    /// The device's own pending bits.
    device_pending: Mutex<u8>,
}

impl Wiring for Host {
    fn wire(&self, index: Index, start: u32, fds: &[Option<&EventFd>]) -> io::Result<()> {
        let shape: String = fds.iter().map(|fd| if fd.is_some() { '+' } else { '-' }).collect();
        note(&self.notes, format!("wire {index:?} {start} {shape}"));
        let last = start + u32::try_from(fds.len()).unwrap();
        let refused = self.refuses.lock().unwrap().range(start..last).next().is_some();
        if refused && fds.iter().any(Option::is_some) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn unmask_on(&self, _resample: &EventFd) -> io::Result<()> {
        note(&self.notes, "unmask on resample".to_owned());
        Ok(())
    }

    fn unwire(&self, index: Index) -> io::Result<()> {
        note(&self.notes, format!("unwire {index:?}"));
        Ok(())
    }

    fn fire(&self, index: Index, vector: u32) -> io::Result<()> {
        note(&self.notes, format!("fire {index:?} {vector}"));
        Ok(())
    }

    fn grows(&self) -> bool {
        self.grows
    }

    fn read_pending(&self, at: Location, data: &mut [u8]) -> io::Result<()> {
        assert_eq!((at.bar, at.offset), (3, 0x2000));
        data.fill(0);
        data[0] = *self.device_pending.lock().unwrap();
        Ok(())
    }

    fn count_failure(&self) -> u64 {
        note(&self.notes, "failure".to_owned());
        0
    }
}

/// The machine's side: eventfds, and the routes it was last given.
struct Machine {
    notes: Notes,
    events: BTreeMap<u16, Arc<EventFd>>,
    refuses: Arc<Mutex<BTreeSet<u16>>>,
}

impl Vectors for Machine {
    fn count(&self) -> u16 {
        128
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Vec<Unapplied>> {
        let words = changes.iter().map(|change| match change.route {
            Route::Masked => format!("-{}", change.vector),
            Route::To(message) => format!("+{}:{:#x}", change.vector, message.data),
        });
        note(&self.notes, words.collect::<Vec<_>>().join(" "));
        let refuses = self.refuses.lock().unwrap();
        let refused = changes.iter().filter(|change| refuses.contains(&change.vector));
        let errno = io::Error::from_raw_os_error;
        let refused = refused.map(|c| Unapplied { vector: c.vector, error: errno(libc::ENOMEM) });
        let refused: Vec<_> = refused.collect();
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Ok(Arc::clone(self.events.entry(vector).or_insert(event)))
    }

    fn pending(&self, vector: u16) -> bool {
        let read = self.events.get(&vector).map(|event| event.read());
        matches!(read, Some(Ok(count)) if self.events[&vector].write(count).is_ok())
    }

    fn forget(&mut self, vector: u16) {
        note(&self.notes, format!("forget {vector}"));
        if let Some(event) = self.events.get(&vector) {
            event.read().unwrap();
        }
    }

    fn delivery(&self, vector: u16) -> Delivery {
        let used = self.events.contains_key(&vector);
        let way = if used { Way::Routed } else { Way::Detached };
        Delivery { way, number: used.then_some(24 + u32::from(vector)), relayed: u64::from(used) }
    }

    fn reset(&mut self) {
        self.events.clear();
        note(&self.notes, "reset".to_owned());
    }

    fn give_back(&mut self) {
        self.events.clear();
        note(&self.notes, "give back".to_owned());
    }
}

struct Pin(Notes, EventFd, EventFd);

impl Line for Pin {
    fn number(&self) -> u32 {
        16
    }

    fn connect(&mut self) -> io::Result<LineEnds<'_>> {
        note(&self.0, "line on".to_owned());
        Ok(LineEnds { trigger: &self.1, resample: &self.2 })
    }

    fn disconnect(&mut self) {
        note(&self.0, "line off".to_owned());
    }
}

struct Scene {
    interrupts: Interrupts,
    host: Arc<Host>,
    /// Vectors that the machine does not deliver.
    undelivered: Arc<Mutex<BTreeSet<u16>>>,
    notes: Notes,
}

/// Five MSI-X vectors, table at 0 and pending bits at 0x2000 of BAR 3; MSI of
/// four vectors, 64-bit and maskable; no line.
fn scene(grows: bool) -> Scene {
    build(grows, false, false)
}

/// The same with `x_exact_pending`.
fn exact_scene(grows: bool) -> Scene {
    build(grows, false, true)
}

fn scene_with_line() -> Scene {
    build(true, true, false)
}

fn build(grows: bool, with_line: bool, exact_pending: bool) -> Scene {
    let notes = Notes::default();
    let refuses = Mutex::default();
    let device_pending = Mutex::default();
    let host = Arc::new(Host { notes: Arc::clone(&notes), grows, refuses, device_pending });
    let layout = MsixLayout {
        count: 5,
        table: Location { bar: 3, offset: 0 },
        pending: Location { bar: 3, offset: 0x2000 },
    };
    let abilities = Abilities { msi_control: Some(0x184), msix: Some(layout) };
    let choices = Choices { no_resize: false, exact_pending };
    let undelivered = Arc::default();
    let refuses = Arc::clone(&undelivered);
    let machine = Machine { notes: Arc::clone(&notes), events: BTreeMap::new(), refuses };
    let event = || EventFd::new(EFD_NONBLOCK).unwrap();
    let line =
        with_line.then(|| Box::new(Pin(Arc::clone(&notes), event(), event())) as Box<dyn Line>);
    let wiring = Arc::clone(&host) as Arc<dyn Wiring>;
    let interrupts = Interrupts::new(abilities, choices, wiring, Box::new(machine), line);
    Scene { interrupts, host, undelivered, notes }
}

impl Scene {
    /// What was done since the last look.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap())
    }

    fn program(&self, vector: u64, control: u32) {
        let base = vector * 16;
        let bar = &self.interrupts;
        bar.write_bar(3, base, &MESSAGE.address.to_le_bytes());
        bar.write_bar(3, base + 8, &MESSAGE.data.to_le_bytes());
        bar.write_bar(3, base + 12, &control.to_le_bytes());
    }

    fn pending(&self) -> u64 {
        let mut data = [0; 8];
        assert!(self.interrupts.read_bar(3, 0x2000, &mut data));
        u64::from_le_bytes(data)
    }

    fn signal(&self, vector: u16) {
        self.interrupts.lock().vectors.trigger(vector).unwrap().write(1).unwrap();
    }
}

#[test]
fn enabling_with_all_masked_wires_no_vector() {
    let scene = scene(true);

    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);

    assert_eq!(scene.heard(), ["wire Msix 0 -"]);
    assert_eq!(scene.interrupts.msix_control(), 4 | ENABLE | FUNCTION_MASK);
}

#[test]
fn first_unmask_wires_the_vector_and_later_ones_do_not() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.heard();

    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "+2:0x41"]);
    scene.program(2, 1);
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["-2", "+2:0x41"]);
}

#[test]
fn pending_bit_shows_what_was_signalled_while_masked() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);

    assert_eq!(scene.pending(), 0);
    scene.signal(2);

    assert_eq!(scene.pending(), 1 << 2);
    scene.interrupts.write_bar(3, 0x2000, &[0; 8]);
    assert_eq!(scene.pending(), 1 << 2, "read-only");
    scene.program(2, 0);
    assert_eq!(scene.pending(), 0, "on its way, so not pending");
}

#[test]
fn pending_bit_of_a_vector_that_was_never_unmasked_is_the_devices_own() {
    let scene = scene(true);
    *scene.host.device_pending.lock().unwrap() = 0b1000_0101;
    assert_eq!(scene.pending(), 0, "MSI-X is off");

    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(scene.pending(), 0b101, "of five vectors");
    scene.program(2, 0);
    scene.program(2, 1);
    assert_eq!(scene.pending(), 0b001, "vector 2 signals us now");
}

#[test]
fn odd_reads_of_the_pending_bits_are_ones() {
    let scene = scene(true);

    for (offset, length) in [(0x2000, 2), (0x2004, 8), (0x2002, 4)] {
        let mut data = vec![0; length];
        assert!(scene.interrupts.read_bar(3, offset, &mut data));
        assert_eq!(data, vec![0xff; length]);
    }
    assert!(!scene.interrupts.read_bar(3, 0x2008, &mut [0; 4]), "past the last quadword");
    assert!(!scene.interrupts.read_bar(3, 0x50, &mut [0; 4]), "past the last entry");
    assert!(!scene.interrupts.read_bar(2, 0, &mut [0; 4]), "another BAR");
}

#[test]
fn disable_stops_the_device_before_it_forgets_what_was_pending() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.heard();

    scene.interrupts.write_msix_control(0);

    assert_eq!(scene.heard(), ["unwire Msix", "reset"]);
    assert_eq!(scene.pending(), 0);
}

#[test]
fn refused_vector_leaves_the_others_alive_and_is_tried_again() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.host.refuses.lock().unwrap().insert(2);
    scene.heard();

    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "failure"]);

    scene.host.refuses.lock().unwrap().clear();
    scene.program(2, 1);
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "+2:0x41"]);
}

#[test]
fn vector_that_the_machine_cannot_deliver_is_seen_and_tried_again_at_its_next_unmask() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
    scene.program(1, 0);
    scene.program(2, 0);
    scene.undelivered.lock().unwrap().insert(2);
    let refusals = || {
        let views = scene.interrupts.view().vectors;
        views.iter().map(|v| v.refusal.map(|r| r.name().into_owned())).collect::<Vec<_>>()
    };

    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(refusals(), [None, Some("ENOMEM".to_owned())]);

    scene.undelivered.lock().unwrap().clear();
    scene.program(2, 1);
    scene.heard();
    scene.program(2, 0);
    assert_eq!((scene.heard(), refusals()), (vec!["+2:0x41".to_owned()], vec![None, None]));
}

#[test]
fn host_that_cannot_grow_is_wired_anew_and_loses_no_edge() {
    let scene = scene(false);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(0, 0);
    scene.program(0, 1);
    scene.heard();

    scene.program(3, 0);

    assert_eq!(scene.heard(), ["unwire Msix", "wire Msix 0 +---", "wire Msix 3 +", "+3:0x41"]);
    assert_eq!(scene.pending(), 1, "vector 0 hears of the gap once it is unmasked");
}

#[test]
fn host_that_cannot_grow_and_refuses_keeps_what_it_had() {
    let scene = scene(false);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(0, 0);
    scene.host.refuses.lock().unwrap().insert(3);
    scene.heard();

    scene.program(3, 0);

    let expected = ["unwire Msix", "wire Msix 0 +---", "wire Msix 0 +", "failure"];
    assert_eq!(scene.heard(), expected);
    assert!(scene.interrupts.view().vectors.iter().any(|v| v.vector == 0 && v.wired));
}

#[test]
fn exact_mask_stops_delivery_and_then_the_device_and_unmask_goes_back_the_same_way() {
    for grows in [true, false] {
        let scene = exact_scene(grows);
        scene.interrupts.write_msix_control(ENABLE);
        scene.program(0, 0);
        scene.heard();

        scene.program(0, 1);
        assert_eq!(scene.heard(), ["-0", "wire Msix 0 -"]);
        assert!(matches!(scene.interrupts.fire(0), Err(FireError::Off(0))));
        scene.program(0, 0);
        assert_eq!(scene.heard(), ["wire Msix 0 +", "+0:0x41"]);
        scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
        assert_eq!(scene.heard(), ["-0", "wire Msix 0 -"]);
        scene.interrupts.write_msix_control(0);
        assert_eq!(scene.heard(), ["unwire Msix", "reset"]);
    }
}

#[test]
fn exact_pending_bit_is_the_devices_own_or_of_an_event_that_was_on_its_way() {
    let scene = exact_scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);
    let own = |bits: u8| *scene.host.device_pending.lock().unwrap() = bits;

    own(1 << 2);
    assert_eq!(scene.pending(), 1 << 2);
    assert!(scene.interrupts.view().vectors[0].pending);
    own(0);
    assert_eq!(scene.pending(), 0, "its cause is gone");
    scene.signal(2);
    assert_eq!(scene.pending(), 1 << 2, "it was on its way");
    scene.heard();
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "+2:0x41"], "delivered from the count");
}

#[test]
fn exact_unmask_leaves_the_message_to_a_device_that_will_send_one() {
    let scene = exact_scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);
    scene.signal(2);
    *scene.host.device_pending.lock().unwrap() = 1 << 2;
    scene.heard();

    scene.program(2, 0);

    assert_eq!(scene.heard(), ["forget 2", "wire Msix 2 +", "+2:0x41"]);
}

#[test]
fn exact_unmask_that_the_host_refuses_is_seen_and_what_was_counted_comes_all_the_same() {
    let scene = exact_scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);
    scene.host.refuses.lock().unwrap().insert(2);
    scene.heard();

    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "failure", "+2:0x41"]);
    assert!(scene.interrupts.view().vectors[0].refusal.is_some());

    scene.host.refuses.lock().unwrap().clear();
    scene.program(2, 1);
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["-2", "wire Msix 2 +", "+2:0x41"]);
    assert_eq!(scene.interrupts.view().vectors[0].refusal, None);
}

#[test]
fn msi_takes_all_its_vectors_at_once_and_masks_one_by_one() {
    let scene = scene(true);
    scene.interrupts.write_msi(4, &0xfee0_1000_u32.to_le_bytes());
    scene.interrupts.write_msi(12, &0x50_u16.to_le_bytes());

    scene.interrupts.write_msi(2, &0x11_u16.to_le_bytes());
    assert_eq!(scene.heard(), ["wire Msi 0 ++", "+0:0x50 +1:0x51"]);
    scene.interrupts.write_msi(16, &1_u32.to_le_bytes());
    assert_eq!(scene.heard(), ["-0"]);
    scene.signal(0);
    let mut pending = [0; 4];
    scene.interrupts.read_msi(20, &mut pending);
    assert_eq!(u32::from_le_bytes(pending), 1);
    scene.interrupts.write_msi(2, &0_u16.to_le_bytes());
    assert_eq!(scene.heard(), ["unwire Msi", "reset"]);
}

#[test]
fn line_gives_way_to_msix_and_comes_back() {
    let scene = scene_with_line();

    scene.interrupts.allow_line(true);
    assert_eq!(scene.heard(), ["line on", "wire Intx 0 +", "unmask on resample"]);
    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(scene.heard(), ["unwire Intx", "line off", "reset", "wire Msix 0 -"]);
    scene.interrupts.write_msix_control(0);
    let back = ["unwire Msix", "line off", "reset", "line on", "wire Intx 0 +"];
    assert_eq!(scene.heard()[..5], back);
    scene.interrupts.allow_line(false);
    assert_eq!(scene.heard(), ["unwire Intx", "line off", "reset"]);
}

#[test]
fn msi_enabled_beside_msix_waits_until_that_goes_off() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.heard();

    scene.interrupts.write_msi(2, &1_u16.to_le_bytes());
    assert!(scene.heard().is_empty(), "one index, and vector 1 is still live");
    scene.interrupts.write_msix_control(0);
    assert_eq!(scene.heard(), ["unwire Msix", "reset", "wire Msi 0 +", "+0:0x0"]);
    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(scene.heard(), ["unwire Msi", "reset", "wire Msix 0 -", "wire Msix 1 +", "+1:0x41"]);
}

#[test]
fn reset_forgets_table_and_control() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);

    scene.interrupts.reset();

    assert_eq!(scene.interrupts.msix_control(), 4);
    let mut entry = [0; 8];
    scene.interrupts.read_bar(3, 24, &mut entry);
    assert_eq!(entry, [0, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn only_wired_vectors_can_be_fired() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.heard();

    assert!(matches!(scene.interrupts.fire(0), Err(FireError::Off(0))));
    scene.interrupts.fire(1).unwrap();

    assert_eq!(scene.heard(), ["fire Msix 1"]);
}

#[test]
fn view_shows_every_vector_that_is_not_as_after_reset() {
    let scene = scene(true);
    assert_eq!(scene.interrupts.view().vectors, []);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.program(3, 1);
    scene.signal(3);

    let view = scene.interrupts.view();

    assert_eq!((view.mode, view.host_mode), (Mode::Msix, Mode::Msix));
    let msix = MsixView { table_size: 5, enabled: true, function_masked: false };
    assert_eq!(view.msix, Some(msix));
    let [live, masked] = view.vectors[..] else { panic!("{view:?}") };
    assert_eq!((live.vector, live.guest.message, live.guest.live), (1, MESSAGE, true));
    assert_eq!(live.delivery, Delivery { way: Way::Routed, number: Some(25), relayed: 1 });
    assert!(live.wired && !live.pending);
    assert_eq!((masked.vector, masked.guest.masked, masked.guest.live), (3, true, false));
    assert!(masked.pending && !masked.wired);
}

#[test]
fn view_shows_the_function_mask_and_what_is_pending_under_it() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(0, 0);
    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
    scene.signal(0);

    let view = scene.interrupts.view();

    assert!(view.msix.is_some_and(|msix| msix.function_masked));
    let vector = view.vectors[0];
    assert_eq!((vector.guest.masked, vector.guest.live, vector.pending), (false, false, true));
}

#[test]
fn view_shows_a_vector_that_the_host_has_refused() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.host.refuses.lock().unwrap().insert(2);
    scene.program(2, 0);

    let vector = scene.interrupts.view().vectors[0];

    assert!(vector.guest.live && !vector.wired);
}

#[test]
fn view_of_msi_shows_the_vectors_in_use_as_they_are_sent() {
    let scene = scene(true);
    scene.interrupts.write_msi(4, &0xfee0_1000_u32.to_le_bytes());
    scene.interrupts.write_msi(12, &0x50_u16.to_le_bytes());
    scene.interrupts.write_msi(2, &0x11_u16.to_le_bytes());
    scene.interrupts.write_msi(16, &1_u32.to_le_bytes());

    let view = scene.interrupts.view();

    assert_eq!((view.mode, view.msi), (Mode::Msi, Some(MsiView { capable: 4, in_use: 2 })));
    let data: Vec<_> =
        view.vectors.iter().map(|v| (v.guest.message.data, v.guest.masked, v.wired)).collect();
    assert_eq!(data, [(0x50, true, true), (0x51, false, true)]);
}

#[test]
fn line_is_seen_and_fired_as_vector_0() {
    let scene = scene_with_line();
    scene.interrupts.allow_line(true);

    let view = scene.interrupts.view();
    scene.interrupts.fire(0).unwrap();

    assert_eq!((view.mode, view.host_mode), (Mode::Intx, Mode::Intx));
    assert_eq!(view.line, Some(LineView { number: 16, allowed: true, wired: true }));
    assert_eq!(scene.heard().pop().unwrap(), "fire Intx 0");
    assert!(matches!(scene.interrupts.fire(1), Err(FireError::Off(1))));
}
