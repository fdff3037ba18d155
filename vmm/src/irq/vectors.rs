//! Vectors lent to one PCI function.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use devices::irq::{Change, Delivery, Message, Route, Unapplied, Vectors, Way};
use devices::vfio::counters::Counter;
use vmm_sys_util::eventfd::EventFd;

use crate::irq::relay::Shared;
use crate::irq::vector::{Backend, Snapshot, Vector};

/// A function's vectors, those that it has used so far.
pub struct Lent {
    relay: Arc<Shared>,
    count: u16,
    vectors: BTreeMap<u16, Arc<Vector>>,
    relayed: Arc<Counter>,
}

impl Lent {
    pub(super) fn new(relay: Arc<Shared>, count: u16) -> Self {
        Self { relay, count, vectors: BTreeMap::new(), relayed: Arc::default() }
    }

    /// Counts the messages that the relay thread sends for all of them.
    pub fn relayed(&self) -> Arc<Counter> {
        Arc::clone(&self.relayed)
    }

    /// What the kernel and the relay have of a vector; `None` before its first use.
    pub fn snapshot(&self, vector: u16) -> Option<Snapshot> {
        self.vectors.get(&vector).map(|vector| vector.snapshot())
    }

    fn vector(&mut self, index: u16) -> io::Result<&Arc<Vector>> {
        if index >= self.count {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let relayed = &self.relayed;
        let new = || Arc::new(Vector::new(Arc::clone(relayed)));
        Ok(self.vectors.entry(index).or_insert_with(new))
    }

    fn wake(&mut self, index: u16, message: Message) -> io::Result<()> {
        let relay = Arc::clone(&self.relay);
        let vector = self.vector(index)?;
        let mut state = vector.lock();
        if !state.aim(message, relay.routes())? {
            return Ok(());
        }
        // Otherwise nobody would listen, and the next wake would take it for done.
        relay.take(vector, &mut state).inspect_err(|_| state.drop_aim())
    }

    fn silence(&mut self, index: u16) -> io::Result<()> {
        let relay = Arc::clone(&self.relay);
        self.vector(index)?.lock().mask(relay.routes())
    }
}

impl Vectors for Lent {
    fn count(&self) -> u16 {
        self.count
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Vec<Unapplied>> {
        let mut unapplied = Vec::new();
        for &Change { vector, route } in changes {
            let applied = match route {
                Route::Masked => self.silence(vector),
                Route::To(message) => self.wake(vector, message),
            };
            unapplied.extend(applied.err().map(|error| Unapplied { vector, error }));
        }
        if unapplied.is_empty() { Ok(()) } else { Err(unapplied) }
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        self.vector(vector)?.lock().event()
    }

    fn pending(&self, vector: u16) -> bool {
        self.vectors.get(&vector).is_some_and(|vector| vector.lock().is_pending())
    }

    fn forget(&mut self, vector: u16) {
        if let Some(vector) = self.vectors.get(&vector) {
            vector.lock().drain();
        }
    }

    fn delivery(&self, vector: u16) -> Delivery {
        let Some(snapshot) = self.snapshot(vector) else { return Delivery::default() };
        let way = match snapshot.backend {
            Backend::Detached => Way::Detached,
            Backend::Relayed => Way::Relayed,
            Backend::Routed(_) => Way::Routed,
        };
        let number = snapshot.route.map(|(number, _)| number.number());
        Delivery { way, number, relayed: snapshot.relayed }
    }

    fn reset(&mut self) {
        for (index, vector) in &self.vectors {
            if let Err(error) = self.relay.release(&mut vector.lock()) {
                log::error!("vector {index} stays attached: {error}");
            }
        }
    }

    fn give_back(&mut self) {
        self.reset();
        let numbers: Vec<_> = self.vectors.values().filter_map(|v| v.lock().give_back()).collect();
        self.relay.routes().free(&numbers);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.reset();
        let numbers: Vec<_> = self.vectors.values().filter_map(|v| v.lock().give_back()).collect();
        self.relay.routes().release(&numbers);
    }
}
