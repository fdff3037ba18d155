//! Slots whose device was taken by force. The guest still believes in it, and would take whatever comes next to that
//! slot for the same function: Linux' acpiphp looks at a slot that is in use only to see whether it is empty.
//!
//! So such a slot stays reserved until the guest has let go there too (it goes on being asked) or reboots. Only when
//! there is no other is it given away.

use std::collections::BTreeMap;

use devices::pci::bus::Reservation;
use devices::pci::{Address, Segment, Slot};

/// Slots that are free on the host's side and in use on the guest's.
#[derive(Default)]
pub(super) struct Stale(BTreeMap<Address, Option<Reservation>>);

impl Stale {
    /// The device at `address` is being taken; its place comes later.
    pub(super) fn expect(&mut self, address: Address) {
        self.0.insert(address, None);
    }

    /// The host has the device back that was at `address`. Unless the guest still believes in it, the slot is free.
    pub(super) fn keep(&mut self, address: Address, place: Reservation) {
        if let Some(kept) = self.0.get_mut(&address) {
            *kept = Some(place);
        }
    }

    /// The guest has let go at `address`, which is free if its device is gone. Returns whether that was stale.
    pub(super) fn settle(&mut self, address: Address) -> bool {
        self.0.remove(&address).is_some()
    }

    /// Gives up `wanted`, or any slot of a segment; returns whether one has become free.
    pub(super) fn give_up(&mut self, segment: Segment, wanted: Option<Slot>) -> bool {
        let free = |(address, place): (&Address, &Option<Reservation>)| {
            let fits = wanted.is_none_or(|wanted| wanted == address.slot);
            (address.segment == segment && fits && place.is_some()).then_some(*address)
        };
        let found = self.0.iter().find_map(free);
        if let Some(address) = found {
            log::warn!(
                "{address} is given away though the guest has not let go of its last device"
            );
            self.0.remove(&address);
        }
        found.is_some()
    }

    /// The guest has forgotten everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use devices::pci::bus::Bus;

    use super::*;

    const SLOT: Slot = Slot::new(5).unwrap();
    const SEGMENT: Segment = Segment::new(1).unwrap();
    const ADDRESS: Address = Address { segment: SEGMENT, slot: SLOT };

    #[test]
    fn slot_is_kept_until_the_guest_lets_go_there() {
        let (bus, mut stale) = (Arc::new(Bus::default()), Stale::default());
        let place = bus.reserve(Some(SLOT)).unwrap();
        stale.expect(ADDRESS);
        stale.keep(ADDRESS, place);
        assert!(bus.reserve(Some(SLOT)).is_err());

        assert!(stale.settle(ADDRESS));

        assert!(bus.reserve(Some(SLOT)).is_ok());
        assert!(!stale.settle(ADDRESS), "it is as any other slot again");
    }

    #[test]
    fn slot_is_free_at_once_when_the_guest_was_quicker_than_the_host() {
        let (bus, mut stale) = (Arc::new(Bus::default()), Stale::default());
        let place = bus.reserve(Some(SLOT)).unwrap();
        stale.expect(ADDRESS);
        stale.settle(ADDRESS);

        stale.keep(ADDRESS, place);

        assert!(bus.reserve(Some(SLOT)).is_ok());
    }

    #[test]
    fn slot_is_given_up_when_its_device_is_gone_and_it_is_wanted() {
        let (bus, mut stale) = (Arc::new(Bus::default()), Stale::default());
        let place = bus.reserve(Some(SLOT)).unwrap();
        stale.expect(ADDRESS);
        assert!(!stale.give_up(SEGMENT, None), "the host has still to close its device");
        stale.keep(ADDRESS, place);
        assert!(!stale.give_up(SEGMENT, Slot::new(6)), "that one was never stale");
        assert!(!stale.give_up(Segment::default(), None), "that is another bus");

        assert!(stale.give_up(SEGMENT, Some(SLOT)));

        assert!(bus.reserve(Some(SLOT)).is_ok());
    }
}
