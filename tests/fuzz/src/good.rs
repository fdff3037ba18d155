//! A function in good order: MSI of 32 vectors with masks, MSI-X, power management, PCI Express with
//! a function-level reset, an interrupt pin, a ROM, and BARs of each kind.

use devices::vfio::config::Location;

use crate::kernel::{CONFIG, NO_RESIZE, Said};

/// Most vectors of its table.
pub const MOST_VECTORS: u16 = 40;
/// Where its capabilities are.
pub const POWER: u16 = 0x40;
/// MSI.
pub const MSI: u16 = 0x50;
/// MSI-X.
pub const MSIX: u16 = 0x70;
/// PCI Express.
pub const EXPRESS: u16 = 0x80;
/// The MSI-X table: in the 64-bit BAR, not at its start.
pub const TABLE: Location = Location { bar: 2, offset: 0x2000 };
/// The Pending bits, in a BAR of their own.
pub const PENDING: Location = Location { bar: 4, offset: 0x800 };

const READ_WRITE_MAP: u32 = 7;
const READ_WRITE: u32 = 3;
/// 64-bit, maskable, 32 vectors.
const MSI_CONTROL: u16 = 0x18a;

/// The function, with a table of `vectors`. `frozen`: the host cannot add vectors.
pub fn function(vectors: u16, frozen: bool) -> Said {
    let flags = if frozen { NO_RESIZE } else { 0 };
    let mut said = Said { config: config(vectors), resettable: true, ..Said::default() };
    let count = vectors.into();
    said.interrupts = [(0, 1), (NO_RESIZE, 32), (flags, count), (0, 1), (0, 1)];
    for (index, size, flags) in [
        (0, 0x1000, READ_WRITE_MAP),
        (1, 0x40, READ_WRITE),
        (2, 0x1_0000, READ_WRITE_MAP),
        (4, 0x4000, READ_WRITE_MAP),
        (6, 0x1_0000, 1),
        (CONFIG, 0x1000, READ_WRITE),
    ] {
        let start = (index as u32) << 8;
        said.regions[index] = Some(vec![32, flags, index as u32, 0, size, 0, 0, start]);
    }
    said
}

fn config(vectors: u16) -> Vec<u8> {
    let mut config = vec![0; 0x1000];
    let mut put = |at: u16, bytes: &[u8]| {
        config[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
    };
    put(0, &[0x86, 0x80, 0xd3, 0x10, 0, 0, 0x10, 0]);
    put(0x14, &[1]);
    put(0x18, &[0xc]);
    put(0x34, &[0x40]);
    put(0x3d, &[1]);
    put(POWER, &[1, 0x50, 3, 0]);
    put(MSI, &[5, 0x70]);
    put(MSI + 2, &MSI_CONTROL.to_le_bytes());
    put(MSIX, &[0x11, 0x80]);
    put(MSIX + 2, &(vectors - 1).to_le_bytes());
    put(MSIX + 4, &location(TABLE));
    put(MSIX + 8, &location(PENDING));
    put(EXPRESS, &[0x10, 0, 2, 0, 0, 0, 0, 0x10]);
    config
}

fn location(at: Location) -> [u8; 4] {
    (at.offset as u32 | at.bar as u32).to_le_bytes()
}
