//! The PCI Express host bridge: identity, windows, interrupt routing, and what
//! the guest may control itself (PCI Firmware 3.3, 4.1.3 and 4.5.1).

use std::ops::Range;

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, EISAName, Else, Equal, If,
    Local, Name, NotEqual, Or, Package, PackageBuilder, ResourceTemplate, Return, Store, Uuid,
};
use devices::pci::Segment;
use devices::pci::bar::Apertures;

use super::super::{low32, port};
use super::{Code, device, method, name, ports, slots};
use crate::memory::layout;

const BUS: u8 = 0;
const DEVICES: u32 = 32;
const PINS: u32 = 4;

/// `_OSC` of a PCI host bridge.
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
const OSC_REVISION: u8 = 1;
/// The one service the guest gets: the Express capability structure. Not
/// native hot-plug, or Linux would look for it in ports instead of our slots;
/// not PME, AER or LTR, which need a root port to report to.
const OSC_GRANTED: u8 = 1 << 4;
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;
const OSC_MASKED: u8 = 1 << 4;

/// Name of a segment's host bridge, `PCI0` to `PCIF`.
pub(super) fn bridge(segment: Segment) -> String {
    format!("PCI{:X}", segment.number())
}

/// `\_SB.PCI0` with its slots, for the first segment.
pub(super) fn host_bridge((segment, windows): (Segment, &Apertures)) -> Code {
    let body = Code::default()
        .and(&name("_HID", &EISAName::new("PNP0A08")))
        .and(&name("_CID", &EISAName::new("PNP0A03")))
        .and(&name("_UID", &segment.number()))
        .and(&name("_SEG", &segment.number()))
        .and(&name("_BBN", &BUS))
        .and(&resources(segment, windows))
        .and(&routing())
        .and(&operating_system_capabilities())
        .and(&slots::slots(segment));
    device(&bridge(segment), &body)
}

/// `_CRS`: the bus, the configuration ports, which lead to the first segment only, and where BARs may go.
fn resources(segment: Segment, windows: &Apertures) -> Name {
    let mut resources =
        Code::default().and(&AddressSpace::new_bus_number(u16::from(BUS), u16::from(BUS)));
    if segment == Segment::default() {
        resources = resources.and(&ports(layout::CONFIG_PORT, layout::CONFIG_SIZE));
    }
    let Apertures { io, mem32, mem64 } = windows;
    if let Some((first, last)) = ends(io).map(|(first, last)| (port(first), port(last))) {
        resources = resources.and(&AddressSpace::new_io(first, last, None));
    }
    if let Some((first, last)) = ends(mem32).map(|(first, last)| (low32(first), low32(last))) {
        resources = resources.and(&memory(first, last));
    }
    if let Some((first, last)) = ends(mem64) {
        resources = resources.and(&memory(first, last));
    }
    name("_CRS", &ResourceTemplate::new(vec![&resources]))
}

/// First and last address, if there is any.
fn ends(window: &Range<u64>) -> Option<(u64, u64)> {
    (!window.is_empty()).then(|| (window.start, window.end - 1))
}

/// A memory window from `first` to `last`. Not marked prefetchable: Linux puts
/// prefetchable BARs into such a window too, but never the other way round.
fn memory<T: Default>(first: T, last: T) -> AddressSpace<T> {
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

/// `_PRT`: every device's four pins, straight to the IOAPIC.
fn routing() -> Name {
    let mut table = PackageBuilder::new();
    for device in 0..DEVICES {
        for pin in 0..PINS {
            let any_function = (device << 16) | 0xffff;
            let gsi = layout::INTX_GSI + (device + pin) % layout::INTX_LINES;
            let no_link = 0_u8;
            table.add_element(&Package::new(vec![&any_function, &pin, &no_link, &gsi]));
        }
    }
    name("_PRT", &table)
}

/// `_OSC (uuid, revision, count, capabilities)`: grants [`OSC_GRANTED`] of what
/// is asked for in the third dword, and reports in the first what went wrong.
fn operating_system_capabilities() -> Code {
    let (status, control) = (Name::new_field_name("CDW1"), Name::new_field_name("CDW3"));
    let report = |bit: u8| Code::default().and(&Or::new(&status, &status, &bit));
    let (revision, masked) = (report(OSC_UNKNOWN_REVISION), report(OSC_MASKED));
    let grant = Code::default()
        .and(&CreateDWordField::new(&control, &Arg(3), &8_u8))
        .and(&And::new(&Local(0), &control, &OSC_GRANTED))
        .and(&If::new(&NotEqual::new(&Arg(1), &OSC_REVISION), vec![&revision]))
        .and(&If::new(&NotEqual::new(&control, &Local(0)), vec![&masked]))
        .and(&Store::new(&control, &Local(0)));
    let body = Code::default()
        .and(&CreateDWordField::new(&status, &Arg(3), &0_u8))
        .and(&If::new(&Equal::new(&Arg(0), &Uuid::new(OSC_UUID)), vec![&grant]))
        .and(&Else::new(vec![&report(OSC_UNKNOWN_UUID)]))
        .and(&Return::new(&Arg(3)));
    method("_OSC", 4, &body)
}
