use std::collections::{BTreeMap, BTreeSet};
use std::io;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::irq::{Delivery, LineEnds, Message, Way};
use crate::pci::msix::{ENABLE, FUNCTION_MASK};
use crate::vfio::sys::device::Index;

mod exact;
mod kinds;
mod msix;
mod view;

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
