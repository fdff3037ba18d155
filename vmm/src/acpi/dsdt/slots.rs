//! Hot-plug: the slots of the host bridge, and the methods that talk to
//! [`devices::platform::slots`]. Slot 0 holds the host bridge itself and is
//! therefore not described.
//!
//! `PSCN` takes the bits it has seen out of the registers before it tells the
//! guest's drivers, so that a request arriving meanwhile raises its own event.

use acpi_tables::aml::{
    Acquire, And, Arg, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Local, MethodCall, Mutex, Notify, OpRegion, OpRegionSpace, Path, Release,
    ResourceTemplate, Store, ZERO,
};
use devices::pci::{Segment, Slot};

use super::super::port;
use super::pci::bridge;
use super::{Code, device, method, name, ports};
use crate::memory::layout;

/// Looks at the registers and notifies slots.
const LOOK: &str = "PSCN";
/// Gives the slots in its argument's bits back.
const EJECT: &str = "EJCT";

const FIRST_SLOT: u8 = 1;
const LAST_SLOT: u8 = 31;
const REGISTER_BITS: usize = 32;
const UP: &[u8; 4] = b"PCIU";
const DOWN: &[u8; 4] = b"PCID";
const EJECTED: &[u8; 4] = b"PCEJ";
const MUTEX: &str = "BLCK";
const WAIT_FOR_EVER: u16 = 0xffff;

/// What `Notify` says (ACPI 6.5, 5.6.6): look whether a device has come...
const DEVICE_CHECK: u8 = 1;
/// ...or let go of the one that is there.
const EJECT_REQUEST: u8 = 3;

/// The method by which the Generic Event Device looks at a segment's registers.
pub(super) fn look_path(segment: Segment) -> String {
    format!("\\_SB_.{}.{LOOK}", block(segment))
}

/// A segment's block of registers, `PHP0` to `PHPF`.
fn block(segment: Segment) -> String {
    format!("PHP{:X}", segment.number())
}

/// `\_SB.PCI0.S001` to `S031`, for the first segment.
pub(super) fn slots(segment: Segment) -> Code {
    let numbers = FIRST_SLOT..=LAST_SLOT;
    numbers.fold(Code::default(), |code, number| code.and(&slot(segment, number)))
}

fn slot(segment: Segment, number: u8) -> Code {
    let address = u32::from(number) << 16;
    let path = format!("\\_SB_.{}.{EJECT}", block(segment));
    let eject = Code::default().and(&MethodCall::new(path.as_str().into(), vec![&bit(number)]));
    let body = Code::default()
        .and(&name("_SUN", &user_number(segment, number)))
        .and(&name("_ADR", &address))
        .and(&method("_EJ0", 1, &eject));
    device(&format!("S{number:03}"), &body)
}

/// What a person calls the slot (Linux: `/sys/bus/pci/slots`): unique among all PCI slots, as ACPI 6.5, 6.1.11 wants.
fn user_number(segment: Segment, slot: u8) -> u16 {
    u16::from(segment.number()) * u16::from(Slot::COUNT) + u16::from(slot)
}

fn bit(slot: u8) -> u32 {
    1 << slot
}

/// `\_SB.PHP0`: three registers and who may touch them.
pub(super) fn registers(segment: Segment) -> Code {
    let (first, size) = const { (port(layout::SLOTS_PORT), port(layout::SLOTS_SIZE)) };
    let base = first + u16::from(segment.number()) * size;
    let claimed = ports(base.into(), layout::SLOTS_SIZE);
    let fields = [UP, DOWN, EJECTED].map(|field| FieldEntry::Named(*field, REGISTER_BITS));
    let body = Code::default()
        .and(&name("_HID", &EISAName::new("PNP0A06")))
        .and(&name("_UID", &format!("PCI slots {segment}")))
        .and(&name("_CRS", &ResourceTemplate::new(vec![&claimed])))
        .and(&OpRegion::new("PCST".into(), OpRegionSpace::SystemIO, &base, &size))
        .and(&Field::new(
            "PCST".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            fields.to_vec(),
        ))
        .and(&Mutex::new(MUTEX.into(), 0))
        .and(&look(segment))
        .and(&eject());
    device(&block(segment), &body)
}

/// `PSCN ()`: added slots are announced before requests to eject, because a
/// slot can have both when the guest was slow to look.
fn look(segment: Segment) -> Code {
    let take = Code::default()
        .and(&Acquire::new(MUTEX.into(), WAIT_FOR_EVER))
        .and(&Store::new(&Local(0), &field(UP)))
        .and(&Store::new(&field(UP), &Local(0)))
        .and(&Store::new(&Local(1), &field(DOWN)))
        .and(&Store::new(&field(DOWN), &Local(1)))
        .and(&Release::new(MUTEX.into()));
    let body = (FIRST_SLOT..=LAST_SLOT).fold(take, |code, slot| {
        let path = format!("\\_SB_.{}.S{slot:03}", bridge(segment));
        code.and(&notify((&path, slot), &Local(0), DEVICE_CHECK)).and(&notify(
            (&path, slot),
            &Local(1),
            EJECT_REQUEST,
        ))
    });
    method(LOOK, 0, &body)
}

/// `If (pending & bit) { Notify (slot, value) }`.
fn notify((path, slot): (&str, u8), pending: &Local, value: u8) -> Code {
    let path = Path::new(path);
    let target = ZERO; // the result is only looked at, not stored
    Code::default()
        .and(&If::new(&And::new(&target, pending, &bit(slot)), vec![&Notify::new(&path, &value)]))
}

/// `EJCT (bits)`.
fn eject() -> Code {
    let body = Code::default()
        .and(&Acquire::new(MUTEX.into(), WAIT_FOR_EVER))
        .and(&Store::new(&field(EJECTED), &Arg(0)))
        .and(&Release::new(MUTEX.into()));
    method(EJECT, 1, &body)
}

/// A field by its name.
fn field(name: &[u8; 4]) -> Path {
    Path::new(&String::from_utf8_lossy(name))
}
