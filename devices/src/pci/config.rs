//! Names and numbers of configuration space (PCI 3.0, chapter 6 and appendix H;
//! PCI Express 4.0, 7.5), and small reads of it.

/// Bytes of the space every function has.
pub const CONVENTIONAL_SIZE: usize = 0x100;
/// Bytes of the space a PCI Express function has.
pub const EXPRESS_SIZE: usize = 0x1000;

/// Vendor ID, 2 bytes.
pub const VENDOR_ID: u16 = 0x00;
/// Command register, 2 bytes.
pub const COMMAND: u16 = 0x04;
/// Status register, 2 bytes.
pub const STATUS: u16 = 0x06;
/// Revision ID and class code, 4 bytes.
pub const CLASS_REVISION: u16 = 0x08;
/// Cache line size, latency timer, header type, self test: 4 bytes.
pub const CACHE_LINE: u16 = 0x0c;
/// Header type, 1 byte; bit 7 says that there are more functions.
pub const HEADER_TYPE: u16 = 0x0e;
/// First base address register.
pub const BAR0: u16 = 0x10;
/// Expansion ROM base address, 4 bytes.
pub const ROM_BAR: u16 = 0x30;
/// Pointer to the first capability, 1 byte.
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line, 1 byte: a note the guest leaves for itself.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 1 byte: 0 none, 1 to 4 INTA to INTD.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// End of the header, where capabilities may begin.
pub const HEADER_END: u16 = 0x40;

/// [`COMMAND`]: the function answers its I/O BARs.
pub const COMMAND_IO: u16 = 1 << 0;
/// [`COMMAND`]: the function answers its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// [`COMMAND`]: the function may write memory by itself.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// [`COMMAND`]: the function must not raise its INTx line.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// [`STATUS`]: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// [`HEADER_TYPE`]: the device has more than one function.
pub const MULTI_FUNCTION: u8 = 1 << 7;

/// Little-endian word at `offset`; zero past the end.
pub fn word(space: &[u8], offset: u16) -> u16 {
    let at = usize::from(offset);
    space.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Little-endian doubleword at `offset`; zero past the end.
pub fn dword(space: &[u8], offset: u16) -> u32 {
    let low = word(space, offset);
    let high = offset.checked_add(2).map_or(0, |offset| word(space, offset));
    u32::from(low) | u32::from(high) << 16
}
