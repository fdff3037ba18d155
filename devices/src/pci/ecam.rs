//! The memory-mapped window on configuration space (PCI Express 4.0, 7.2.2).

use std::sync::Arc;

use crate::io::Access;
use crate::pci::Slot;
use crate::pci::bus::Bus;

const DEVICE_SHIFT: u32 = 15;
const FUNCTION_SHIFT: u32 = 12;
const REGISTER_MASK: u64 = 0xfff;

/// ECAM of bus 0: 1 MiB.
pub struct Ecam(Arc<Bus>);

impl Ecam {
    /// The window on `bus`.
    pub fn new(bus: Arc<Bus>) -> Self {
        Self(bus)
    }
}

impl Access for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let found = target(offset).filter(|(_, register)| fits(*register, data.len()));
        match found.and_then(|(slot, register)| Some((self.0.function(slot)?, register))) {
            Some((function, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let found = target(offset).filter(|(_, register)| fits(*register, data.len()));
        if let Some((slot, register)) = found
            && let Some(function) = self.0.function(slot)
        {
            function.write_config(register, data);
        }
    }
}

/// Whether an access stays inside one aligned doubleword, as every access that
/// the specification defines does.
pub(crate) fn fits(register: u16, length: usize) -> bool {
    matches!(length, 1 | 2 | 4) && usize::from(register % 4) + length <= 4
}

/// Slot and register behind an offset; none for functions other than 0.
fn target(offset: u64) -> Option<(Slot, u16)> {
    let slot = Slot::new(u8::try_from(offset >> DEVICE_SHIFT).ok()?)?;
    let function = (offset >> FUNCTION_SHIFT) & 7;
    let register = u16::try_from(offset & REGISTER_MASK).ok()?;
    (function == 0).then_some((slot, register))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_names_slot_and_register() {
        let slot = Slot::new(3).unwrap();

        assert_eq!(target(3 << 15 | 0x104), Some((slot, 0x104)));
        assert_eq!(target(3 << 15 | 1 << 12), None, "function 1");
        assert_eq!(target(32 << 15), None, "past bus 0");
    }

    #[test]
    fn host_bridge_answers_and_empty_slots_read_as_ones() {
        let ecam = Ecam::new(Arc::default());
        let (mut bridge, mut empty) = ([0; 4], [0; 4]);

        ecam.read(0, &mut bridge);
        ecam.read(5 << 15, &mut empty);

        assert_ne!(bridge, [0xff; 4]);
        assert_eq!(empty, [0xff; 4]);
    }

    #[test]
    fn odd_accesses_read_as_ones() {
        let ecam = Ecam::new(Arc::default());

        for (offset, length) in [(3, 2), (2, 4), (0, 8), (0, 3)] {
            let mut data = vec![0; length];
            ecam.read(offset, &mut data);
            assert_eq!(data, vec![0xff; length], "{length} bytes at {offset}");
        }
    }
}
