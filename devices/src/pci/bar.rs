//! Base address registers as pure state (PCI 3.0, 6.2.5): the guest writes,
//! placements come out.
//!
//! Every BAR starts at address zero, unplaced: the guest's own allocator gives
//! each an address, both at boot and on hot-plug.

use std::ops::Range;

use crate::pci::config::{COMMAND_IO, COMMAND_MEMORY};

/// BARs 0 to 5, and the expansion ROM as number 6.
pub const COUNT: usize = 7;
/// Index of the expansion ROM.
pub const ROM: usize = 6;

const IO_FLAG: u32 = 1;
const MEMORY64_FLAG: u32 = 2 << 1;
const PREFETCHABLE_FLAG: u32 = 1 << 3;
const IO_MASK: u32 = !3;
const MEMORY_MASK: u32 = !0xf;
/// ROM addresses have 2 KiB granularity; bit 0 enables the decoder.
const ROM_MASK: u32 = !0x7ff;
const ROM_ENABLE: u32 = 1;

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ports.
    Io,
    /// Memory anywhere below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes the next register too.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// The expansion ROM.
    Rom,
}

/// Which of the guest's two address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Port I/O.
    Io,
    /// Guest-physical memory.
    Memory,
}

/// Where a BAR answers at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The address space.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

/// Addresses that the host bridge forwards; a BAR outside them answers nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apertures {
    /// Ports.
    pub io: Range<u64>,
    /// Memory below 4 GiB.
    pub mem32: Range<u64>,
    /// Memory above all RAM.
    pub mem64: Range<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    kind: Kind,
    size: u64,
    address: u64,
    rom_enabled: bool,
}

/// The registers of one function.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    bars: [Option<Bar>; COUNT],
}

impl Bars {
    /// No BAR at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares BAR `index` ([`ROM`] for the ROM) of `size` bytes, which is
    /// rounded up to a power of two. Indices out of range are ignored.
    pub fn declare(&mut self, index: usize, kind: Kind, size: u64) {
        let size = size.checked_next_power_of_two().unwrap_or(1 << 63).max(4);
        if let Some(bar) = self.bars.get_mut(index) {
            *bar = Some(Bar { kind, size, address: 0, rom_enabled: false });
        }
    }

    /// What the guest reads in register `index`.
    pub fn read(&self, index: usize) -> u32 {
        match (self.bar(index), self.below(index)) {
            (Some(bar), _) => bar.low(),
            (None, Some(bar)) => high(bar.address),
            (None, None) => 0,
        }
    }

    /// Guest writes the whole of register `index`.
    pub fn write(&mut self, index: usize, value: u32) {
        let upper = self.bar(index).is_none();
        // The ROM's register is nobody's upper half.
        let below = index.checked_sub(1).filter(|_| index < ROM);
        let target = if upper { below } else { Some(index) };
        let Some(Some(bar)) = target.and_then(|index| self.bars.get_mut(index)) else { return };
        if upper && matches!(bar.kind, Kind::Memory64 { .. }) {
            bar.address = (u64::from(value) << 32 | u64::from(low(bar.address))) & bar.mask();
        } else if !upper {
            let kept = bar.address & !u64::from(u32::MAX);
            bar.address = (kept | u64::from(value & bar.kind.address_mask())) & bar.mask();
            bar.rom_enabled = bar.kind == Kind::Rom && value & ROM_ENABLE != 0;
        }
    }

    /// Where each BAR answers under this command register and these windows.
    pub fn placements(&self, command: u16, apertures: &Apertures) -> [Option<Placement>; COUNT] {
        self.bars.map(|bar| bar.and_then(|bar| bar.placement(command, apertures)))
    }

    /// Back to unplaced, as after a reset.
    pub fn reset(&mut self) {
        for bar in self.bars.iter_mut().flatten() {
            bar.address = 0;
            bar.rom_enabled = false;
        }
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// The 64-bit BAR of which register `index` is the upper half.
    fn below(&self, index: usize) -> Option<Bar> {
        let bar = self.bar(index.checked_sub(1)?)?;
        (matches!(bar.kind, Kind::Memory64 { .. }) && index < ROM).then_some(bar)
    }
}

impl Kind {
    fn address_mask(self) -> u32 {
        match self {
            Self::Io => IO_MASK,
            Self::Memory32 { .. } | Self::Memory64 { .. } => MEMORY_MASK,
            Self::Rom => ROM_MASK,
        }
    }

    fn flags(self) -> u32 {
        let prefetch = |on| if on { PREFETCHABLE_FLAG } else { 0 };
        match self {
            Self::Io => IO_FLAG,
            Self::Memory32 { prefetchable } => prefetch(prefetchable),
            Self::Memory64 { prefetchable } => MEMORY64_FLAG | prefetch(prefetchable),
            Self::Rom => 0,
        }
    }
}

impl Bar {
    fn low(&self) -> u32 {
        let enable = if self.rom_enabled { ROM_ENABLE } else { 0 };
        low(self.address) | self.kind.flags() | enable
    }

    /// Address bits that the BAR implements.
    fn mask(&self) -> u64 {
        !(self.size - 1)
    }

    fn placement(self, command: u16, apertures: &Apertures) -> Option<Placement> {
        let (space, enabled) = match self.kind {
            Kind::Io => (Space::Io, command & COMMAND_IO != 0),
            Kind::Memory32 { .. } | Kind::Memory64 { .. } => {
                (Space::Memory, command & COMMAND_MEMORY != 0)
            }
            Kind::Rom => (Space::Memory, command & COMMAND_MEMORY != 0 && self.rom_enabled),
        };
        let end = self.address.checked_add(self.size)?;
        let inside = |window: &Range<u64>| window.start <= self.address && end <= window.end;
        let forwarded = match space {
            Space::Io => inside(&apertures.io),
            Space::Memory => inside(&apertures.mem32) || inside(&apertures.mem64),
        };
        (enabled && forwarded).then_some(Placement { space, base: self.address, size: self.size })
    }
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

#[cfg(test)]
mod tests;
