//! The host bridge in slot 0: a header and nothing behind it.

use crate::pci::{Function, config};

const SPACE_SIZE: usize = 64;
/// Intel, as in Cloud Hypervisor: guests have drivers' quirks for no virtual bridge of this number.
const VENDOR_DEVICE: u32 = 0x0d57_8086;
/// Class 06 (bridge), subclass 00 (host).
const CLASS: u32 = 0x0600_0000;

/// A read-only header.
pub struct HostBridge([u8; SPACE_SIZE]);

impl Default for HostBridge {
    fn default() -> Self {
        let mut space = [0; SPACE_SIZE];
        for (offset, value) in [(config::VENDOR_ID, VENDOR_DEVICE), (config::CLASS_REVISION, CLASS)]
        {
            let at = usize::from(offset);
            space[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Self(space)
    }
}

impl Function for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let at = usize::from(offset);
        match self.0.get(at..at + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0),
        }
    }

    fn write_config(&self, _offset: u16, _data: &[u8]) {}
}
