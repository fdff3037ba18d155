//! A hostile guest: any access to configuration space, BARs, MSI-X table and Pending bits of a
//! function that is in order, while the device fires, the host refuses vectors and the function is
//! reset.
//!
//! Held to, by the registers as the guest reads them back: no message passes a mask or comes from
//! what is off, each carries what the guest wrote, an event on a live vector is delivered at once,
//! one on a masked vector has its Pending bit, and nothing is left when the function goes.

#![no_main]

use std::sync::Arc;

use devices::pci::config::{COMMAND, ROM_BAR};
use devices::pci::msix;
use devices::vfio::interrupts::Choices;
use devices::vfio::resets;
use fuzz::draw::Draw;
use fuzz::good::{self, EXPRESS, MSI, MSIX, POWER, TABLE};
use fuzz::kernel::Said;
use fuzz::live::{self, Live};
use fuzz::slot::Slot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut draw = Draw::new(input);
    let (shape, vectors) = (draw.byte(), u16::from(draw.byte()) % good::MOST_VECTORS + 1);
    let refusals = if shape & 1 == 0 { &[][..] } else { draw.bytes(4) };
    let refusals: Vec<bool> = refusals.iter().map(|byte| byte % 4 == 3).collect();
    // Nobody is owed anything by a host that refuses, or that turns all off to add one.
    let owed = refusals.iter().all(|refuses| !refuses) && shape & 6 == 0;
    let said = Said { refusals, ..good::function(vectors, shape & 2 != 0) };
    let choices = Choices { no_resize: shape & 4 != 0, exact_pending: shape & 8 != 0 };
    let slot = Slot::new(said, choices, &[]).expect("a function in good order");
    while !draw.is_empty() {
        let step = Step::draw(&mut draw);
        step.perform(&slot);
        let (live, sent) = (Live::read(&slot), slot.machine.take_sent());
        sent.iter().for_each(|(vector, message)| live.assert_allows(*vector, *message));
        if let (Step::Fire(vector), true) = (&step, owed) {
            live.assert_heard(*vector, &sent);
        }
        if step.moves() {
            slot.check();
        }
    }
    slot.check();
    slot.clear();
});

/// One thing that a guest or the device does.
#[derive(Debug)]
enum Step {
    Fire(u16),
    Control(u16),
    Table { vector: u16, field: u8, value: u32, wide: bool },
    Msi(u8, [u8; 4], usize),
    Command(u16),
    Place(u8, u8),
    Bar { index: u8, offset: u16, value: [u8; 8], size: usize },
    Config { register: u16, value: [u8; 4], size: usize },
    Ports(u8, [u8; 4], usize),
    Power(u8),
    FunctionReset,
    Rom(u32),
    Reset,
}

impl Step {
    fn draw(draw: &mut Draw<'_>) -> Self {
        let what = draw.byte();
        let size = [1, 2, 4, 8][usize::from(what >> 6)];
        let vector = |byte: u8| u16::from(byte) % (good::MOST_VECTORS + 1);
        match what % 32 {
            0..6 => Self::Fire(vector(draw.byte())),
            6..10 => Self::Control(u16::from(draw.byte()) << 8 | u16::from(what)),
            10..17 => {
                let (vector, field) = (vector(draw.byte()), draw.byte() % 4);
                // The mask bit is worth more than all others.
                let value = if what < 14 { u32::from(what >> 7) } else { draw.dword() };
                let field = if what < 14 { 3 } else { field };
                Self::Table { vector, field, value, wide: what & 0x40 != 0 }
            }
            17..21 => Self::Msi(draw.byte() % 0x18, draw.dword().to_le_bytes(), size.min(4)),
            21..23 => Self::Command(draw.word()),
            23 => Self::Place(draw.byte(), draw.byte()),
            24..26 => {
                let (index, offset) = (draw.byte(), draw.word());
                Self::Bar { index, offset, value: draw.qword().to_le_bytes(), size }
            }
            26 => {
                let (register, value) = (draw.word(), draw.dword().to_le_bytes());
                Self::Config { register, value, size: size.min(4) }
            }
            27 => Self::Ports(draw.byte(), draw.dword().to_le_bytes(), size.min(4)),
            28 => Self::Power(draw.byte() % 4),
            29 => Self::FunctionReset,
            30 => Self::Rom(draw.dword()),
            _ => Self::Reset,
        }
    }

    /// Whether windows or the line can come or go by it.
    fn moves(&self) -> bool {
        !matches!(self, Self::Fire(_) | Self::Control(_) | Self::Table { .. } | Self::Msi(..))
    }

    fn perform(&self, slot: &Slot) {
        let interrupts = slot.function.interrupts();
        let mut back = [0; 8];
        match *self {
            Self::Fire(vector) => drop(slot.machine.fire(vector)),
            Self::Control(value) => slot.write(MSIX + 2, &value.to_le_bytes()),
            Self::Table { vector, field, value, wide } => {
                let at = TABLE.offset + u64::from(vector) * msix::ENTRY_SIZE + u64::from(field) * 4;
                let both = u64::from(value) << 32 | u64::from(value);
                let length = if wide { 8 } else { 4 };
                interrupts.write_bar(TABLE.bar, at, &both.to_le_bytes()[..length]);
            }
            Self::Msi(at, value, size) => slot.write(MSI + u16::from(at), &value[..size]),
            Self::Command(value) => slot.write(COMMAND, &value.to_le_bytes()),
            Self::Place(index, step) => slot.place(index, step),
            Self::Bar { index, offset, value, size } => {
                slot.write_bar(index, offset.into(), &value[..size]);
                slot.read_bar(index, offset.into(), &mut back[..size]);
            }
            Self::Config { register, value, size } => {
                slot.write(register, &value[..size]);
                slot.read(register, &mut back[..size]);
            }
            Self::Ports(register, value, size) => {
                slot.write_through_ports(register, &value[..size]);
            }
            Self::Power(state) => slot.write(POWER + 4, &[state]),
            Self::FunctionReset => slot.write(EXPRESS + 9, &[0x80]),
            Self::Rom(value) => slot.write(ROM_BAR, &value.to_le_bytes()),
            Self::Reset => {
                let steps = resets::steps(&[Arc::clone(&slot.function)]);
                for step in steps {
                    step.quiesce().expect("a device that answers");
                    step.reset().expect("a device that can be reset");
                }
                live::assert_quiet(slot);
            }
        }
    }
}
