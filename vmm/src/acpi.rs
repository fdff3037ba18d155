//! ACPI tables: how the guest learns of its processors, its PCI bus, its slots
//! and its power switch. Built from numbers alone; loading them is `boot`'s job.
//!
//! The platform is hardware-reduced (ACPI 6.5, 4.1): no fixed-feature
//! registers, no SCI. Whatever the machine has to say to the guest goes through
//! one Generic Event Device ([`dsdt`]), power goes through the sleep and reset
//! registers of the FADT ([`fixed`]).

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use devices::pci::Segment;
use devices::pci::bar::Apertures;

mod dsdt;
mod fixed;

use crate::memory::layout;

/// Where [`Tables::bytes`] belong: the area that a guest without a boot
/// protocol scans for the RSDP (ACPI 6.5, 5.2.5.1).
pub const BASE: u64 = 0xe_0000;
/// End of that area. The largest machine's tables fill a tenth of it.
pub const END: u64 = 0x10_0000;

/// Value of SLP_TYP that means "off"; the DSDT's `_S5` says it, and the guest
/// writes it to the sleep control register.
pub const SLEEP_TYPE_OFF: u8 = devices::platform::power::SLEEP_TYPE_OFF;

const OEM_ID: [u8; 6] = *b"HOTBAY";
const OEM_TABLE_ID: [u8; 8] = *b"HOTBAYVM";
const OEM_REVISION: u32 = 1;

/// Tables start at multiples of this.
const TABLE_ALIGNMENT: usize = 16;
/// Bytes from [`BASE`] that the RSDP takes, rounded up to a table's alignment.
const RSDP_SPACE: usize = 48;

/// What differs from one machine to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Processors; their local APIC ids are `0..vcpus`, in xAPIC entries: only
    /// ids from 255 on need x2APIC entries (ACPI 6.5, 5.2.12.12).
    pub vcpus: u8,
    /// Windows for BARs of each PCI segment, at least one; an empty one is none.
    pub segments: Vec<Apertures>,
    /// Whether there is a serial port at COM1.
    pub com1: bool,
}

impl Inputs {
    /// The machine's segments.
    fn segments(&self) -> impl Iterator<Item = Segment> {
        (0..).map_while(Segment::new).take(self.segments.len())
    }
}

/// Tables ready to be copied into guest RAM.
///
/// Copy [`bytes`](Self::bytes) to [`address`](Self::address), report the whole
/// of [`BASE`]`..`[`END`] as reserved in e820 (or the PVH memory map), and pass
/// [`rsdp`](Self::rsdp) as `boot_params.acpi_rsdp_addr` or
/// `hvm_start_info.rsdp_paddr`. The guest may overwrite them: load them again,
/// like the kernel, at every boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address of the first byte; always [`BASE`].
    pub address: u64,
    /// RSDP, DSDT, FADT, MADT, MCFG and XSDT. They end before [`END`].
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
}

/// Builds all tables of a machine. Same inputs, same bytes.
pub fn tables(inputs: &Inputs) -> Tables {
    let mut image = Image { bytes: vec![0; RSDP_SPACE] };
    let dsdt = image.place(&dsdt::dsdt(inputs));
    let entries = [
        image.place(&fixed::fadt(dsdt)),
        image.place(&fixed::madt(inputs.vcpus)),
        image.place(&fixed::mcfg(inputs.segments())),
    ];
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    entries.into_iter().for_each(|entry| xsdt.add_entry(entry));
    let xsdt = image.place(&xsdt);
    let rsdp = serialise(&Rsdp::new(OEM_ID, xsdt));
    image.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    Tables { address: BASE, bytes: image.bytes, rsdp: BASE }
}

/// The bytes at [`BASE`], as far as they are written.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Appends `table` and returns its guest-physical address.
    fn place(&mut self, table: &dyn Aml) -> u64 {
        let start = self.bytes.len().next_multiple_of(TABLE_ALIGNMENT);
        self.bytes.resize(start, 0);
        table.to_aml_bytes(&mut self.bytes);
        BASE + start as u64
    }
}

/// `object` in the form the guest reads.
fn serialise(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// Where a segment's configuration space is.
fn ecam(segment: Segment) -> u64 {
    layout::ECAM_BASE + u64::from(segment.number()) * layout::ECAM_SIZE
}

/// An address of the layout that the specification stores in 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "checked in the line before, at compile time")]
const fn low32(address: u64) -> u32 {
    assert!(address <= u32::MAX as u64, "the address needs more than 32 bits");
    address as u32
}

/// A port of the layout.
#[expect(clippy::cast_possible_truncation, reason = "checked in the line before, at compile time")]
const fn port(address: u64) -> u16 {
    assert!(address <= u16::MAX as u64, "no such port");
    address as u16
}

#[cfg(test)]
mod tests;
