//! Interrupts of a device of our own: which vector tells of what, behind MSI-X
//! (virtio 1.2, 4.1.5.1; PCI 3.0, 6.8.2).
//!
//! The machine's [`Vectors`] carry what a passed-through function's carry: an eventfd
//! a vector, whose events stay pending while it is masked. Here the eventfds are
//! written by workers instead of by the host's driver. There is no INTx line: a
//! driver without MSI-X reads the ISR status or the rings.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{self, Change, Vectors};
use crate::pci::msix::Msix;
use crate::vfio::interrupts::{Mode, MsixView, VectorView, View};

/// "No vector", written and read (4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// ISR status: a queue has used buffers.
const ISR_QUEUE: u8 = 1 << 0;
/// ISR status: the configuration has changed.
const ISR_CONFIGURATION: u8 = 1 << 1;

/// What a vector can tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The configuration, the status included.
    Configuration,
    /// The queue of this index.
    Queue(usize),
}

/// The device's interrupts. vCPUs set them up, workers signal; the lock is held across
/// what [`Vectors`] does.
pub(super) struct Interrupts {
    state: Mutex<State>,
    isr: AtomicU8,
}

struct State {
    msix: Msix,
    vectors: Box<dyn Vectors>,
    /// Of each vector that something has been mapped to.
    triggers: Box<[Option<Arc<EventFd>>]>,
    configuration: u16,
    queues: Box<[u16]>,
    /// A refusal has been logged; the guest could fill the log with them.
    complained: bool,
}

impl Interrupts {
    /// All off, nothing mapped.
    pub(super) fn new(vectors: Box<dyn Vectors>, queues: usize) -> Self {
        let count = vectors.count();
        let state = State {
            msix: Msix::new(count),
            vectors,
            triggers: (0..count).map(|_| None).collect(),
            configuration: NO_VECTOR,
            queues: vec![NO_VECTOR; queues].into(),
            complained: false,
        };
        Self { state: Mutex::new(state), isr: AtomicU8::new(0) }
    }

    /// Tells the driver of `source`. A masked vector keeps it; without MSI-X it is
    /// in the ISR status only.
    pub(super) fn signal(&self, source: Source) {
        let state = self.lock();
        if !state.msix.enabled() {
            self.isr.fetch_or(source.isr(), Ordering::SeqCst);
            return;
        }
        if let Some(trigger) = state.trigger(state.vector_of(source)) {
            // It fails only at 2^64 - 1 events that nobody has taken.
            let _ = trigger.write(1);
        }
    }

    /// The eventfd of the vector of `queue`, for who can signal it without [`Self::signal`]: there
    /// is one while MSI-X is on.
    pub(super) fn trigger_of(&self, queue: usize) -> Option<Arc<EventFd>> {
        let state = self.lock();
        let trigger = state.trigger(state.vector_of(Source::Queue(queue)));
        trigger.filter(|_| state.msix.enabled()).cloned()
    }

    /// Nobody signals `trigger` of a queue any more. What came there after MSI-X had gone off is
    /// in the ISR status.
    pub(super) fn settle(&self, trigger: &EventFd) {
        let state = self.lock();
        if !state.msix.enabled() && irq::take(trigger).is_some() {
            self.isr.fetch_or(ISR_QUEUE, Ordering::SeqCst);
        }
    }

