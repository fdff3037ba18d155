//! The tables as a guest reads them: found from the RSDP, by value.

use std::ops::Range;

use super::*;
use crate::memory::windows::shared;

const MEM64: Range<u64> = 0x40_0000_0000..0x80_0000_0000;

fn machine(vcpus: u8) -> Tables {
    tables(&Inputs { vcpus, segments: shared(1, &MEM64), com1: true })
}

fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let field: [u8; N] = bytes[offset..offset + N].try_into().unwrap();
    field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

impl Tables {
    fn at(&self, address: u64) -> &[u8] {
        &self.bytes[usize::try_from(address - self.address).unwrap()..]
    }

    /// The table at `address`, as long as it says it is.
    fn table(&self, address: u64) -> &[u8] {
        let table = self.at(address);
        &table[..usize::try_from(number::<4>(table, 4)).unwrap()]
    }

    /// The XSDT, then the tables it lists, then the DSDT.
    fn all(&self) -> Vec<&[u8]> {
        let xsdt = self.table(number::<8>(self.at(self.rsdp), 24));
        let entries = xsdt[36..].chunks_exact(8).map(|entry| self.table(number::<8>(entry, 0)));
        let mut tables: Vec<_> = std::iter::once(xsdt).chain(entries).collect();
        let fadt = tables.iter().find(|table| table.starts_with(b"FACP")).unwrap();
        tables.push(self.table(number::<8>(fadt, 140)));
        tables
    }

    fn named(&self, signature: &[u8; 4]) -> &[u8] {
        self.all().into_iter().find(|table| table.starts_with(signature)).unwrap()
    }
}

#[test]
fn rsdp_is_where_a_scan_looks_and_both_checksums_hold() {
    let tables = machine(1);
    let rsdp = tables.at(tables.rsdp);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((tables.rsdp % 16, rsdp[15]), (0, 2));
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp[..36])), (0, 0));
}

#[test]
fn every_table_is_reachable_aligned_and_sums_to_zero() {
    let tables = machine(4);
    let all = tables.all();
    let signatures: Vec<_> = all.iter().map(|table| &table[..4]).collect();
    assert_eq!(signatures, [b"XSDT", b"FACP", b"APIC", b"MCFG", b"DSDT"]);
    assert_eq!(all.iter().map(|table| sum(table)).collect::<Vec<_>>(), [0; 5]);
}

#[test]
fn tables_of_the_largest_machine_fit() {
    let segments = shared(Segment::MOST, &MEM64);
    let tables = tables(&Inputs { vcpus: 255, segments, com1: true });
    assert_eq!(tables.address, BASE);
    assert!(tables.address + u64::try_from(tables.bytes.len()).unwrap() < END);
}

#[test]
fn fadt_describes_a_hardware_reduced_machine_without_legacy_devices() {
    let tables = machine(1);
    let fadt = tables.named(b"FACP");
    assert_eq!(fadt.len(), 276);
    let (hardware_reduced, reset_supported) = (1 << 20, 1 << 10);
    let flags = number::<4>(fadt, 112);
    assert_eq!(flags & (hardware_reduced | reset_supported), hardware_reduced | reset_supported);
    assert_eq!(number::<2>(fadt, 109), 0b10_0100, "no VGA, no RTC; MSI allowed, no 8042");
    assert_eq!(number::<4>(fadt, 40), 0, "DSDT is in X_DSDT only");
}

#[test]
fn fadt_points_at_the_power_registers() {
    let tables = machine(1);
    let fadt = tables.named(b"FACP");
    // Address space 1 (ports), 8 bits wide, offset 0, byte accesses.
    let register = |port: u16| [[1, 8, 0, 1].as_slice(), &u64::from(port).to_le_bytes()].concat();
    assert_eq!(fadt[244..256], register(0x600), "sleep control");
    assert_eq!(fadt[256..268], register(0x601), "sleep status");
    assert_eq!(fadt[116..128], register(0x602), "reset");
    assert_eq!(fadt[128], 1, "reset value");
}

#[test]
fn madt_lists_each_processor_and_one_ioapic() {
    let tables = machine(255);
    let madt = tables.named(b"APIC");
    assert_eq!(number::<4>(madt, 36), layout::LAPIC_BASE);
    let (processors, ioapic) = madt[44..].split_at(255 * 8);
    let ids: Vec<_> = processors.chunks(8).map(|entry| (entry[2], entry[3], entry[4])).collect();
    assert_eq!(ids, (0..255).map(|id| (id, id, 1)).collect::<Vec<_>>());
    assert!(processors.chunks(8).all(|entry| entry[..2] == [0, 8]));
    assert_eq!(ioapic[..4], [1, 12, 0, 0]);
    assert_eq!((number::<4>(ioapic, 4), number::<4>(ioapic, 8)), (layout::IOAPIC_BASE, 0));
    assert_eq!(ioapic.len(), 12);
}

#[test]
fn mcfg_maps_bus_0_of_segment_0() {
    let tables = machine(1);
    let entry = &tables.named(b"MCFG")[44..];
    assert_eq!(number::<8>(entry, 0), layout::ECAM_BASE);
    assert_eq!(entry[8..], [0; 8]);
}

