//! Walks over capability lists (PCI 3.0, 6.7; PCI Express 4.0, 7.6.3).
//!
//! The lists come from a device: they may loop, point into the header or past
//! the end. Every walk is bounded and visits an offset at most once.

use crate::pci::config::{self, word};

/// Message-signalled interrupts.
pub const MSI: u8 = 0x05;
/// Power management.
pub const POWER: u8 = 0x01;
/// Enhanced allocation: fixed addresses, which a guest must not see.
pub const ENHANCED_ALLOCATION: u8 = 0x14;
/// PCI Express.
pub const EXPRESS: u8 = 0x10;
/// Message-signalled interrupts, extended.
pub const MSIX: u8 = 0x11;
/// Advanced features, for conventional functions.
pub const ADVANCED_FEATURES: u8 = 0x13;

/// Alternative routing of function numbers: no bridge of ours forwards it.
pub const ARI: u16 = 0x0e;
/// Single-root I/O virtualisation: virtual functions are the host's to make.
pub const SRIOV: u16 = 0x10;
/// Resizable BARs: the size is the host's to choose.
pub const RESIZABLE_BAR: u16 = 0x15;
/// Resizable BARs of virtual functions.
pub const VF_RESIZABLE_BAR: u16 = 0x24;

/// Most capabilities that fit between the header and the end, four bytes each.
const MOST: usize = (config::CONVENTIONAL_SIZE - config::HEADER_END as usize) / 4;
/// The same for the extended space; no real list is a tenth as long.
const MOST_EXTENDED: usize = (config::EXPRESS_SIZE - config::CONVENTIONAL_SIZE) / 8;
/// Where the extended list begins.
pub const EXTENDED_START: u16 = 0x100;

/// One capability of the conventional list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Capability ID.
    pub id: u8,
    /// Offset of its first byte.
    pub offset: u16,
}

/// One capability of the extended list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// Extended capability ID.
    pub id: u16,
    /// Offset of its header.
    pub offset: u16,
}

/// The conventional list of `space`, in order.
pub fn list(space: &[u8]) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    if word(space, config::STATUS) & config::STATUS_CAPABILITIES == 0 {
        return found;
    }
    let pointer = |at: u16| u16::from(word(space, at).to_le_bytes()[0] & !3);
    let mut offset = pointer(config::CAPABILITIES);
    while offset >= config::HEADER_END
        && found.len() < MOST
        && !found.iter().any(|seen| seen.offset == offset)
    {
        let [id, _] = word(space, offset).to_le_bytes();
        found.push(Capability { id, offset });
        offset = pointer(offset + 1);
    }
    found
}

/// The extended list of `space`, in order; empty for a conventional function.
pub fn extended_list(space: &[u8]) -> Vec<Extended> {
    let mut found: Vec<Extended> = Vec::new();
    let mut offset = EXTENDED_START;
    while offset >= EXTENDED_START
        && usize::from(offset) + 4 <= space.len()
        && found.len() < MOST_EXTENDED
        && !found.iter().any(|seen| seen.offset == offset)
    {
        let header = config::dword(space, offset);
        if header == 0 || header == u32::MAX {
            break;
        }
        let [low, high, _, _] = header.to_le_bytes();
        found.push(Extended { id: u16::from_le_bytes([low, high]), offset });
        offset = (word(space, offset + 2) >> 4) & !3;
    }
    found
}

/// Bytes that a capability of the extended list occupies, for those a guest
/// must not see; `None` for the others.
pub fn hidden_length(space: &[u8], capability: Extended) -> Option<usize> {
    let to_next = |most: usize| {
        let next = usize::from((word(space, capability.offset + 2) >> 4) & !3);
        let room = next.saturating_sub(usize::from(capability.offset));
        if room == 0 { most } else { room.min(most) }
    };
    match capability.id {
        ARI => Some(8),
        SRIOV => Some(0x40),
        // A header and up to six pairs of registers.
        RESIZABLE_BAR | VF_RESIZABLE_BAR => Some(to_next(4 + 6 * 8)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(bytes: &[(usize, u8)]) -> Vec<u8> {
        let mut space = vec![0; 0x1000];
        space[0x06] = 0x10;
        for (at, byte) in bytes {
            space[*at] = *byte;
        }
        space
    }

    #[test]
    fn list_is_followed_in_order() {
        let space = space(&[(0x34, 0x40), (0x40, 1), (0x41, 0x50), (0x50, 0x11), (0x51, 0)]);

        assert_eq!(
            list(&space),
            [Capability { id: 1, offset: 0x40 }, Capability { id: 0x11, offset: 0x50 }]
        );
    }

    #[test]
    fn looping_list_ends() {
        let space = space(&[(0x34, 0x40), (0x40, 1), (0x41, 0x50), (0x50, 5), (0x51, 0x40)]);

        assert_eq!(list(&space).len(), 2);
    }

    #[test]
    fn list_into_the_header_or_without_the_status_bit_is_empty() {
        let mut odd = space(&[(0x34, 0x10)]);
        assert_eq!(list(&odd), []);

        odd[0x34] = 0x40;
        odd[0x06] = 0;
        assert_eq!(list(&odd), []);
    }

    #[test]
    fn extended_list_loops_end_and_conventional_space_has_none() {
        // 0x100: SR-IOV v1, next 0x140; 0x140: ARI v1, next 0x100.
        let space = space(&[
            (0x100, 0x10),
            (0x102, 0x01),
            (0x103, 0x14),
            (0x140, 0x0e),
            (0x142, 0x01),
            (0x143, 0x10),
        ]);

        let ids: Vec<u16> = extended_list(&space).iter().map(|c| c.id).collect();

        assert_eq!(ids, [SRIOV, ARI]);
        assert_eq!(extended_list(&space[..0x100]), []);
    }

    #[test]
    fn every_single_byte_pattern_terminates() {
        for byte in 0..=u8::MAX {
            let space = vec![byte; 0x1000];
            assert!(list(&space).len() <= MOST);
            assert!(extended_list(&space).len() <= MOST_EXTENDED);
        }
    }
}