    /// Reads the ISR status, which clears it (4.1.4.5.1).
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::SeqCst)
    }

    /// Maps `source` to `vector`, or to none if there is no such vector, or the host
    /// has no descriptor for it: the driver reads it back.
    pub(super) fn map(&self, source: Source, vector: u16) {
        let mut state = self.lock();
        let vector = match state.prepare(vector) {
            Ok(()) => vector,
            Err(error) => {
                state.complain(format_args!("vector {vector} cannot be used"), &error);
                NO_VECTOR
            }
        };
        match source {
            Source::Configuration => state.configuration = vector,
            Source::Queue(queue) => {
                state.queues.get_mut(queue).into_iter().for_each(|of| *of = vector);
            }
        }
    }

    /// What `source` is mapped to.
    pub(super) fn mapped(&self, source: Source) -> u16 {
        self.lock().vector_of(source)
    }

    /// Guest reads the table.
    pub(super) fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.lock().msix.read(offset, data);
    }

    /// Guest writes the table.
    pub(super) fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        let change = state.msix.write(offset, data);
        state.apply(change.into_iter().collect());
    }

    /// Guest reads Pending bits: bytes of quadwords, a bit a vector (PCI 3.0, 6.8.2.10).
    pub(super) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (byte, value) in (offset..).zip(data) {
            let first = byte.saturating_mul(8);
            let bits = (0..8).filter(|bit| state.is_pending(first.saturating_add(*bit)));
            *value = bits.fold(0, |byte, bit| byte | 1 << bit);
        }
    }

    /// MSI-X message control.
    pub(super) fn control(&self) -> u16 {
        self.lock().msix.control()
    }

    /// Guest writes MSI-X message control. What was signalled before it went off is
    /// not delivered when it comes on again.
    pub(super) fn write_control(&self, control: u16) {
        let mut state = self.lock();
        let was_on = state.msix.enabled();
        let changes = state.msix.write_control(control);
        state.apply(changes);
        if was_on && !state.msix.enabled() {
            state.vectors.reset();
        }
    }

    /// The driver has reset the device: nothing is mapped, and nothing pending. The
    /// table is PCI's, and stays.
    pub(super) fn forget_mapping(&self) {
        let mut state = self.lock();
        state.configuration = NO_VECTOR;
        state.queues.fill(NO_VECTOR);
        for vector in 0..state.vectors.count() {
            if state.pends(vector) {
                state.vectors.forget(vector);
            }
        }
        self.isr.store(0, Ordering::SeqCst);
    }

    /// As after power-on: everything off, and the numbers are given back.
    pub(super) fn reset(&self) {
        self.forget_mapping();
        let mut state = self.lock();
        state.msix.reset();
        state.vectors.give_back();
    }

    /// Fires `vector` as a worker would; false if the driver does not use it.
    pub(super) fn fire(&self, vector: u16) -> bool {
        let state = self.lock();
        let trigger = state.trigger(vector).filter(|_| state.msix.enabled());
        trigger.is_some_and(|trigger| trigger.write(1).is_ok())
    }

    /// Both sides as they are now.
    pub(super) fn view(&self) -> View {
        let state = self.lock();
        let mode = if state.msix.enabled() { Mode::Msix } else { Mode::None };
        let msix = MsixView {
            table_size: state.msix.count(),
            enabled: state.msix.enabled(),
            function_masked: state.msix.function_masked(),
        };
        let used = (0..state.msix.count()).filter(|vector| state.trigger(*vector).is_some());
        let vectors = used.filter_map(|vector| state.view(vector)).collect();
        View {
            mode,
            host_mode: mode,
            refusal: None,
            msix: Some(msix),
            msi: None,
            line: None,
            vectors,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn isr(self) -> u8 {
        match self {
            Self::Configuration => ISR_CONFIGURATION,
            Self::Queue(_) => ISR_QUEUE,
        }
    }
}

impl State {
    fn vector_of(&self, source: Source) -> u16 {
        match source {
            Source::Configuration => self.configuration,
            Source::Queue(queue) => self.queues.get(queue).copied().unwrap_or(NO_VECTOR),
        }
    }

    fn trigger(&self, vector: u16) -> Option<&Arc<EventFd>> {
        self.triggers.get(usize::from(vector))?.as_ref()
    }

    /// Makes `vector` ready to be signalled, and delivered if it is live already.
    fn prepare(&mut self, vector: u16) -> io::Result<()> {
        if vector == NO_VECTOR || self.trigger(vector).is_some() {
            return Ok(());
        }
        let place = self.triggers.get_mut(usize::from(vector));
        let place = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        *place = Some(self.vectors.trigger(vector)?);
        let live = self.msix.live().into_iter().filter(|change| change.vector == vector);
        self.apply(live.collect());
        Ok(())
    }

    /// Vectors that nothing was ever mapped to have nothing to deliver.
    fn apply(&mut self, mut changes: Vec<Change>) {
        changes.retain(|change| self.trigger(change.vector).is_some());
        if changes.is_empty() {
            return;
        }
        for refused in self.vectors.apply(&changes).err().into_iter().flatten() {
            let what = format_args!("interrupt {} cannot be delivered", refused.vector);
            self.complain(what, &refused.error);
        }
    }

    fn is_pending(&self, vector: u64) -> bool {
        u16::try_from(vector).is_ok_and(|vector| self.pends(vector))
    }

    /// A live vector has delivered what it was signalled.
    fn pends(&self, vector: u16) -> bool {
        let held = self.msix.view(vector).is_some_and(|view| !view.live);
        held && self.trigger(vector).is_some() && self.vectors.pending(vector)
    }

    fn view(&self, vector: u16) -> Option<VectorView> {
        Some(VectorView {
            vector,
            guest: self.msix.view(vector)?,
            pending: self.pends(vector),
            delivery: self.vectors.delivery(vector),
            wired: true,
            refusal: None,
        })
    }

    fn complain(&mut self, what: std::fmt::Arguments<'_>, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            log::warn!("virtio: {what}: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
