//! Who sits in which slot of a segment's root bus.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pci::host_bridge::HostBridge;
use crate::pci::{Function, Slot};

/// Why a slot could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The client named a slot that is in use.
    #[error("PCI slot {} is taken; choose another or leave pci_device_id out", .0.number())]
    Taken(Slot),
    /// Nothing left to choose from.
    #[error("all its {} slots are taken; remove a device, or give another pci_segment", Slot::COUNT - 1)]
    Full,
}

/// A root bus. Shared by the event loop, which fills slots, and the vCPU
/// threads, which reach functions through them. A slot's lock is held for the
/// look-up only.
pub struct Bus {
    slots: [Mutex<Place>; Slot::COUNT as usize],
}

#[derive(Default)]
enum Place {
    #[default]
    Empty,
    Reserved,
    Occupied(Arc<dyn Function>),
}

/// A slot kept free for a function under construction; dropping it lets go.
#[must_use]
pub struct Reservation {
    bus: Arc<Bus>,
    slot: Slot,
}

impl Default for Bus {
    /// An empty bus, except for slot 0, where the host bridge sits.
    fn default() -> Self {
        let bus = Self { slots: Default::default() };
        *bus.place(Slot(0)) = Place::Occupied(Arc::new(HostBridge::default()));
        bus
    }
}

impl Bus {
    /// Takes `wanted`, or the first free slot.
    pub fn reserve(self: &Arc<Self>, wanted: Option<Slot>) -> Result<Reservation, SlotError> {
        let slot = match wanted {
            Some(slot) if self.take(slot) => slot,
            Some(slot) => return Err(SlotError::Taken(slot)),
            None => {
                let mut slots = (0..Slot::COUNT).map(Slot);
                slots.find(|slot| self.take(*slot)).ok_or(SlotError::Full)?
            }
        };
        Ok(Reservation { bus: Arc::clone(self), slot })
    }

    /// The function in `slot`, if there is one.
    pub fn function(&self, slot: Slot) -> Option<Arc<dyn Function>> {
        match &*self.place(slot) {
            Place::Occupied(function) => Some(Arc::clone(function)),
            Place::Empty | Place::Reserved => None,
        }
    }

    /// Takes the function out; the slot stays reserved until the returned
    /// reservation drops. A vCPU may still be inside the function.
    pub fn evict(self: &Arc<Self>, slot: Slot) -> Option<(Arc<dyn Function>, Reservation)> {
        let mut place = self.place(slot);
        match std::mem::replace(&mut *place, Place::Reserved) {
            Place::Occupied(function) => {
                Some((function, Reservation { bus: Arc::clone(self), slot }))
            }
            other @ (Place::Empty | Place::Reserved) => {
                *place = other;
                None
            }
        }
    }

    /// How many slots nobody sits in or has reserved.
    pub fn free_slots(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(*lock(slot), Place::Empty)).count()
    }

    fn take(&self, slot: Slot) -> bool {
        let mut place = self.place(slot);
        let free = matches!(*place, Place::Empty);
        if free {
            *place = Place::Reserved;
        }
        free
    }

    fn place(&self, slot: Slot) -> MutexGuard<'_, Place> {
        lock(&self.slots[usize::from(slot.0)])
    }
}

fn lock(place: &Mutex<Place>) -> MutexGuard<'_, Place> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reservation {
    /// Which slot is held.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Puts the finished function in. From here on the guest can find it.
    pub fn occupy(self, function: Arc<dyn Function>) -> Slot {
        *self.bus.place(self.slot) = Place::Occupied(function);
        self.slot
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut place = self.bus.place(self.slot);
        if matches!(*place, Place::Reserved) {
            *place = Place::Empty;
        }
    }
}

#[cfg(test)]
mod tests;
