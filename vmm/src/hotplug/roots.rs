//! The guest's PCI segments: a root bus each, with the registers by which its guest hears of slots, and windows for
//! BARs.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use devices::pci::bus::{Bus, Reservation, SlotError};
use devices::pci::{Address, Function, Segment, Slot};
use devices::platform::slots::Slots;
use devices::vfio::bars::GuestSpaces;

use super::stale::Stale;
use crate::config::device::NoSegment;

/// One segment.
pub struct Root {
    /// Who sits where.
    pub bus: Arc<Bus>,
    /// What the guest is told, and says, of its slots.
    pub slots: Arc<Slots>,
    /// Where its functions' BARs go.
    pub spaces: GuestSpaces,
}

/// All of them; the first is segment 0.
pub(super) struct Roots {
    roots: Vec<Root>,
    stale: Stale,
}

/// Why there is no place for a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The machine has fewer segments.
    #[error(transparent)]
    NoSegment(#[from] NoSegment),
    /// Not on this segment.
    #[error("PCI segment {0} has no place for it")]
    NoSlot(Segment, #[source] SlotError),
}

/// A place that is being kept, and where its function's BARs may go.
pub(super) struct Place {
    pub(super) address: Address,
    pub(super) reservation: Reservation,
    pub(super) spaces: GuestSpaces,
}

impl Roots {
    pub(super) fn new(roots: Vec<Root>) -> Self {
        Self { roots, stale: Stale::default() }
    }

    /// Takes `wanted`, or any slot; if need be one that the guest believes is in use.
    pub(super) fn reserve(
        &mut self,
        segment: Segment,
        wanted: Option<Slot>,
    ) -> Result<Place, PlaceError> {
        let none = NoSegment(segment, self.roots.len());
        let Root { bus, spaces, .. } = self.roots.get(usize::from(segment.number())).ok_or(none)?;
        let reservation = match bus.reserve(wanted) {
            Err(_) if self.stale.give_up(segment, wanted) => bus.reserve(wanted),
            outcome => outcome,
        };
        let reservation = reservation.map_err(|error| PlaceError::NoSlot(segment, error))?;
        let address = Address { segment, slot: reservation.slot() };
        Ok(Place { address, reservation, spaces: spaces.clone() })
    }

    /// Takes the function at `address` off its bus.
    pub(super) fn evict(&self, address: Address) -> Option<(Arc<dyn Function>, Reservation)> {
        self.root(address.segment)?.bus.evict(address.slot)
    }

    /// Tells the guest that there is something at `address`: last.
    pub(super) fn added(&self, address: Address) {
        self.each_of(address, Slots::added);
    }

    /// Asks the guest to let go there.
    pub(super) fn remove(&self, address: Address) {
        self.each_of(address, Slots::remove);
    }

    /// Forgets what was to be said of it.
    pub(super) fn forget(&self, address: Address) {
        self.each_of(address, Slots::forget);
    }

    /// Makes a guest look that has not yet; whether it had not.
    pub(super) fn remind(&self) -> bool {
        self.roots.iter().filter(|root| root.slots.remind()).count() > 0
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.roots.iter().for_each(|root| root.slots.reset());
        self.stale.clear();
    }

    /// Where the guest has let go since the last call.
    pub(super) fn take_ejected(&self) -> Vec<Address> {
        let numbered = self.numbered();
        let of = |(segment, root): (Segment, &Root)| {
            let slots = root.slots.take_ejected().filter_map(Slot::new);
            slots.map(move |slot| Address { segment, slot }).collect::<Vec<_>>()
        };
        numbered.flat_map(of).collect()
    }

    /// Devices that the guest believes in though they are gone.
    pub(super) fn stale(&mut self) -> &mut Stale {
        &mut self.stale
    }

    /// Slots that nobody sits in, on all segments.
    pub(super) fn free_slots(&self) -> usize {
        self.roots.iter().map(|root| root.bus.free_slots()).sum()
    }

    /// Descriptors that are readable when the guest has let go somewhere.
    pub(super) fn watched(&self) -> impl Iterator<Item = RawFd> {
        self.roots.iter().map(|root| root.slots.as_raw_fd())
    }

    fn each_of(&self, address: Address, say: impl Fn(&Slots, u8)) {
        if let Some(root) = self.root(address.segment) {
            say(&root.slots, address.slot.number());
        }
    }

    fn root(&self, segment: Segment) -> Option<&Root> {
        self.roots.get(usize::from(segment.number()))
    }

    fn numbered(&self) -> impl Iterator<Item = (Segment, &Root)> {
        (0..).map_while(Segment::new).zip(&self.roots)
    }
}

#[cfg(test)]
mod tests;
