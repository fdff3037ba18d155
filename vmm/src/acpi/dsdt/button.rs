//! The power button, a control method one (ACPI 6.5, 4.8.3.1.2): a device that talks to
//! [`devices::platform::button`] when the Generic Event Device says that something
//! has happened.
//!
//! `PBLK` takes the bit before it tells the guest's driver, so that the next press
//! raises its own event.

use acpi_tables::aml::{
    And, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local,
    Notify, OpRegion, OpRegionSpace, Path, Store, ZERO,
};
use devices::platform::button::PRESSED;

use super::super::port;
use super::{Code, device, method, name};
use crate::memory::layout;

/// The method by which the Generic Event Device looks at the register.
pub(super) const LOOK_PATH: &str = "\\_SB_.PWRB.PBLK";
const LOOK: &str = "PBLK";
const DEVICE: &str = "PWRB";
const REGISTER: &[u8; 4] = b"PBST";
const REGISTER_BITS: usize = 8;

/// What `Notify` says of a button (ACPI 6.5, table 5.169): it was pressed.
const BUTTON_PRESSED: u8 = 0x80;

/// `\_SB.PWRB`. Its port is reserved by the mainboard, with the other power registers.
pub(super) fn power_button() -> Code {
    let (base, size) = const { (port(layout::BUTTON_PORT), port(layout::BUTTON_SIZE)) };
    let body = Code::default()
        .and(&name("_HID", &EISAName::new("PNP0C0C")))
        .and(&name("_UID", &0_u8))
        .and(&OpRegion::new("PBRG".into(), OpRegionSpace::SystemIO, &base, &size))
        .and(&Field::new(
            "PBRG".into(),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Named(*REGISTER, REGISTER_BITS)],
        ))
        .and(&look());
    device(DEVICE, &body)
}

/// `PBLK ()`.
fn look() -> Code {
    let register = Path::new(&String::from_utf8_lossy(REGISTER));
    let path = Path::new(&format!("\\_SB_.{DEVICE}"));
    let target = ZERO; // the result is only looked at, not stored
    let body = Code::default()
        .and(&Store::new(&Local(0), &register))
        .and(&Store::new(&register, &Local(0)))
        .and(&If::new(
            &And::new(&target, &Local(0), &PRESSED),
            vec![&Notify::new(&path, &BUTTON_PRESSED)],
        ));
    method(LOOK, 0, &body)
}
