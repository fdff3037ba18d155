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

/// Device number on the root bus. Its function is always 0: each passed-through
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

/// Segment, bus, device and function as the guest sees them.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000:00:{:02x}.0", self.0)
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
