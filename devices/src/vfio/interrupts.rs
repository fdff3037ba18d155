//! Interrupts of a passed-through function: the state of INTx, MSI and MSI-X
//! that the guest sees, and the one that VFIO has active.
//!
//! The physical state follows the virtual one and never runs ahead of it: a
//! device may change its registers when MSI-X comes on, and a guest that
//! believes it off would read junk.
//!
//! ```text
//!            MSI-X enable             first unmask of a vector
//!   None ───────────────────► Msix ───────────────────────────► Msix, one more wired
//!    ▲ │ MSI enable                  (eventfd → VFIO, then route and delivery)
//!    │ └────────────────────► Msi
//!    │      decoding on, INTx not disabled
//!    └──────────────────────► Intx     any other index on, disabled, or reset: back
//! ```
//!
//! At most one index is active, whatever the guest enables: MSI-X goes before
//! MSI, and both before INTx. Every way out of MSI or MSI-X goes through
//! `unwire` (no new events) and then `Vectors::reset` (none left over).
//!
//! What the host refuses is kept as a [`Refusal`] until it grants it: an index is
//! asked for again when the guest writes the register that enables it, a vector
//! when it wakes.
//!
//! **Exact pending bits** ([`Choices::exact_pending`]). A masked vector is masked
//! at the device too: delivery goes, then the wire. Its Pending bit is the
//! device's, or the count of what was on its way. At the unmask the wire comes
//! before delivery, so that what fires in between is counted and delivered. The
//! device sends what it has kept itself; if something was counted besides, that
//! is dropped first, or there would be two messages. Between reading the device's
//! bit and the wire,
//! * it may be set: its message is that of an event after the unmask, or arrives
//!   before delivery is on and is one with the count;
//! * it may be cleared: the device has nothing left to serve on this vector, the
//!   dropped event included, and no message is due.

mod refusal;
mod view;
mod wiring;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::irq::{Change, Line, Route, Unapplied, Vectors};
use crate::pci::msi::{self, Msi};
use crate::pci::msix::Msix;
use crate::vfio::config::{Location, MsixLayout};
use crate::vfio::sys::device::Index;

pub use self::refusal::Refusal;
use self::refusal::{Refusals, Step};
pub use self::view::{LineView, Mode, MsiView, MsixView, VectorView, View};
use self::wiring::Wired;
pub use self::wiring::{FireError, Wiring};

/// Both sides of one function's interrupts. Every guest access takes the lock
/// for as long as its system calls last; beside guests, workers take it to reset,
/// to look and to test.
pub struct Interrupts {
    layout: Option<MsixLayout>,
    state: Mutex<State>,
}

/// What the guest was promised, and what delivers it.
///
/// Fields are in teardown order: the device stops signalling, then vectors and
/// line go.
struct State {
    wired: Wired,
    kind: Kind,
    vectors: Box<dyn Vectors>,
    line: Option<Box<dyn Line>>,
    msi: Option<Msi>,
    msix: Option<Msix>,
    /// What of `kind` the host does not give at the moment.
    refusals: Refusals,
    /// The command register lets the function raise its line.
    line_allowed: bool,
    /// Masked vectors are masked at the device.
    exact_pending: bool,
    /// Where the device keeps its own pending bits.
    pending_bits: Location,
}

/// The one kind of interrupt that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Silent,
    Line,
    Msi { vectors: u16 },
    Msix,
}

/// What a client may choose of a function's interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Treat the host as one that cannot add MSI-X vectors while others are live.
    pub no_resize: bool,
    /// Mask a masked MSI-X vector at the device too: its Pending bit is the
    /// device's own.
    pub exact_pending: bool,
}

/// The function's interrupt capabilities, as found in configuration space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// Message control of MSI.
    pub msi_control: Option<u16>,
    /// Layout of MSI-X.
    pub msix: Option<MsixLayout>,
}

impl Abilities {
    /// Vectors to borrow: MSI and MSI-X are never on together.
    pub fn vectors(&self) -> u16 {
        let msi = self.msi_control.map_or(0, |control| Msi::new(control).capable());
        self.msix.map_or(0, |layout| layout.count).max(msi)
    }
}

