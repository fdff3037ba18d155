//! Fakes for tests of this module: vectors that take notes, RAM, chains as a driver writes them.

use std::io;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::irq::{Change, Delivery, Route, Unapplied, Vectors};
use crate::virtio::Memory;

/// Descriptor flags (2.7.5).
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Bytes of RAM, in two pieces: `0..HALF`, then after a hole as much.
pub(super) const HALF: u64 = 0x10_0000;
pub(super) const SECOND: u64 = 0x20_0000;

/// Two pieces of RAM with a hole in between.
pub(super) fn memory() -> Memory {
    let half = usize::try_from(HALF).unwrap();
    Memory::from_ranges(&[(GuestAddress(0), half), (GuestAddress(SECOND), half)]).unwrap()
}

/// Vectors that note what is done to them.
#[derive(Clone)]
pub(super) struct Notes {
    pub(super) routes: Arc<Mutex<Vec<Route>>>,
    pub(super) events: Arc<Vec<Arc<EventFd>>>,
}

impl Notes {
    pub(super) fn new(count: u16) -> Self {
        let event = |_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let routes = vec![Route::Masked; count.into()];
        let events = Arc::new((0..count).map(event).collect());
        Self { routes: Arc::new(Mutex::new(routes)), events }
    }

    /// Events of a vector since the last look.
    pub(super) fn taken(&self, vector: usize) -> u64 {
        self.events[vector].read().unwrap_or(0)
    }

    pub(super) fn route(&self, vector: usize) -> Route {
        self.routes.lock().unwrap()[vector]
    }
}

impl Vectors for Notes {
    fn count(&self) -> u16 {
        u16::try_from(self.events.len()).unwrap()
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Vec<Unapplied>> {
        let mut routes = self.routes.lock().unwrap();
        changes.iter().for_each(|change| routes[usize::from(change.vector)] = change.route);
        Ok(())
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        Ok(Arc::clone(&self.events[usize::from(vector)]))
    }

    fn pending(&self, vector: u16) -> bool {
        let event = &self.events[usize::from(vector)];
        event.read().is_ok_and(|count| event.write(count).is_ok())
    }

    fn forget(&mut self, vector: u16) {
        let _ = self.events[usize::from(vector)].read();
    }

    fn delivery(&self, _vector: u16) -> Delivery {
        Delivery::default()
    }

    fn reset(&mut self) {
        self.routes.lock().unwrap().fill(Route::Masked);
        self.events.iter().for_each(|event| drop(event.read()));
    }

    fn give_back(&mut self) {
        self.reset();
    }
}

/// Writes descriptor `index` of the table at `table`.
pub(super) fn describe(
    memory: &Memory,
    (table, index): (u64, u16),
    (address, length): (u64, u32),
    (flags, next): (u16, u16),
) {
    let at = GuestAddress(table + 16 * u64::from(index));
    let bytes = [
        &address.to_le_bytes()[..],
        &length.to_le_bytes(),
        &flags.to_le_bytes(),
        &next.to_le_bytes(),
    ];
    memory.write_slice(&bytes.concat(), at).unwrap();
}

/// Where a driver of tests has its one queue.
pub(super) const TABLE: u64 = 0x1000;
pub(super) const AVAILABLE: u64 = 0x2000;
pub(super) const USED: u64 = 0x3000;

/// Makes the chain that begins at `head` available, as number `count` since the start.
pub(super) fn offer(memory: &Memory, head: u16, count: u16, size: u16) {
    let slot = AVAILABLE + 4 + 2 * u64::from((count - 1) % size);
    memory.write_obj(head, GuestAddress(slot)).unwrap();
    memory.write_obj(count, GuestAddress(AVAILABLE + 2)).unwrap();
}

/// How many chains have been used so far.
pub(super) fn used(memory: &Memory) -> u16 {
    memory.read_obj(GuestAddress(USED + 2)).unwrap()
}

/// Head and length of entry `index` of the used ring.
pub(super) fn used_entry(memory: &Memory, index: u64) -> (u32, u32) {
    let at = USED + 4 + 8 * index;
    let read = |at| memory.read_obj(GuestAddress(at)).unwrap();
    (read(at), read(at + 4))
}