#[test]
fn each_segment_has_its_bridge_its_registers_and_its_window() {
    let tables = tables(&Inputs { vcpus: 1, segments: shared(3, &MEM64), com1: true });
    let entries: Vec<_> = tables.named(b"MCFG")[44..].chunks(16).collect();
    let windows = entries.iter().map(|entry| (number::<8>(entry, 0), number::<2>(entry, 8)));
    let expected = (0..3).map(|n| (layout::ECAM_BASE + n * layout::ECAM_SIZE, n));
    assert!(windows.eq(expected));
    let dsdt = tables.named(b"DSDT");
    assert!(["PCI2", "PHP2"].iter().all(|name| contains(dsdt, name.as_bytes())));
    assert!(!contains(dsdt, b"PCI3"));
    let ports =
        [0x610_u16, 0x61c, 0x628].map(|port| [&[0x47, 1][..], &port.to_le_bytes()].concat());
    assert!(ports.iter().all(|resource| contains(dsdt, resource)));
}

#[test]
fn no_two_slots_of_a_machine_have_the_same_number() {
    let segments = shared(Segment::MOST, &MEM64);
    let tables = tables(&Inputs { vcpus: 1, segments, com1: true });
    let dsdt = tables.named(b"DSDT");
    let numbers = dsdt.windows(7).filter_map(|name| match name.strip_prefix(b"_SUN")? {
        [0x0a, number, _] => Some(u64::from(*number)),
        [0x0b, word @ ..] => Some(number::<2>(word, 0)),
        [number, ..] => Some(u64::from(*number)), // 0 and 1 are their own opcodes
        [] => None,
    });
    let expected = (0..16).flat_map(|segment| (1..32).map(move |slot| segment * 32 + slot));
    assert!(numbers.eq(expected));
}

#[test]
fn dsdt_names_everything_the_guest_needs() {
    let tables = machine(1);
    let dsdt = tables.named(b"DSDT");
    let names = "_SB_ PCI0 _SEG _BBN _CRS _PRT _OSC S001 S031 _SUN _ADR _EJ0 PHP0 PCIU PCID \
                 PCEJ PSCN EJCT PWRB PBST PBLK GEDV _EVT ACPI0013 MBRD COM1 _S5_";
    let missing: Vec<_> =
        names.split_whitespace().filter(|name| !contains(dsdt, name.as_bytes())).collect();
    assert_eq!(missing, [] as [&str; 0]);
    assert!(!contains(dsdt, b"S000") && !contains(dsdt, b"S032"));
}

#[test]
fn button_takes_its_bit_before_it_tells_the_guest() {
    let tables = machine(1);
    let dsdt = tables.named(b"DSDT");
    let path = b"\\\x2e_SB_PWRB";
    // Store (PBST, Local0), Store (Local0, PBST), If (Local0 & 1) { Notify (PWRB, 0x80) }
    let take = b"\x70PBST\x60\x70\x60PBST".as_slice();
    let notify = [b"\x7b\x60\x01\x00\x86".as_slice(), path, &[0x0a, 0x80]].concat();
    let at = |part: &[u8]| dsdt.windows(part.len()).position(|window| window == part);

    assert!(contains(dsdt, &[b"_HID\x0c".as_slice(), &[0x41, 0xd0, 0x0c, 0x0c]].concat()));
    assert!(at(take).unwrap() < at(&notify).unwrap());
}

#[test]
fn sleep_package_says_five() {
    let tables = machine(1);
    let package = [b"_S5_\x12\x08\x04".as_slice(), &[0x0a, 5, 0x0a, 5, 0, 0]].concat();
    assert!(contains(tables.named(b"DSDT"), &package));
}

#[test]
fn pins_go_straight_to_the_shared_lines() {
    let tables = machine(1);
    let route = |device: u8, pin: u8, gsi: u8| {
        let pin = [[0x0a, pin].as_slice(), &[pin]][usize::from(pin < 2)].to_vec();
        let address = vec![0x0c, 0xff, 0xff, device, 0];
        [vec![4], address, pin, vec![0, 0x0a, gsi]].concat()
    };
    let dsdt = tables.named(b"DSDT");
    assert!(contains(dsdt, &route(3, 0, 19)));
    assert!(contains(dsdt, &route(31, 1, 16)));
    assert!(contains(dsdt, &route(31, 3, 18)));
}

#[test]
fn windows_are_the_layouts() {
    let tables = machine(1);
    let dsdt = tables.named(b"DSDT");
    let (below, above) = (0xc000_0000_u32, MEM64.start);
    let mem32 = [below.to_le_bytes(), 0xdfff_ffff_u32.to_le_bytes()].concat();
    let mem64 = [above.to_le_bytes(), (MEM64.end - 1).to_le_bytes()].concat();
    let io = [0x1000_u16.to_le_bytes(), 0xffff_u16.to_le_bytes()].concat();
    assert!(contains(dsdt, &mem32) && contains(dsdt, &mem64) && contains(dsdt, &io));
}

#[test]
fn what_the_machine_lacks_is_not_described() {
    let without = tables(&Inputs { vcpus: 1, segments: shared(1, &(0..0)), com1: false });
    let dsdt = without.named(b"DSDT");
    assert!(!contains(dsdt, b"COM1"));
    let qword_address_space = [0x8a, 0x2b, 0];
    assert!(!contains(dsdt, &qword_address_space));
}

/// For a person: `ACPI_DUMP=dir cargo test -p vmm dump`, then `iasl -d dir/*.aml`.
#[test]
fn tables_can_be_dumped() {
    let Some(directory) = std::env::var_os("ACPI_DUMP") else { return };
    let tables = machine(4);
    for table in tables.all() {
        let name = String::from_utf8_lossy(&table[..4]).into_owned() + ".aml";
        std::fs::write(std::path::Path::new(&directory).join(name), table).unwrap();
    }
}
