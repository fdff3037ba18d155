//! The physical side: which of VFIO's interrupt indices is active, and which of
//! its vectors are wired to an eventfd.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Change, Line, Route, Vectors};
use crate::vfio::config::Location;
use crate::vfio::sys::device::{Device, Index};

/// Failures of one function that are logged.
const LOUD: u64 = 16;

/// The device's end of the wires (`VFIO_DEVICE_SET_IRQS`).
pub trait Wiring: Send + Sync {
    /// Wires vectors `start..` of `index`; `None` takes one off.
    fn wire(&self, index: Index, start: u32, triggers: &[Option<&EventFd>]) -> io::Result<()>;
    /// Lets the kernel unmask INTx whenever `resample` is written.
    fn unmask_on(&self, resample: &EventFd) -> io::Result<()>;
    /// Disables `index`.
    fn unwire(&self, index: Index) -> io::Result<()>;
    /// Fires a wired vector.
    fn fire(&self, index: Index, vector: u32) -> io::Result<()>;
    /// Whether MSI-X vectors can be wired one by one while others are live.
    fn grows(&self) -> bool;
    /// Reads the device's own pending bits.
    fn read_pending(&self, at: Location, data: &mut [u8]) -> io::Result<()>;
    /// Counts an interrupt set-up that failed; returns how many there were before.
    fn count_failure(&self) -> u64;
}

/// Why a vector was not fired.
#[derive(Debug, thiserror::Error)]
pub enum FireError {
    /// It has no wire.
    #[error("vector {0} is off: the guest has not enabled it, or the host has refused it")]
    Off(u16),
    /// The host.
    #[error("the host cannot fire vector {0}")]
    Refused(u16, #[source] io::Error),
}

/// The active index and its wires.
pub(super) struct Wired {
    wiring: Arc<dyn Wiring>,
    active: Option<Index>,
    /// Wired vectors of MSI-X or MSI; kept open as long as they are wired.
    triggers: BTreeMap<u16, Arc<EventFd>>,
}

impl Wired {
    pub(super) fn new(wiring: Arc<dyn Wiring>) -> Self {
        Self { wiring, active: None, triggers: BTreeMap::new() }
    }

    pub(super) fn has_line(&self) -> bool {
        self.active == Some(Index::Intx)
    }

    /// MSI-X on, with no vector: each is added when the guest first unmasks it.
    pub(super) fn enable_msix(&mut self) {
        match self.wiring.wire(Index::Msix, 0, &[None]) {
            Ok(()) => self.active = Some(Index::Msix),
            Err(error) => self.failed("enable MSI-X of", &error),
        }
    }

    /// Wires every vector that `changes` wakes and that was never awake before.
    /// One that the host refuses stays off and is tried again at its next
    /// unmask; the others live.
    pub(super) fn add_msix(&mut self, changes: &[Change], vectors: &mut dyn Vectors) {
        let woken = changes.iter().filter(|change| change.route != Route::Masked);
        let new: Vec<u16> = woken.map(|change| change.vector).collect();
        for vector in new {
            if self.has(vector) {
                continue;
            }
            let added = vectors.trigger(vector).and_then(|event| self.add(vector, event));
            if let Err(error) = added {
                self.failed(&format!("wire MSI-X vector {vector} of"), &error);
            }
        }
    }

    /// MSI on with `count` vectors: VFIO takes them all at once.
    pub(super) fn enable_msi(&mut self, count: u16, vectors: &mut dyn Vectors) {
        let events: io::Result<Vec<_>> = (0..count).map(|vector| vectors.trigger(vector)).collect();
        let enabled = events.and_then(|events| {
            let fds: Vec<_> = events.iter().map(|event| Some(event.as_ref())).collect();
            self.wiring.wire(Index::Msi, 0, &fds)?;
            Ok(events)
        });
        match enabled {
            Ok(events) => {
                self.active = Some(Index::Msi);
                self.triggers = (0..).zip(events).collect();
            }
            Err(error) => self.failed("enable MSI of", &error),
        }
    }

    pub(super) fn enable_line(&mut self, line: &mut dyn Line) {
        let wired = line.connect().and_then(|ends| {
            self.wiring.wire(Index::Intx, 0, &[Some(ends.trigger)])?;
            self.active = Some(Index::Intx);
            self.wiring.unmask_on(ends.resample)
        });
        if let Err(error) = wired {
            self.failed("connect the interrupt line of", &error);
            self.disable();
            line.disconnect();
        }
    }

