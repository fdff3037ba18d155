//! The DSDT: devices the guest cannot find by itself, and the little program by
//! which it follows hot-plug. Structure (ACPI 6.5, chapter 6; PCI Firmware 3.3, 4):
//!
//! ```text
//! \_S5                    how to power off
//! \_SB.PCI0               host bridge of a segment, PCI0 to PCIF: windows, _PRT, _OSC  (pci)
//! \_SB.PCI0.S001 .. S031  slots: _SUN, _ADR, _EJ0                     (slots)
//! \_SB.PHP0               its hot-plug registers, PSCN (look), EJCT (eject)
//! \_SB.PWRB               power button: its register, PBLK (look)     (button)
//! \_SB.GEDV               Generic Event Device: _EVT calls every PSCN, and PBLK
//! \_SB.MBRD               addresses nobody else claims: ECAM, power registers
//! \_SB.COM1               16550
//! ```
//!
//! The Generic Event Device carries no cause of its own: each block of
//! registers says what is pending in it, and `_EVT` asks every one in turn. A
//! later cause (memory, say) costs one register block and one call.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Method, MethodCall, Name, Package,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{Inputs, OEM_ID, OEM_REVISION, OEM_TABLE_ID, SLEEP_TYPE_OFF, low32, port};
use crate::memory::layout;

mod button;
mod pci;
mod slots;

/// Bytes of a table header (ACPI 6.5, 5.2.6).
const HEADER: u32 = 36;
/// From revision 2 on the guest computes with 64-bit integers.
const DSDT_REVISION: u8 = 2;

/// The complete table, header included.
pub(super) fn dsdt(inputs: &Inputs) -> Sdt {
    let bridges = inputs.segments().zip(&inputs.segments).fold(Code::default(), |code, segment| {
        code.and(&pci::host_bridge(segment)).and(&slots::registers(segment.0))
    });
    let devices = bridges
        .and(&button::power_button())
        .and(&event_device(inputs))
        .and(&motherboard(inputs))
        .and(&if inputs.com1 { com1() } else { Code::default() });
    let body = Code::default().and(&sleep_off()).and(&Scope::new("\\_SB_".into(), vec![&devices]));

    let mut table = Sdt::new(*b"DSDT", HEADER, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&body.0);
    table
}

/// AML, object after object. The objects of `acpi_tables` borrow their parts;
/// this is what a function can return.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    /// The same, and then `object`.
    fn and(mut self, object: &dyn Aml) -> Self {
        object.to_aml_bytes(&mut self.0);
        self
    }
}

impl Aml for Code {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// `Device (name) { children }`.
fn device(name: &str, children: &Code) -> Code {
    Code::default().and(&Device::new(name.into(), vec![children]))
}

/// `Method (name, arguments, Serialized) { body }`.
fn method(name: &str, arguments: u8, body: &Code) -> Code {
    Code::default().and(&Method::new(name.into(), arguments, true, vec![body]))
}

/// `Name (name, value)`.
fn name(name: &str, value: &dyn Aml) -> Name {
    Name::new(name.into(), value)
}

fn sleep_off() -> Name {
    let unused = 0_u8;
    let types: [&dyn Aml; 4] = [&SLEEP_TYPE_OFF, &SLEEP_TYPE_OFF, &unused, &unused];
    name("_S5_", &Package::new(types.to_vec()))
}

/// The Generic Event Device (ACPI 6.5, 5.6.9).
fn event_device(inputs: &Inputs) -> Code {
    let interrupt = edge_interrupt(layout::EVENT_GSI, Sharing::Exclusive);
    // The argument is the interrupt's number, and there is but one.
    let look = inputs.segments().fold(Code::default(), |code, segment| {
        code.and(&MethodCall::new(slots::look_path(segment).as_str().into(), Vec::new()))
    });
    let look = look.and(&MethodCall::new(button::LOOK_PATH.into(), Vec::new()));
    let body = Code::default()
        .and(&name("_HID", &"ACPI0013"))
        .and(&name("_UID", &0_u8))
        .and(&name("_CRS", &ResourceTemplate::new(vec![&interrupt])))
        .and(&method("_EVT", 1, &look));
    device("GEDV", &body)
}

/// Addresses that the guest must leave alone though no device lists them: Linux
/// trusts MCFG only if its window is reserved like this.
fn motherboard(inputs: &Inputs) -> Code {
    let (base, size) = const { (low32(layout::ECAM_BASE), low32(layout::ECAM_SIZE)) };
    let windows = inputs.segments().fold(0, |all, _| all + size);
    let ecam = Memory32Fixed::new(true, base, windows);
    let power = ports(layout::POWER_PORT, layout::POWER_SIZE);
    let button = ports(layout::BUTTON_PORT, layout::BUTTON_SIZE);
    let body = Code::default()
        .and(&name("_HID", &EISAName::new("PNP0C02")))
        .and(&name("_UID", &0_u8))
        .and(&name("_CRS", &ResourceTemplate::new(vec![&ecam, &power, &button])));
    device("MBRD", &body)
}

fn com1() -> Code {
    let registers = ports(layout::COM1_PORT, layout::COM1_SIZE);
    // Nothing else is on that line. But Linux tests the port with interrupts
    // disabled only if it is shared; else another processor's handler spoils the
    // test, and the port is polled five times a second ever after (UART_BUG_THRE).
    let interrupt = edge_interrupt(layout::COM1_GSI, Sharing::Shared);
    let body = Code::default()
        .and(&name("_HID", &EISAName::new("PNP0501")))
        .and(&name("_UID", &0_u8))
        .and(&name("_CRS", &ResourceTemplate::new(vec![&registers, &interrupt])));
    device("COM1", &body)
}

/// Whether a line may have several devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

/// Edge, active high: what an irqfd without resampling can raise.
fn edge_interrupt(gsi: u32, sharing: Sharing) -> Interrupt {
    let (consumer, edge, active_low) = (true, true, false);
    Interrupt::new(consumer, edge, active_low, sharing == Sharing::Shared, gsi)
}

/// Registers at fixed I/O ports.
fn ports(base: u64, size: u64) -> IO {
    let size = u8::try_from(size).expect("a register block has fewer than 256 ports");
    IO::new(port(base), port(base), 1, size)
}
