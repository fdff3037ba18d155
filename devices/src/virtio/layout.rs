//! Where things are: the parts of the BAR, and configuration space with its list of
//! capabilities (virtio 1.2, 4.1.4). Numbers only.

use crate::pci::capability;
use crate::pci::config;
use crate::virtio::Identity;

/// Vendor of all virtio devices (4.1.2).
const VENDOR: u16 = 0x1af4;
/// First device ID of those that are not transitional (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// Of a device that is not transitional, at least (4.1.2.1).
const REVISION: u32 = 1;

/// The only BAR.
pub(super) const BAR: usize = 0;
/// Bytes of the BAR.
pub(super) const BAR_SIZE: u64 = 0x8000;
/// Bytes from one queue's notification address to the next one's.
pub(super) const NOTIFY_STEP: u64 = 4;

/// Vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 0x09;
/// Bytes of a virtio capability without what some append.
const PLAIN: u8 = 16;

// Capabilities, one after the other in this order.
const COMMON_AT: u16 = 0x40;
const NOTIFY_AT: u16 = 0x50;
const ISR_AT: u16 = 0x64;
const DEVICE_AT: u16 = 0x74;
/// The capability through which firmware reaches the BAR without decoding it (4.1.4.9).
pub(super) const WINDOW_AT: u16 = 0x84;
/// The MSI-X capability.
pub(super) const MSIX_AT: u16 = 0x98;
/// Within [`WINDOW_AT`]: BAR number, in the first byte of a doubleword.
pub(super) const WINDOW_BAR: u16 = WINDOW_AT + 4;
/// Within [`WINDOW_AT`]: offset in the BAR.
pub(super) const WINDOW_OFFSET: u16 = WINDOW_AT + 8;
/// Within [`WINDOW_AT`]: 1, 2 or 4 bytes.
pub(super) const WINDOW_LENGTH: u16 = WINDOW_AT + 12;
/// Within [`WINDOW_AT`]: what is read or written there.
pub(super) const WINDOW_DATA: u16 = WINDOW_AT + 16;

/// A part of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Common configuration (4.1.4.3).
    Common,
    /// Interrupt status (4.1.4.5).
    Isr,
    /// The device's own configuration (4.1.4.6).
    Device,
    /// Notifications, a doubleword a queue (4.1.4.4).
    Notify,
    /// The MSI-X table.
    Table,
    /// MSI-X Pending bits.
    Pending,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Common, Self::Isr, Self::Device, Self::Notify, Self::Table, Self::Pending];

    /// Where it begins, and bytes.
    pub(super) const fn place(self) -> (u64, u64) {
        match self {
            Self::Common => (0x0000, 0x1000),
            Self::Isr => (0x1000, 0x1000),
            Self::Device => (0x2000, 0x1000),
            Self::Notify => (0x3000, 0x1000),
            Self::Table => (0x4000, 0x2000),
            Self::Pending => (0x6000, 0x1000),
        }
    }

    /// Which part `offset` is in, and where in it.
    pub(super) fn at(offset: u64) -> Option<(Self, u64)> {
        Self::ALL.into_iter().find_map(|part| {
            let (start, size) = part.place();
            let within = offset.checked_sub(start)?;
            (within < size).then_some((part, within))
        })
    }
}

/// Configuration space as a driver finds it; what changes later is not in here.
pub(super) fn configuration_space(identity: Identity) -> Box<[u8]> {
    let mut space = Image(vec![0; config::CONVENTIONAL_SIZE]);
    space.put(config::VENDOR_ID, &VENDOR.to_le_bytes());
    let device = FIRST_DEVICE.saturating_add(identity.kind);
    space.put(config::VENDOR_ID + 2, &device.to_le_bytes());
    space.put(config::STATUS, &config::STATUS_CAPABILITIES.to_le_bytes());
    space.put(config::CLASS_REVISION, &(identity.class << 8 | REVISION).to_le_bytes());
    // Subsystem vendor and ID: 0x40 or more (4.1.2.1).
    space.put(0x2c, &VENDOR.to_le_bytes());
    space.put(0x2e, &device.to_le_bytes());
    let [first, _] = COMMON_AT.to_le_bytes();
    space.put(config::CAPABILITIES, &[first]);
    space.part(COMMON_AT, NOTIFY_AT, (1, Part::Common));
    space.part(NOTIFY_AT, ISR_AT, (2, Part::Notify));
    space.part(ISR_AT, DEVICE_AT, (3, Part::Isr));
    space.part(DEVICE_AT, WINDOW_AT, (4, Part::Device));
    space.capability(WINDOW_AT, MSIX_AT, (5, PLAIN + 4));
    let [step, ..] = NOTIFY_STEP.to_le_bytes();
    space.put(NOTIFY_AT + 2, &[PLAIN + 4]);
    space.put(NOTIFY_AT + u16::from(PLAIN), &[step]);
    // Table and Pending bits: offset, and the BAR in the low three bits (PCI 3.0, 6.8.2).
    space.put(MSIX_AT, &[capability::MSIX, 0]);
    for (at, part) in [(MSIX_AT + 4, Part::Table), (MSIX_AT + 8, Part::Pending)] {
        let [a, b, c, d, ..] = part.place().0.to_le_bytes();
        space.put(at, &[a, b, c, d]);
    }
    space.0.into()
}

struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: u16, bytes: &[u8]) {
        let at = usize::from(at);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A capability's head; `next` is the offset of the one after it.
    fn capability(&mut self, at: u16, next: u16, (kind, length): (u8, u8)) {
        let [next, _] = next.to_le_bytes();
        self.put(at, &[VENDOR_SPECIFIC, next, length, kind]);
    }

    /// A capability that says where a part of the BAR is.
    fn part(&mut self, at: u16, next: u16, (kind, part): (u8, Part)) {
        self.capability(at, next, (kind, PLAIN));
        let (start, size) = part.place();
        for (at, value) in [(at + 8, start), (at + 12, size)] {
            let [a, b, c, d, ..] = value.to_le_bytes();
            self.put(at, &[a, b, c, d]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::MOST_QUEUES;

    #[test]
    fn list_has_five_of_virtio_and_msix() {
        let space = configuration_space(Identity { kind: 2, class: 0x01_8000 });

        let list: Vec<(u8, u16)> =
            capability::list(&space).iter().map(|found| (found.id, found.offset)).collect();

        assert_eq!(
            list,
            [(9, 0x40), (9, 0x50), (9, 0x64), (9, 0x74), (9, 0x84), (capability::MSIX, 0x98)]
        );
        let kinds = list[..5].iter().map(|(_, at)| space[usize::from(*at) + 3]);
        assert_eq!(kinds.collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn identity_is_that_of_a_modern_device() {
        let space = configuration_space(Identity { kind: 2, class: 0x01_8000 });

        assert_eq!(config::dword(&space, config::VENDOR_ID), 0x1042_1af4);
        assert_eq!(config::dword(&space, config::CLASS_REVISION), 0x0180_0001);
    }

    #[test]
    fn parts_are_disjoint_and_large_enough_for_all_queues() {
        let mut end = 0;
        for part in Part::ALL {
            let (start, size) = part.place();
            assert_eq!(start, end);
            end = start + size;
        }
        assert!(end <= BAR_SIZE);
        let queues = u64::from(MOST_QUEUES);
        assert!(queues * NOTIFY_STEP <= Part::Notify.place().1);
        assert!((queues + 1) * crate::pci::msix::ENTRY_SIZE <= Part::Table.place().1);
        assert_eq!(Part::at(0x3004), Some((Part::Notify, 4)));
        assert_eq!(Part::at(0x7000), None);
    }
}