    /// No index active, no wire left.
    pub(super) fn disable(&mut self) {
        if let Some(index) = self.active.take()
            && let Err(error) = self.wiring.unwire(index)
        {
            self.failed("disable interrupts of", &error);
        }
        self.triggers.clear();
    }

    /// The active index.
    pub(super) fn active(&self) -> Option<Index> {
        self.active
    }

    /// Whether `vector` of the active index is wired; a line has only vector 0.
    pub(super) fn has(&self, vector: u16) -> bool {
        let line = self.has_line() && vector == 0;
        line || self.active.is_some() && self.triggers.contains_key(&vector)
    }

    pub(super) fn fire(&self, vector: u16) -> Result<(), FireError> {
        let index = self.active.filter(|_| self.has(vector)).ok_or(FireError::Off(vector))?;
        let fired = self.wiring.fire(index, vector.into());
        fired.map_err(|error| FireError::Refused(vector, error))
    }

    /// What the device itself says is pending; true of vectors that are not wired.
    pub(super) fn read_pending(&self, at: Location, data: &mut [u8]) {
        if let Err(error) = self.wiring.read_pending(at, data) {
            log::debug!("pending bits of the device: {error}");
            data.fill(0);
        }
    }

    pub(super) fn failed(&self, what: &str, error: &io::Error) {
        // A guest can make it fail for ever, and shall not fill the log.
        match self.wiring.count_failure() {
            ..LOUD => log::error!("cannot {what} the device: {error}"),
            LOUD => log::error!("more interrupt failures of the device are only counted"),
            _ => {}
        }
    }

    fn add(&mut self, vector: u16, event: Arc<EventFd>) -> io::Result<()> {
        if self.active != Some(Index::Msix) {
            self.wiring.wire(Index::Msix, 0, &[None])?;
            self.active = Some(Index::Msix);
        }
        if self.wiring.grows() {
            self.wiring.wire(Index::Msix, vector.into(), &[Some(event.as_ref())])?;
            self.triggers.insert(vector, event);
            return Ok(());
        }
        self.regrow(vector, event)
    }

    /// Hosts before Linux 6.5 cannot add a vector: all go off and on again. An
    /// edge in between would be lost, so each live vector gets one event too
    /// many instead; drivers tolerate those.
    fn regrow(&mut self, vector: u16, event: Arc<EventFd>) -> io::Result<()> {
        self.triggers.insert(vector, event);
        self.wiring.unwire(Index::Msix)?;
        self.active = None;
        let attempt = self.wire_all();
        if attempt.is_err() {
            self.triggers.remove(&vector);
            self.wire_all()?;
        }
        self.active = Some(Index::Msix);
        for (_, live) in self.triggers.iter().filter(|(live, _)| **live != vector) {
            live.write(1)?;
        }
        attempt
    }

    fn wire_all(&self) -> io::Result<()> {
        let last = self.triggers.last_key_value().map_or(0, |(vector, _)| *vector);
        let fd = |vector| self.triggers.get(&vector).map(Arc::as_ref);
        let fds: Vec<_> = (0..=last).map(fd).collect();
        self.wiring.wire(Index::Msix, 0, &fds)
    }
}

impl Wiring for Device {
    fn wire(&self, index: Index, start: u32, triggers: &[Option<&EventFd>]) -> io::Result<()> {
        Self::wire(self, index, start, triggers)
    }

    fn unmask_on(&self, resample: &EventFd) -> io::Result<()> {
        Self::unmask_on(self, resample)
    }

    fn unwire(&self, index: Index) -> io::Result<()> {
        Self::unwire(self, index)
    }

    fn fire(&self, index: Index, vector: u32) -> io::Result<()> {
        Self::fire(self, index, vector)
    }

    fn grows(&self) -> bool {
        self.msix_grows()
    }

    fn read_pending(&self, at: Location, data: &mut [u8]) -> io::Result<()> {
        self.read(at.bar, at.offset, data)
    }

    fn count_failure(&self) -> u64 {
        let before = self.counters().interrupt_failures.get();
        self.counters().interrupt_failures.bump();
        before
    }
}
