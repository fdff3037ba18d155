//! PCI: slots, configuration space, base addresses, interrupt capabilities.
//!
//! Everything here is plain state or a small register window; what a function
//! really is (a passed-through device, a bridge) lives elsewhere.

pub mod bar;
pub mod bus;
pub mod capability;
pub mod config;
pub mod ecam;
pub mod host_bridge;
pub mod msi;
pub mod msix;
pub mod ports;

use std::fmt;

/// Device number on a segment's root bus. Its function is always 0: each passed-through
/// function gets a slot of its own, so that each can be unplugged alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// Slots on one bus (PCI 3.0, 3.2.2.3.2: five bits of device number).
    pub const COUNT: u8 = 32;

    /// A slot, if the number names one.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// The device number a guest sees.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// One of the guest's PCI segments (Linux: domains): a root bus of its own, which
/// is all that a segment has here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(u8);

impl Segment {
    /// Most segments of a machine: the tables that describe their slots fill the
    /// area that firmware leaves for such tables.
    pub const MOST: u8 = 16;

    /// A segment, if a machine may have one of this number.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::MOST { Some(Self(number)) } else { None }
    }

    /// The first `count` segments.
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (0..count.min(Self::MOST)).map(Self)
    }

    /// The number a guest sees.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a function is in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Which root bus.
    pub segment: Segment,
    /// Where on it.
    pub slot: Slot,
}

/// Segment, bus, device and function as the guest sees them.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:00:{:02x}.0", self.segment.0, self.slot.0)
    }
}

/// A PCI function as the bus drives it. Calls come from any vCPU thread; an
/// offset and length always lie inside the 4 KiB of configuration space and
/// inside one aligned doubleword.
pub trait Function: Send + Sync {
    /// Guest reads configuration space.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Guest writes configuration space.
    fn write_config(&self, offset: u16, data: &[u8]);
}
