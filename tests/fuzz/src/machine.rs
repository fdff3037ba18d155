//! The machine around a function: vectors, a line and windows, as plain numbers. It sends a message
//! when a vector that the kernel has wired fires and has somewhere to go.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use devices::irq::{Change, Delivery, Line, LineEnds, Message, Route, Unapplied, Vectors};
use devices::memory::{Backing, Window, Windows};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::kernel::Kernel;

const PAGE: u64 = 4096;

thread_local! {
    /// Eventfds are made once in a process: they are only names here.
    static EVENTS: RefCell<BTreeMap<usize, Arc<EventFd>>> = const { RefCell::new(BTreeMap::new()) };
}

fn event(number: usize) -> Arc<EventFd> {
    EVENTS.with_borrow_mut(|events| {
        let made = || Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor"));
        Arc::clone(events.entry(number).or_insert_with(made))
    })
}

/// Everything that the machine knows. Clones are one and the same.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<State>>);

struct State {
    kernel: Kernel,
    count: u16,
    routes: BTreeMap<u16, Message>,
    counts: BTreeMap<u16, u32>,
    /// Which row of eventfds is in use: a reset gives back the other.
    row: usize,
    handed: BTreeSet<u16>,
    sent: Vec<(u16, Message)>,
    connected: bool,
    windows: BTreeMap<u64, u64>,
    /// Bytes of the device's file that no window may show.
    secret: Vec<Range<u64>>,
}

impl Machine {
    /// A machine with `count` vectors to lend to the function of `kernel`.
    pub fn new(kernel: Kernel, count: u16, secret: Vec<Range<u64>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            kernel,
            count,
            routes: BTreeMap::new(),
            counts: BTreeMap::new(),
            row: 0,
            handed: BTreeSet::new(),
            sent: Vec::new(),
            connected: false,
            windows: BTreeMap::new(),
            secret,
        })))
    }

    /// The device fires `vector`: whether anything heard it.
    pub fn fire(&self, vector: u16) -> bool {
        let mut state = self.state();
        let wired = state.kernel.wire(vector.into());
        let heard = wired.is_some_and(|fd| fd == state.event(vector).as_raw_fd());
        if heard {
            *state.counts.entry(vector).or_default() += 1;
            state.deliver(vector);
        }
        heard
    }

    /// Messages since the last look, with their vectors.
    pub fn take_sent(&self) -> Vec<(u16, Message)> {
        let mut state = self.state();
        state.listen();
        std::mem::take(&mut state.sent)
    }

    /// Windows that are open.
    pub fn windows(&self) -> usize {
        self.state().windows.len()
    }

    /// Whether the line is connected.
    pub fn line_connected(&self) -> bool {
        self.state().connected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no target goes on after a panic")
    }
}

impl State {
    fn event(&self, vector: u16) -> Arc<EventFd> {
        event(usize::from(vector) * 2 + self.row)
    }

    fn deliver(&mut self, vector: u16) {
        if let Some(message) = self.routes.get(&vector).copied()
            && self.counts.remove(&vector).is_some()
        {
            self.sent.push((vector, message));
        }
    }

    /// Takes over what was written to the eventfds themselves: all vectors of a host that cannot
    /// add some go off and on, and get an event too many.
    fn listen(&mut self) {
        if !self.kernel.take_enabled() {
            return;
        }
        for vector in self.handed.clone() {
            if self.event(vector).read().is_ok() {
                *self.counts.entry(vector).or_default() += 1;
                self.deliver(vector);
            }
        }
    }
}

impl Vectors for Machine {
    fn count(&self) -> u16 {
        self.state().count
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Vec<Unapplied>> {
        let mut state = self.state();
        for Change { vector, route } in changes {
            assert!(*vector < state.count, "vector {vector} of {}", state.count);
            match route {
                Route::Masked => drop(state.routes.remove(vector)),
                Route::To(message) => drop(state.routes.insert(*vector, *message)),
            }
            state.deliver(*vector);
        }
        Ok(())
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        let mut state = self.state();
        assert!(vector < state.count, "vector {vector} of {}", state.count);
        state.handed.insert(vector);
        Ok(state.event(vector))
    }

    fn pending(&self, vector: u16) -> bool {
        let mut state = self.state();
        assert!(vector < state.count, "vector {vector} of {}", state.count);
        if state.handed.contains(&vector) {
            state.listen();
        }
        state.counts.contains_key(&vector)
    }

    fn forget(&mut self, vector: u16) {
        self.state().counts.remove(&vector);
    }

    fn delivery(&self, _vector: u16) -> Delivery {
        Delivery::default()
    }

    fn reset(&mut self) {
        let mut state = self.state();
        state.listen();
        state.routes.clear();
        state.counts.clear();
        state.handed.clear();
        state.row = 1 - state.row;
    }

    fn give_back(&mut self) {
        self.reset();
    }
}

/// The function's line.
pub struct Pin(Machine, Arc<EventFd>);

impl Pin {
    /// Of this machine.
    pub fn new(machine: &Machine) -> Self {
        const LINE: usize = 4096;
        Self(machine.clone(), event(LINE))
    }
}

impl Line for Pin {
    fn number(&self) -> u32 {
        16
    }

    fn connect(&mut self) -> io::Result<LineEnds<'_>> {
        self.0.state().connected = true;
        Ok(LineEnds { trigger: &self.1, resample: &self.1 })
    }

    fn disconnect(&mut self) {
        self.0.state().connected = false;
    }
}

/// A window that is open; it closes itself.
struct Pane(Machine, u64);

impl Window for Pane {}

impl Drop for Pane {
    fn drop(&mut self) {
        self.0.state().windows.remove(&self.1);
    }
}

impl Windows for Machine {
    fn open(&self, guest: u64, backing: Backing) -> io::Result<Box<dyn Window>> {
        let mut state = self.state();
        assert!(guest.is_multiple_of(PAGE) && backing.size.is_multiple_of(PAGE), "whole pages");
        let shown = state.kernel.mapped_at(backing.host.addr().get());
        let shown = shown.expect("device memory that is mapped");
        let overlaps = |other: &Range<u64>| other.start < shown.end && shown.start < other.end;
        assert!(!state.secret.iter().any(overlaps), "{shown:x?} shows {:x?}", state.secret);
        let below = state.windows.range(..guest + backing.size).next_back();
        if below.is_some_and(|(start, size)| start + size > guest) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        state.windows.insert(guest, backing.size);
        Ok(Box::new(Pane(self.clone(), guest)))
    }
}
