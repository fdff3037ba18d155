//! Slots whose device was taken by force. The guest still believes in it, and would take whatever comes next to that
//! slot for the same function: Linux' acpiphp looks at a slot that is in use only to see whether it is empty.
//!
//! So such a slot stays reserved until the guest has let go there too (it goes on being asked) or reboots. Only when
//! there is no other is it given away.

use std::collections::BTreeMap;

use devices::pci::Slot;
use devices::pci::bus::Reservation;

/// Slots that are free on the host's side and in use on the guest's.
#[derive(Default)]
pub(super) struct Stale(BTreeMap<Slot, Option<Reservation>>);

impl Stale {
    /// The device in `slot` is being taken; its place comes later.
    pub(super) fn expect(&mut self, slot: Slot) {
        self.0.insert(slot, None);
    }

    /// The host has the device back that was in `place`. Unless the guest still believes in it, the slot is free.
    pub(super) fn keep(&mut self, place: Reservation) {
        if let Some(kept) = self.0.get_mut(&place.slot()) {
            *kept = Some(place);
        }
    }

    /// The guest has let go of `slot`, which is free if its device is gone. Returns whether the slot was stale.
    pub(super) fn settle(&mut self, slot: Slot) -> bool {
        self.0.remove(&slot).is_some()
    }

    /// Gives up `wanted`, or any one; returns whether a slot has become free.
    pub(super) fn give_up(&mut self, wanted: Option<Slot>) -> bool {
        let free = |(slot, place): (&Slot, &Option<Reservation>)| {
            let fits = wanted.is_none_or(|wanted| wanted == *slot);
            (fits && place.is_some()).then_some(*slot)
        };
        let found = self.0.iter().find_map(free);
        if let Some(slot) = found {
            log::warn!(
                "slot {slot} is given away though the guest has not let go of its last device"
            );
            self.0.remove(&slot);
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

    #[test]
    fn slot_is_kept_until_the_guest_lets_go_there() {
        let (bus, mut stale) = (Arc::new(Bus::default()), Stale::default());
        let place = bus.reserve(Some(SLOT)).unwrap();
        stale.expect(SLOT);
        stale.keep(place);
        assert!(bus.reserve(Some(SLOT)).is_err());

        assert!(stale.settle(SLOT));

        assert!(bus.reserve(Some(SLOT)).is_ok());
        assert!(!stale.settle(SLOT), "it is as any other slot again");
    }

    #[test]
    fn slot_is_free_at_once_when_the_guest_was_quicker_than_the_host() {
        let (bus, mut stale) = (Arc::new(Bus::default()), Stale::default());
        let place = bus.reserve(Some(SLOT)).unwrap();
        stale.expect(SLOT);
        stale.settle(SLOT);

        stale.keep(place);

        assert!(bus.reserve(Some(SLOT)).is_ok());
    }

    #[test]
    fn slot_is_given_up_when_its_device_is_gone_and_it_is_wanted() {
        let (bus, mut stale) = (Arc::new(Bus::default()), Stale::default());
        let place = bus.reserve(Some(SLOT)).unwrap();
        stale.expect(SLOT);
        assert!(!stale.give_up(None), "the host has still to close its device");
        stale.keep(place);
        assert!(!stale.give_up(Slot::new(6)), "that one was never stale");

        assert!(stale.give_up(Some(SLOT)));

        assert!(bus.reserve(Some(SLOT)).is_ok());
    }
}
