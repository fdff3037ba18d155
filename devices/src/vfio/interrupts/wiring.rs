//! The physical side: which of VFIO's interrupt indices is active, and which of
//! its vectors are wired to an eventfd.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::irq::Line;
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
    #[error(
        "vector {0} is off: the guest has not enabled it, or the host has refused it; \
         with x_exact_pending also while it is masked"
    )]
    Off(u16),
    /// The host.
    #[error("the host cannot fire vector {0}")]
    Refused(u16, #[source] io::Error),
}

/// The active index and its wires.
///
/// ```text
///          enable          arm: any vector        a host that cannot add vectors
///   off ───────────► on ◄──────────────────► on   allocates them in powers of two:
///    ▲                │ one past the allocated    to have more, all go off and on
///    └── disable, or ─┘
///        refused
/// ```
pub(super) struct Wired {
    wiring: Arc<dyn Wiring>,
    active: Option<Index>,
    /// Vectors of MSI-X or MSI that have been wired since the guest turned the
    /// index on. If the host takes the index away, they come back with it.
    wires: BTreeMap<u16, Wire>,
    /// The host can add MSI-X vectors while others are live.
    grows: bool,
    /// Vectors that the host has allocated for MSI-X, from 0 on. One that can
    /// add vectors allocates each when it is wired.
    allocated: u16,
    /// Vectors in the MSI-X table.
    table: u16,
}

/// From the device to an eventfd.
struct Wire {
    event: Arc<EventFd>,
    /// Taken off, the device itself keeps the vector masked.
    on: bool,
}

impl Wired {
    pub(super) fn new(wiring: Arc<dyn Wiring>, table: u16, may_grow: bool) -> Self {
        let grows = may_grow && wiring.grows();
        Self { wiring, active: None, wires: BTreeMap::new(), grows, allocated: 0, table }
    }

    pub(super) fn has_line(&self) -> bool {
        self.active == Some(Index::Intx)
    }

    /// MSI-X on, with the vectors that it had when the host took it away: at
    /// first none. Each is added when the guest first unmasks it.
    pub(super) fn enable_msix(&mut self) -> io::Result<()> {
        let last = self.wires.last_key_value();
        self.allocate(last.map_or(1, |(vector, _)| vector + 1))
    }

    /// Wires a vector of MSI-X. If the host refuses, those wired before live,
    /// unless it does not even give back what it had to be asked for anew: then
    /// no index is active.
    pub(super) fn add_msix(&mut self, vector: u16, event: Arc<EventFd>) -> io::Result<()> {
        if !self.grows && vector >= self.allocated {
            self.grow(vector)?;
        }
        self.wiring.wire(Index::Msix, vector.into(), &[Some(event.as_ref())])?;
        self.wires.insert(vector, Wire { event, on: true });
        Ok(())
    }

    /// Takes the wire off a vector of MSI-X, which masks it at the device: no
    /// event comes any more, and the device keeps its Pending bit.
    pub(super) fn take_off_msix(&mut self, vector: u16) -> io::Result<()> {
        if self.has(vector) {
            self.wiring.wire(Index::Msix, vector.into(), &[None])?;
        }
        self.wires.get_mut(&vector).into_iter().for_each(|wire| wire.on = false);
        Ok(())
    }

    /// MSI on with a vector for each of `events`: VFIO takes them all at once.
    pub(super) fn enable_msi(&mut self, events: Vec<Arc<EventFd>>) -> io::Result<()> {
        let fds: Vec<_> = events.iter().map(|event| Some(event.as_ref())).collect();
        self.wiring.wire(Index::Msi, 0, &fds)?;
        self.active = Some(Index::Msi);
        let wires = events.into_iter().map(|event| Wire { event, on: true });
        self.wires = (0..).zip(wires).collect();
        Ok(())
    }

    pub(super) fn enable_line(&mut self, line: &mut dyn Line) -> io::Result<()> {
        let wired = line.connect().and_then(|ends| {
            self.wiring.wire(Index::Intx, 0, &[Some(ends.trigger)])?;
            self.active = Some(Index::Intx);
            self.wiring.unmask_on(ends.resample)
        });
        if wired.is_err() {
            self.disable();
            line.disconnect();
        }
        wired
    }

    /// No index active, no wire left.
    pub(super) fn disable(&mut self) {
        if let Some(index) = self.active.take()
            && let Err(error) = self.wiring.unwire(index)
        {
            self.failed("disable interrupts of", &error);
        }
        self.wires.clear();
        self.allocated = 0;
    }

    /// The active index.
    pub(super) fn active(&self) -> Option<Index> {
        self.active
    }

    /// Whether `vector` of the active index is wired; a line has only vector 0.
    pub(super) fn has(&self, vector: u16) -> bool {
        let line = self.has_line() && vector == 0;
        line || self.active.is_some() && self.wires.get(&vector).is_some_and(|wire| wire.on)
    }

    /// Whether `vector` has been wired since its index was turned on.
    pub(super) fn knows(&self, vector: u16) -> bool {
        self.wires.contains_key(&vector)
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

    /// Room for `vector` on a host that cannot add one: all vectors go off and on
    /// again. In powers of two, so that N vectors cost only log N of that; if the
    /// host has not so many, as many as needed.
    fn grow(&mut self, vector: u16) -> io::Result<()> {
        let (before, needed) = (self.allocated, vector + 1);
        let roomy = needed.next_power_of_two().min(self.table);
        self.wiring.unwire(Index::Msix)?;
        self.active = None;
        let mut grown = self.allocate(roomy);
        if grown.is_err() && roomy > needed {
            grown = self.allocate(needed);
        }
        if grown.is_err() {
            self.allocate(before)?;
        }
        grown
    }

    /// MSI-X on with `count` vectors, those wired that were. An edge while it
    /// was off would be lost, so each vector that is in use gets one event too
    /// many instead; drivers tolerate those.
    fn allocate(&mut self, count: u16) -> io::Result<()> {
        let wired = |vector| self.wires.get(&vector).filter(|wire| wire.on);
        let fds: Vec<_> = (0..count).map(|v| wired(v).map(|wire| wire.event.as_ref())).collect();
        self.wiring.wire(Index::Msix, 0, &fds)?;
        (self.active, self.allocated) = (Some(Index::Msix), count);
        for Wire { event, .. } in self.wires.values() {
            // Fails only when the count is full: it is signalled then.
            let _ = event.write(1);
        }
        Ok(())
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
