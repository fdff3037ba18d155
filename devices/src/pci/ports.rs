//! The two ports that select and move configuration data: CONFIG_ADDRESS at
//! 0xcf8 and CONFIG_DATA at 0xcfc (PCI 3.0, 3.2.2.3.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::io::Access;
use crate::pci::bus::Bus;
use crate::pci::ecam::fits;
use crate::pci::{Function, Slot};

const ENABLE: u32 = 1 << 31;
const DATA: u64 = 4;

/// Both ports, eight bytes from 0xcf8.
pub struct ConfigPorts {
    bus: Arc<Bus>,
    address: AtomicU32,
}

impl ConfigPorts {
    /// The ports of `bus`.
    pub fn new(bus: Arc<Bus>) -> Self {
        Self { bus, address: AtomicU32::new(0) }
    }

    /// The function selected by CONFIG_ADDRESS, and the register at `offset`.
    fn selected(&self, offset: u64, length: usize) -> Option<(Arc<dyn Function>, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let [register, device_function, bus, _] = address.to_le_bytes();
        let within = u16::try_from(offset.checked_sub(DATA)?).ok()?;
        let register = u16::from(register & !3) + within;
        let here = address & ENABLE != 0 && bus == 0 && device_function & 7 == 0;
        let slot = Slot::new(device_function >> 3)?;
        let function = (here && fits(register, length)).then(|| self.bus.function(slot))??;
        Some((function, register))
    }
}

impl Access for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (0, Ok(whole)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *whole = self.address.load(Ordering::Relaxed).to_le_bytes();
            return;
        }
        match self.selected(offset, data.len()) {
            Some((function, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Ok(whole)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address.store(u32::from_le_bytes(whole), Ordering::Relaxed);
        } else if let Some((function, register)) = self.selected(offset, data.len()) {
            function.write_config(register, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_register_is_read_through_the_data_port() {
        let ports = ConfigPorts::new(Arc::default());
        let mut data = [0; 2];

        ports.write(0, &(ENABLE | 0x08).to_le_bytes());
        ports.read(DATA + 2, &mut data);

        assert_eq!(data, [0x00, 0x06], "host bridge class");
    }

    #[test]
    fn nothing_is_selected_without_the_enable_bit_or_on_another_bus() {
        let ports = ConfigPorts::new(Arc::default());

        for address in [0, ENABLE | 1 << 16, ENABLE | 1 << 8, ENABLE | 9 << 11] {
            let mut data = [0; 4];
            ports.write(0, &address.to_le_bytes());
            ports.read(DATA, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
        }
    }

    #[test]
    fn address_reads_back() {
        let ports = ConfigPorts::new(Arc::default());
        let mut data = [0; 4];

        ports.write(0, &0x8000_1234_u32.to_le_bytes());
        ports.read(0, &mut data);

        assert_eq!(u32::from_le_bytes(data), 0x8000_1234);
    }
}
