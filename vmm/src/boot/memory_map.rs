//! What the kernel is told about its physical memory (the e820 map).

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::HIGH_MEMORY;
use crate::memory::layout;
use crate::memory::ram::Memory;

/// Start of what a PC's firmware keeps to itself below 1 MiB.
const LOW_RESERVED: u64 = 0x9_fc00;

/// What an entry of the map is. Values of both e820 and PVH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To use.
    Ram = 1,
    /// To leave alone.
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: Kind,
}

/// The map, in ascending order: RAM, the firmware's part below 1 MiB, and ECAM,
/// which Linux only uses when it is reserved.
pub(super) fn map(memory: &Memory) -> Vec<Piece> {
    let piece = |start, end: u64, kind| Piece { start, size: end.saturating_sub(start), kind };
    let ecam = layout::ECAM;
    let mut map = vec![
        piece(0, LOW_RESERVED, Kind::Ram),
        piece(LOW_RESERVED, HIGH_MEMORY, Kind::Reserved),
        piece(HIGH_MEMORY, low_end(memory), Kind::Ram),
        piece(ecam.start, ecam.end, Kind::Reserved),
    ];
    let high = memory.iter().filter(|region| region.start_addr().0 >= layout::HIGH_RAM_START);
    map.extend(high.map(|region| {
        let start = region.start_addr().0;
        piece(start, start + region.len(), Kind::Ram)
    }));
    map
}

/// End of the RAM below the hole.
pub(super) fn low_end(memory: &Memory) -> u64 {
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}
