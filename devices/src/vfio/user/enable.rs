//! The enable bits of a function's own MSI and MSI-X. The guest's never reach it; of a
//! real function the kernel sets them when VFIO's index goes on, and a server may look
//! at its own before it interrupts.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};

use super::server::Server;
use crate::pci::capability;
use crate::pci::config::CONVENTIONAL_SIZE;

/// Message control, from the start of either capability.
const CONTROL: u64 = 2;
/// MSI-X is on.
const MSIX_ENABLE: u16 = 1 << 15;
/// MSI is on, and how many messages of it, as a power of two.
const MSI_ENABLE: u16 = 1;
const MSI_COUNT_SHIFT: u32 = 4;
const MSI_COUNT: u16 = 7 << MSI_COUNT_SHIFT;

/// Which are on, and where the capabilities are.
#[derive(Debug, Default)]
pub(super) struct Enables {
    /// MSI, then MSI-X.
    on: Mutex<[bool; 2]>,
    capabilities: OnceLock<[Option<u64>; 2]>,
}

impl Enables {
    /// Interrupt index `index` has `count` vectors wired, or is off.
    pub(super) fn set(&self, server: &Server, index: u32, count: Option<u32>) -> io::Result<()> {
        let which = match index {
            VFIO_PCI_MSI_IRQ_INDEX => 0,
            VFIO_PCI_MSIX_IRQ_INDEX => 1,
            _ => return Ok(()),
        };
        let mut on = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        if on[which] == count.is_some() {
            return Ok(());
        }
        if let Some(capability) = self.capabilities(server)?[which] {
            let (region, at) = (VFIO_PCI_CONFIG_REGION_INDEX, capability + CONTROL);
            let mut control = [0; 2];
            server.read(region, at, &mut control)?;
            let control = control_with(which, u16::from_le_bytes(control), count);
            server.write(region, at, &control.to_le_bytes())?;
        }
        on[which] = count.is_some();
        Ok(())
    }

    /// Where the capabilities are, read once.
    fn capabilities(&self, server: &Server) -> io::Result<[Option<u64>; 2]> {
        if let Some(known) = self.capabilities.get() {
            return Ok(*known);
        }
        let mut space = vec![0; CONVENTIONAL_SIZE];
        server.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut space)?;
        let list = capability::list(&space);
        let find = |id| list.iter().find(|found| found.id == id).map(|found| found.offset.into());
        let found = [find(capability::MSI), find(capability::MSIX)];
        Ok(*self.capabilities.get_or_init(|| found))
    }
}

fn control_with(which: usize, control: u16, count: Option<u32>) -> u16 {
    match (which, count) {
        (0, None) => control & !(MSI_ENABLE | MSI_COUNT),
        (0, Some(count)) => {
            let log = count.max(1).next_power_of_two().trailing_zeros().min(5);
            let messages = u16::try_from(log << MSI_COUNT_SHIFT).unwrap_or(0);
            control & !MSI_COUNT | messages | MSI_ENABLE
        }
        (_, None) => control & !MSIX_ENABLE,
        (_, Some(_)) => control | MSIX_ENABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enable_bits_come_and_go_and_the_rest_stays() {
        assert_eq!(control_with(1, 0x47ff, Some(1)), 0xc7ff);
        assert_eq!(control_with(1, 0xc7ff, None), 0x47ff);
        assert_eq!(control_with(0, 0x018a, Some(4)), 0x01ab);
        assert_eq!(control_with(0, 0x01ab, None), 0x018a);
        assert_eq!(control_with(0, 0, Some(32)), 0x51);
    }
}
