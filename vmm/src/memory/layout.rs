//! Where things are in the guest's two address spaces. Numbers only.
//!
//! ```text
//! guest-physical                          port I/O
//! 0            RAM below the hole         0x0600  power: sleep control, sleep status, reset
//! 0xc000_0000  PCI BARs below 4 GiB       0x0608  power button
//! 0xe000_0000  ECAM, a bus each segment   0x0610  PCI hot-plug slots
//! 0xfec0_0000  IOAPIC, LAPIC, firmware    0x0cf8  PCI configuration ports
//! 4 GiB        RAM above the hole         0x03f8  COM1
//! above RAM    PCI BARs, 64-bit           0x1000  PCI BARs
//! ```

use std::ops::Range;

use devices::pci::Segment;

/// End of the RAM below the hole, and start of the BARs below 4 GiB.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Memory BARs of 32 bits.
pub const PCI_MEM32: Range<u64> = LOW_RAM_END..0xe000_0000;
/// Configuration space of the first segment; those of the others follow.
pub const ECAM_BASE: u64 = 0xe000_0000;
/// Bytes of one segment's window: bus 0, 32 devices x 8 functions x 4 KiB.
pub const ECAM_SIZE: u64 = 1 << 20;
/// Configuration space of all the segments that there can be.
pub const ECAM: Range<u64> = ECAM_BASE..ECAM_BASE + ECAM_SIZE * Segment::MOST as u64;
/// I/O BARs.
pub const PCI_IO: Range<u64> = 0x1000..0x1_0000;

/// IOAPIC registers (in the kernel).
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Local APIC registers (in the kernel).
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Page for real-mode page tables on Intel hosts (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for the task state segment on Intel hosts (`KVM_SET_TSS_ADDR`).
pub const TSS: u64 = 0xfffb_d000;

/// Sleep control, sleep status and reset registers, one byte each.
pub const POWER_PORT: u64 = 0x600;
/// Bytes of the power registers.
pub const POWER_SIZE: u64 = 3;
/// The power button's register.
pub const BUTTON_PORT: u64 = 0x608;
/// Bytes of that register.
pub const BUTTON_SIZE: u64 = 1;
/// Hot-plug registers of the first segment: up, down and eject, four bytes each.
/// Those of the others follow.
pub const SLOTS_PORT: u64 = 0x610;
/// Bytes of one segment's hot-plug registers.
pub const SLOTS_SIZE: u64 = 12;
/// First serial port.
pub const COM1_PORT: u64 = 0x3f8;
/// Bytes of a 16550's registers.
pub const COM1_SIZE: u64 = 8;
/// Configuration address and data ports (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_PORT: u64 = 0xcf8;
/// Bytes of both.
pub const CONFIG_SIZE: u64 = 8;

/// Pins of the in-kernel IOAPIC.
pub const IOAPIC_PINS: u32 = 24;
/// Global system interrupt of COM1: edge, active high.
pub const COM1_GSI: u32 = 4;
/// Global system interrupt of the Generic Event Device: edge, active high.
pub const EVENT_GSI: u32 = 5;
/// First of the eight lines that PCI INTx pins share: level, active high.
pub const INTX_GSI: u32 = 16;
/// Lines that PCI INTx pins share; device d, pin p (0 = INTA) uses line (d + p) mod 8.
pub const INTX_LINES: u32 = 8;