impl Interrupts {
    /// All off.
    pub fn new(
        abilities: Abilities,
        choices: Choices,
        wiring: Arc<dyn Wiring>,
        vectors: Box<dyn Vectors>,
        line: Option<Box<dyn Line>>,
    ) -> Self {
        let table = abilities.msix.map_or(0, |layout| layout.count);
        let state = State {
            wired: Wired::new(wiring, table, !choices.no_resize),
            kind: Kind::Silent,
            vectors,
            line,
            msi: abilities.msi_control.map(Msi::new),
            msix: abilities.msix.map(|layout| Msix::new(layout.count)),
            refusals: Refusals::default(),
            line_allowed: false,
            exact_pending: choices.exact_pending,
            pending_bits: abilities.msix.map_or_else(Location::default, |layout| layout.pending),
        };
        Self { layout: abilities.msix, state: Mutex::new(state) }
    }

    /// Guest reads a BAR: true if the access was to the table or pending bits.
    pub fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8]) -> bool {
        match self.part(bar, offset) {
            Some(Part::Table(offset)) => {
                let state = self.lock();
                state.msix.iter().for_each(|msix| msix.read(offset, data));
                true
            }
            Some(Part::Pending(offset)) => {
                self.lock().read_pending(offset, data);
                true
            }
            None => false,
        }
    }

    /// Guest writes a BAR: true if the access was to the table or pending bits.
    pub fn write_bar(&self, bar: usize, offset: u64, data: &[u8]) -> bool {
        match self.part(bar, offset) {
            Some(Part::Table(offset)) => {
                let mut state = self.lock();
                let change = state.msix.as_mut().and_then(|msix| msix.write(offset, data));
                let asks = change.is_some_and(|change| change.route != Route::Masked);
                state.apply_msix(change.into_iter().collect(), asks);
                true
            }
            // Software must never write the pending bits (PCI 3.0, 6.8.2.10).
            Some(Part::Pending(_)) => true,
            None => false,
        }
    }

    /// Guest reads MSI-X message control.
    pub fn msix_control(&self) -> u16 {
        self.lock().msix.as_ref().map_or(0, Msix::control)
    }

    /// Guest writes MSI-X message control.
    pub fn write_msix_control(&self, control: u16) {
        self.lock().write_msix_control(control);
    }

    /// Guest reads the MSI capability at `offset` from its first byte.
    pub fn read_msi(&self, offset: usize, data: &mut [u8]) {
        let state = self.lock();
        let pending = state.msi_pending();
        state.msi.iter().for_each(|msi| msi.read(offset, pending, data));
    }

    /// Guest writes the MSI capability at `offset` from its first byte.
    pub fn write_msi(&self, offset: usize, data: &[u8]) {
        self.lock().write_msi(offset, data);
    }

    /// The command register says whether the function may raise its line.
    pub fn allow_line(&self, allowed: bool) {
        let mut state = self.lock();
        state.line_allowed = allowed;
        state.follow(Some(Mode::Intx));
    }

    /// Everything off and forgotten, as after a reset of the function. Nothing
    /// that was signalled before is delivered after.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.line_allowed = false;
        state.msi.iter_mut().for_each(Msi::reset);
        state.msix.iter_mut().for_each(Msix::reset);
        state.follow(None);
        state.vectors.give_back();
    }

    /// Fires `vector` of the active index as the hardware would.
    ///
    /// # Errors
    /// Nothing happened: the vector is off, or the host refused.
    pub fn fire(&self, vector: u16) -> Result<(), FireError> {
        self.lock().wired.fire(vector)
    }

    /// Both sides as they are now.
    pub fn view(&self) -> View {
        self.lock().view()
    }

    fn part(&self, bar: usize, offset: u64) -> Option<Part> {
        let layout = self.layout?;
        let within = |location: Location, size: u64| {
            let offset = offset.checked_sub(location.offset)?;
            (bar == location.bar && offset < size).then_some(offset)
        };
        within(layout.table, layout.table_size())
            .map(Part::Table)
            .or_else(|| within(layout.pending, layout.pending_size()).map(Part::Pending))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of MSI-X an access in a BAR hits, and where.
enum Part {
    Table(u64),
    Pending(u64),
}

impl State {
    fn write_msix_control(&mut self, control: u16) {
        let Some(msix) = &mut self.msix else { return };
        let changes = msix.write_control(control);
        if self.kind == self.wanted() {
            self.apply_msix(changes, true);
        } else {
            self.follow(None);
            self.wake_all();
        }
    }

    /// What the guest has changed; if it `asks` for interrupts by that, an index
    /// that the host has refused is asked for again, and then all that is live.
    fn apply_msix(&mut self, changes: Vec<Change>, asks: bool) {
        if self.kind != Kind::Msix {
            return;
        }
        let refused = self.wired.active().is_none();
        self.wake(changes);
        if asks && refused && self.enable_msix() {
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        if let (Some(msix), Kind::Msix) = (&self.msix, self.kind) {
            self.wake(msix.live());
        }
    }

    /// Wires what wakes for the first time, then delivers. One that the host
    /// refuses stays off and is tried again when it wakes next; the others live.
    fn wake(&mut self, mut changes: Vec<Change>) {
        let wakes = |change: &Change| change.route != Route::Masked;
        for change in changes.iter().filter(|change| wakes(change)) {
            if self.wired.active().is_some() && !self.wired.has(change.vector) {
                self.wire(change.vector);
            }
        }
        // Those that were never wired have nothing to deliver.
        changes.retain(|change| self.wired.knows(change.vector));
        self.deliver(&changes);
        if self.exact_pending {
            changes.iter().filter(|c| !wakes(c)).for_each(|change| self.take_off(change.vector));
        }
    }

    /// Masks a vector at the device. What was on its way has been counted by
    /// the end of this, and the device keeps what follows.
    fn take_off(&mut self, vector: u16) {
        if let Err(error) = self.wired.take_off_msix(vector) {
            self.wired.failed(&format!("mask MSI-X vector {vector} of"), &error);
        }
    }

    fn wire(&mut self, vector: u16) {
        self.refusals.vectors.remove(&vector);
        // The device sends a message for what it has kept as soon as it can. What
        // was counted before that makes no second one.
        if self.vectors.pending(vector) && self.keeps(vector) {
            self.vectors.forget(vector);
        }
        let event = self.vectors.trigger(vector);
        if let Err(error) = event.and_then(|event| self.wired.add_msix(vector, event)) {
            self.wired.failed(&format!("wire MSI-X vector {vector} of"), &error);
            self.refusals.vectors.insert(vector, Refusal::new(Step::Wire, &error));
            if self.wired.active().is_none() {
                self.refusals.index = Some(Refusal::new(Step::Index, &error));
            }
        }
    }

    fn write_msi(&mut self, offset: usize, data: &[u8]) {
        let Some(msi) = &mut self.msi else { return };
        let changes = msi.write(offset, data);
        let enables = msi::is_control(offset, data.len());
        let followed = self.follow(enables.then_some(Mode::Msi));
        if !followed && self.wired.active() == Some(Index::Msi) {
            self.deliver(&changes);
        }
    }

    fn deliver(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let wakes = changes.iter().filter(|change| change.route != Route::Masked);
        for change in wakes.filter(|change| self.wired.has(change.vector)) {
            self.refusals.vectors.remove(&change.vector);
        }
        let Err(unapplied) = self.vectors.apply(changes) else { return };
        for Unapplied { vector, error } in unapplied {
            self.wired.failed(&format!("deliver interrupt {vector} of"), &error);
            self.refusals.vectors.insert(vector, Refusal::new(Step::Delivery, &error));
        }
    }

    /// No index active, no vector attached, nothing pending.
    fn silence(&mut self) {
        self.wired.disable();
        if let Some(line) = &mut self.line {
            line.disconnect();
        }
        self.vectors.reset();
        self.refusals = Refusals::default();
    }

    /// What the guest's registers ask for. Software must not enable MSI and MSI-X
    /// together (6.8.3.1); if it does, MSI-X it is.
    fn wanted(&self) -> Kind {
        let msix = self.msix.as_ref().is_some_and(Msix::enabled);
        let line = self.line_allowed && self.line.is_some();
        match self.msi.as_ref().map_or(0, Msi::in_use) {
            _ if msix => Kind::Msix,
            0 if line => Kind::Line,
            0 => Kind::Silent,
            vectors => Kind::Msi { vectors },
        }
    }

    /// Brings the host to what the guest asks for: the old kind off, then the
    /// new one on. A kind that the host has refused is asked for again when the
    /// guest has `written` the register that enables it. Says whether there was
    /// anything to do.
    fn follow(&mut self, written: Option<Mode>) -> bool {
        let wanted = self.wanted();
        let changed = wanted != self.kind;
        let refused = wanted != Kind::Silent && self.wired.active().is_none();
        let asked_again = refused && written == Some(wanted.into());
        if !changed && !asked_again {
            return false;
        }
        if changed && self.kind != Kind::Silent {
            self.silence();
        }
        self.kind = wanted;
        match wanted {
            Kind::Silent => {}
            Kind::Line => self.enable_line(),
            Kind::Msi { vectors } => self.enable_msi(vectors),
            Kind::Msix => _ = self.enable_msix(),
        }
        true
    }

    /// Keeps note of whether the host has turned on what it was asked for.
    fn enabled(&mut self, what: &str, outcome: &io::Result<()>) {
        let refused = outcome.as_ref().err();
        if let Some(error) = refused {
            self.wired.failed(what, error);
        }
        self.refusals.index = refused.map(|error| Refusal::new(Step::Index, error));
    }

    fn enable_line(&mut self) {
        if let Some(line) = &mut self.line {
            let outcome = self.wired.enable_line(line.as_mut());
            self.enabled("connect the interrupt line of", &outcome);
        }
    }

    fn enable_msix(&mut self) -> bool {
        let outcome = self.wired.enable_msix();
        self.enabled("enable MSI-X of", &outcome);
        outcome.is_ok()
    }

    fn enable_msi(&mut self, count: u16) {
        let events: io::Result<_> = (0..count).map(|vector| self.vectors.trigger(vector)).collect();
        let outcome = events.and_then(|events| self.wired.enable_msi(events));
        self.enabled("enable MSI of", &outcome);
        if outcome.is_err() {
            // Whatever descriptors there were are of more use to others.
            return self.vectors.reset();
        }
        let routes = self.msi.as_ref().map(|msi| (0..count).map(|v| (v, msi.route(v))));
        let all = routes.into_iter().flatten();
        let changes: Vec<_> = all.map(|(vector, route)| Change { vector, route }).collect();
        self.deliver(&changes);
    }

    /// Pending bits from quadword `offset / 8` on.
    fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let aligned = matches!(data.len(), 4 | 8) && offset.is_multiple_of(data.len() as u64);
        let Some(msix) = self.msix.as_ref().filter(|_| aligned) else {
            return data.fill(0xff);
        };
        data.fill(0);
        if self.kind != Kind::Msix {
            return;
        }
        self.read_kept(offset, data);
        for (byte, first) in data.iter_mut().zip((offset * 8..).step_by(8)) {
            let own = *byte;
            let pending = |bit: &u64| self.is_pending(msix, first + bit, own >> bit & 1 != 0);
            *byte = (0..8).filter(pending).fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// The device's own Pending bits; true of vectors that are not wired.
    fn read_kept(&self, offset: u64, data: &mut [u8]) {
        let Location { bar, offset: start } = self.pending_bits;
        self.wired.read_pending(Location { bar, offset: start + offset }, data);
    }

    fn keeps(&self, vector: u16) -> bool {
        let mut bits = [0; 4];
        self.read_kept(u64::from(vector) / 32 * 4, &mut bits);
        u32::from_le_bytes(bits) >> (vector % 32) & 1 != 0
    }

    /// A vector that is live has no Pending bit: its event is on its way. One that
    /// is not wired is masked at the device, which keeps the bit: `own`.
    fn is_pending(&self, msix: &Msix, vector: u64, own: bool) -> bool {
        let view = u16::try_from(vector).ok().and_then(|v| Some((v, msix.view(v)?)));
        view.is_some_and(|(vector, view)| {
            let kept = own && !self.wired.has(vector);
            !view.live && (kept || self.vectors.pending(vector))
        })
    }

    fn msi_pending(&self) -> u32 {
        let (Some(msi), Kind::Msi { vectors }) = (&self.msi, self.kind) else { return 0 };
        let masked = |vector: &u16| msi.route(*vector) == Route::Masked;
        let pending = (0..vectors).filter(masked).filter(|v| self.vectors.pending(*v));
        pending.fold(0, |bits, vector| bits | 1 << vector)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.silence();
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
