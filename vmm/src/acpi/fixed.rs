//! The tables of fixed shape: FADT (ACPI 6.5, 5.2.9), MADT (5.2.12) and MCFG
//! (PCI Firmware 3.3, 4.1.2).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use devices::pci::Segment;
use devices::platform::power;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, ecam, low32};
use crate::memory::layout;

/// IAPC_BOOT_ARCH (ACPI 6.5, table 5.11): there is no VGA to probe...
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// ...and no clock behind ports 0x70 and 0x71. Clear bits say the rest: no
/// keyboard controller, no other legacy devices, MSI allowed.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

const IOAPIC_ID: u8 = 0;
const IOAPIC_FIRST_GSI: u32 = 0;
const PCI_BUS: u8 = 0;

/// Fixed ACPI description: where the DSDT is, how to sleep and how to reset.
pub(super) fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        // No fixed-feature power and sleep buttons, nor an alarm clock: a set
        // bit means that the feature, if any, is a control method.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.sleep_control_reg = byte_port(layout::POWER_PORT + power::SLEEP_CONTROL);
    fadt.sleep_status_reg = byte_port(layout::POWER_PORT + power::SLEEP_STATUS);
    fadt.reset_reg = byte_port(layout::POWER_PORT + power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

/// Interrupt controllers: one local APIC a processor, one IOAPIC.
pub(super) fn madt(vcpus: u8) -> MADT {
    let lapic = LocalInterruptController::Address(const { low32(layout::LAPIC_BASE) });
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    let registers = const { low32(layout::IOAPIC_BASE) };
    madt.add_structure(IoApic::new(IOAPIC_ID, registers, IOAPIC_FIRST_GSI));
    madt
}

/// Where configuration space is mapped.
pub(super) fn mcfg(segments: impl Iterator<Item = Segment>) -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for segment in segments {
        mcfg.add_ecam(ecam(segment), segment.number().into(), PCI_BUS, PCI_BUS);
    }
    mcfg
}

/// A register of one byte at an I/O port.
fn byte_port(port: u64) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}
