//! Property: whatever a guest writes and a device signals, in whatever order,
//! the function's interrupts do what the [`reference`] model does.
//!
//! Everything that can be seen is compared after each operation: messages sent,
//! registers read back, Pending bits, the active index, the wired vectors.

mod board;
mod cases;
mod reference;

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};

use self::board::{Events, Handle, Limits};
use self::reference::Model;
use super::{Abilities, Choices, Interrupts, Refusal};
use crate::pci::msix::{ENABLE, FUNCTION_MASK};
use crate::vfio::config::{Location, MsixLayout};
use crate::vfio::sys::device::Index;

/// Random sequences of each of the two tests: 100,000 together.
const SEQUENCES: u32 = 50_000;
const MOST_OPERATIONS: usize = 40;
const MOST_VECTORS: u16 = 5;
/// The same: MSI has four.
const SLOTS: usize = 5;

/// 64-bit, maskable, capable of four vectors.
const MSI_CONTROL: u16 = 0x184;
const MSI_BYTES: usize = 24;
const TABLE: Location = Location { bar: 3, offset: 0x40 };
const PENDING: Location = Location { bar: 1, offset: 0x2000 };

/// One function and its host.
#[derive(Clone, Copy, Debug)]
struct Setup {
    vectors: u16,
    /// The host can add MSI-X vectors while others are live.
    grows: bool,
    has_line: bool,
    /// Masked vectors are masked at the device.
    exact: bool,
}

/// What a guest or a device does.
#[derive(Clone, Copy, Debug)]
enum Operation {
    /// The device has something to say.
    Fire(u16),
    /// It has not any more.
    Retract(u16),
    /// A vector is masked while the device fires it.
    MaskUnderFire(u16),
    /// A doubleword, of which bit 0 counts, to a vector's control.
    MaskVector(u16, u32),
    /// A doubleword anywhere in the table.
    Write4(u64, u32),
    /// A quadword anywhere in the table.
    Write8(u64, u64),
    /// An access of `.1` bytes at an offset in the table, that is not one of the above.
    Odd(u64, usize),
    /// To the pending bits.
    WritePending(u64, u64),
    /// Message control of MSI-X.
    Control(u16),
    Msi(MsiWrite),
    AllowLine(bool),
    Reset,
    /// The host gets less to give, or more.
    Limit(Limits),
}

/// A register of MSI.
#[derive(Clone, Copy, Debug)]
enum MsiWrite {
    /// With the number of vectors as a power of two.
    Control {
        enable: bool,
        shift: u16,
    },
    Address(u32),
    Data(u16),
    Masks(u32),
}

fn setup(grows: bool) -> impl Strategy<Value = Setup> {
    (1..=MOST_VECTORS, any::<[bool; 2]>()).prop_map(move |(vectors, [has_line, exact])| Setup {
        vectors,
        grows,
        has_line,
        exact,
    })
}

/// Drawn as one number, which is quick, and reads as an operation.
fn operation(draw: u64) -> Operation {
    use Operation::*;
    let [what, which, a, b, c, d, e, f] = draw.to_le_bytes();
    let value = u32::from_le_bytes([a, b, c, d]);
    let vector = u16::from(which) % MOST_VECTORS;
    let wide = u64::from(value) | u64::from(e) << 32;
    match what % 64 {
        0..13 => Fire(vector),
        13 => Retract(vector),
        14..16 => MaskUnderFire(vector),
        16..30 => MaskVector(vector, value),
        30..36 => Write4(u64::from(which % 20) * 4, value),
        36..40 => Write8(u64::from(which % 10) * 8, wide),
        40..42 => odd(u64::from(which) % 80, usize::from(f % 17)),
        42 => WritePending(u64::from(which % 2) * 4, wide),
        43..51 => Control(u16::from_le_bytes([a, b]) | if c % 2 == 0 { ENABLE } else { 0 }),
        51..60 => Msi(msi_write(what % 64 - 51, value)),
        60..62 => AllowLine(a % 4 != 0),
        62 => Reset,
        _ => Limit(limits([a, b, c])),
    }
}

/// Every other time there is enough of all again.
fn limits([which, vectors, descriptors]: [u8; 3]) -> Limits {
    let some = |number: u8| usize::from(number) % (SLOTS + 1);
    match which % 4 {
        0 => Limits { vectors: some(vectors), ..Limits::NONE },
        1 => Limits { vectors: some(vectors), descriptors: some(descriptors) },
        _ => Limits::NONE,
    }
}

fn msi_write(what: u8, value: u32) -> MsiWrite {
    let [a, b, ..] = value.to_le_bytes();
    match what {
        0..4 => MsiWrite::Control { enable: a % 2 == 0, shift: u16::from(b % 4) },
        4 => MsiWrite::Address(value),
        5 => MsiWrite::Data(u16::from_le_bytes([a, b])),
        _ => MsiWrite::Masks(value),
    }
}

/// Anything but an aligned doubleword or quadword.
fn odd(offset: u64, length: usize) -> Operation {
    let defined = matches!(length, 4 | 8) && offset.is_multiple_of(length as u64);
    Operation::Odd(if defined { offset + 1 } else { offset }, length)
}

type Outcome = Result<(), TestCaseError>;

/// The code, and the fakes around it.
fn function(setup: Setup, events: &Arc<Events>) -> (Interrupts, Handle) {
    let Setup { vectors, grows, has_line, exact } = setup;
    let handle = Handle::new(Arc::clone(events), grows);
    let layout = MsixLayout { count: vectors, table: TABLE, pending: PENDING };
    let abilities = Abilities { msi_control: Some(MSI_CONTROL), msix: Some(layout) };
    let line = has_line.then(|| Box::new(handle.line()) as Box<_>);
    let wiring = Arc::new(handle.clone());
    let choices = Choices { no_resize: false, exact_pending: exact };
    let vectors = Box::new(handle.clone());
    let interrupts = Interrupts::new(abilities, choices, wiring, vectors, line);
    (interrupts, handle)
}

/// The code and the model, side by side.
struct Pair {
    interrupts: Interrupts,
    handle: Handle,
    model: Model,
    /// The host has had limits.
    limited: bool,
}

impl Pair {
    fn new(setup: Setup, events: &Arc<Events>) -> Self {
        let (interrupts, handle) = function(setup, events);
        let model = Model::new(setup);
        Self { interrupts, handle, model, limited: false }
    }

    fn perform(&mut self, operation: Operation) -> Outcome {
        use Operation::*;
        let model = &mut self.model;
        match operation {
            Fire(vector) => {
                self.handle.fire_from_device(vector);
                model.fire(vector.into());
            }
            Retract(vector) => {
                self.handle.retract(vector);
                model.retract(vector.into());
            }
            MaskUnderFire(vector) => {
                let hit = model.is_live(vector.into());
                self.handle.fire_while_masking(vector);
                self.write_table(u64::from(vector) * 16 + 12, &[1])?;
                if hit {
                    self.model.count(vector.into());
                }
            }
            MaskVector(vector, value) => self.write_table(u64::from(vector) * 16 + 12, &[value])?,
            Write4(offset, value) => self.write_table(offset, &[value])?,
            Write8(offset, value) => {
                let [low, high] = [value, value >> 32].map(|half| (half & 0xffff_ffff) as u32);
                self.write_table(offset, &[low, high])?;
            }
            Odd(offset, length) => self.odd(offset, length)?,
            WritePending(offset, value) => {
                let bytes = value.to_le_bytes();
                let length = if offset == 0 { 8 } else { 4 };
                let at = PENDING.offset + offset;
                prop_assert!(self.interrupts.write_bar(PENDING.bar, at, &bytes[..length]));
            }
            Control(value) => {
                self.interrupts.write_msix_control(value);
                model.write(Some(Index::Msix), |model| {
                    model.enabled = value & ENABLE != 0;
                    model.function_masked = value & FUNCTION_MASK != 0;
                });
            }
            AllowLine(allowed) => {
                self.interrupts.allow_line(allowed);
                model.write(Some(Index::Intx), |model| model.line_allowed = allowed);
            }
            Reset => {
                self.interrupts.reset();
                model.reset();
            }
            Msi(write) => self.write_msi(write),
            Limit(limits) => {
                self.handle.limit(limits);
                self.limited = true;
                model.limits = limits;
            }
        }
        Ok(())
    }

    fn write_msi(&mut self, write: MsiWrite) {
        let msi = |offset, bytes: &[u8]| self.interrupts.write_msi(offset, bytes);
        let enables = matches!(write, MsiWrite::Control { .. }).then_some(Index::Msi);
        self.model.write(enables, |model| match write {
            MsiWrite::Control { enable, shift } => {
                msi(2, &(u16::from(enable) | shift << 4).to_le_bytes());
                (model.msi_enabled, model.msi_shift) = (enable, shift.min(2));
                model.latch_msi();
            }
            MsiWrite::Address(value) => {
                msi(4, &value.to_le_bytes());
                model.msi.address = u64::from(value & !3);
                if !model.msi_enabled {
                    model.latch_msi();
                }
            }
            MsiWrite::Data(value) => {
                msi(12, &value.to_le_bytes());
                model.msi.data = value.into();
                model.latch_msi();
            }
            MsiWrite::Masks(value) => {
                msi(16, &value.to_le_bytes());
                model.msi_masks = value & 0xf;
            }
        });
    }

    /// One or two doublewords at an offset that is aligned to all of them.
    fn write_table(&mut self, offset: u64, words: &[u32]) -> Outcome {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let inside = offset < self.model.table.len() as u64 * 16;
        let taken = self.interrupts.write_bar(TABLE.bar, TABLE.offset + offset, &bytes);
        prop_assert_eq!(taken, inside, "an access past the last entry is the device's");
        if inside {
            self.model.write_table(usize::try_from(offset).unwrap(), words);
        }
        Ok(())
    }

    fn odd(&self, offset: u64, length: usize) -> Outcome {
        let mut data = vec![0x5a; length];
        let inside = offset < self.model.table.len() as u64 * 16;
        prop_assert_eq!(self.interrupts.write_bar(TABLE.bar, TABLE.offset + offset, &data), inside);
        prop_assert_eq!(
            self.interrupts.read_bar(TABLE.bar, TABLE.offset + offset, &mut data),
            inside
        );
        prop_assert!(!inside || data.iter().all(|byte| *byte == 0xff), "reads as ones");
        Ok(())
    }

    /// Everything that `operation` can have changed.
    fn compare(&mut self, operation: Operation) -> Outcome {
        use Operation::*;
        let active = self.model.active();
        let [mut sent, mut expected] =
            [self.handle.take_sent(), std::mem::take(&mut self.model.sent)];
        // Vectors that go at once go in any order.
        [&mut sent, &mut expected]
            .into_iter()
            .for_each(|sent| sent.sort_by_key(|m| (m.address, m.data)));
        prop_assert_eq!(sent, expected, "messages");
        prop_assert!(self.handle.is_active(active), "active index is not {:?}", active);
        prop_assert_eq!(self.handle.wired(), self.model.host.wired, "wired vectors");
        let mut pending = [0; 4];
        prop_assert!(self.interrupts.read_bar(PENDING.bar, PENDING.offset, &mut pending));
        let bits = number(&self.model.pending(Index::Msix));
        prop_assert_eq!(u32::from_le_bytes(pending), bits, "Pending bits");
        if self.limited {
            self.compare_refusals()?;
        }
        match operation {
            Fire(_) if active == Some(Index::Msi) => self.compare_msi(),
            Fire(_) | Retract(_) | AllowLine(_) | Limit(_) => Ok(()),
            Msi(_) => self.compare_msi(),
            MaskUnderFire(_) | MaskVector(..) | Write4(..) | Write8(..) | Odd(..)
            | WritePending(..) | Control(_) => self.compare_msix(),
            Reset => self.compare_registers(),
        }
    }

    /// What the host refuses can be seen.
    fn compare_refusals(&self) -> Outcome {
        let (view, host) = (self.interrupts.view(), &self.model.host);
        prop_assert_eq!(view.refusal.map(name), host.refused.map(str::to_owned), "kind refused");
        let mut refusals = [const { None }; SLOTS];
        for vector in view.vectors {
            refusals[usize::from(vector.vector)] = vector.refusal.map(name);
        }
        prop_assert_eq!(refusals, host.refusals.map(|name| name.map(str::to_owned)), "refusals");
        Ok(())
    }

    fn compare_registers(&self) -> Outcome {
        self.compare_msix()?;
        self.compare_msi()
    }

    fn compare_msix(&self) -> Outcome {
        let model = &self.model;
        let size = u16::try_from(model.table.len() - 1).unwrap();
        let [enable, mask] = [model.enabled, model.function_masked].map(u16::from);
        let control = size | (enable * ENABLE) | (mask * FUNCTION_MASK);
        prop_assert_eq!(self.interrupts.msix_control(), control, "message control");
        for (at, entry) in (TABLE.offset..).step_by(16).zip(&model.table) {
            let halves = [self.read8(TABLE.bar, at)?, self.read8(TABLE.bar, at + 8)?];
            let [a, b, c, d] = entry.words.map(u64::from);
            prop_assert_eq!(halves, [a | b << 32, c | d << 32], "entry at {:#x}", at);
        }
        Ok(())
    }

    fn compare_msi(&self) -> Outcome {
        let model = &self.model;
        let pending = number(&model.pending(Index::Msi));
        let control = MSI_CONTROL | u16::from(model.msi_enabled) | model.msi_shift << 4;
        let mut image = [0; MSI_BYTES];
        self.interrupts.read_msi(0, &mut image);
        let mut expected = [0; MSI_BYTES];
        expected[2..4].copy_from_slice(&control.to_le_bytes());
        expected[4..12].copy_from_slice(&model.msi.address.to_le_bytes());
        expected[12..16].copy_from_slice(&model.msi.data.to_le_bytes());
        expected[16..20].copy_from_slice(&model.msi_masks.to_le_bytes());
        expected[20..].copy_from_slice(&pending.to_le_bytes());
        prop_assert_eq!(image, expected, "MSI");
        Ok(())
    }

    fn read8(&self, bar: usize, offset: u64) -> Result<u64, TestCaseError> {
        let mut data = [0; 8];
        prop_assert!(self.interrupts.read_bar(bar, offset, &mut data));
        Ok(u64::from_le_bytes(data))
    }
}

fn name(refusal: Refusal) -> String {
    refusal.name().into_owned()
}

fn number(bits: &[bool]) -> u32 {
    bits.iter().rev().fold(0, |number, bit| number << 1 | u32::from(*bit))
}

/// Case 25 of the design.
#[test]
fn case_25_random_operations_do_what_the_model_does() {
    run(true);
}

/// The same with Linux before 6.5.
#[test]
fn case_25_random_operations_do_what_the_model_does_on_a_host_that_cannot_add_vectors() {
    run(false);
}

fn run(grows: bool) {
    let events = Arc::new(Events::new(MOST_VECTORS));
    let config = Config {
        cases: SEQUENCES,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    let operations = vec(any::<u64>().prop_map(operation), 1..=MOST_OPERATIONS);
    let outcome =
        TestRunner::new(config).run(&(setup(grows), operations), |(setup, operations)| {
            let mut pair = Pair::new(setup, &events);
            for operation in operations {
                pair.perform(operation)?;
                pair.compare(operation)?;
            }
            pair.compare_registers()
        });
    if let Err(TestError::Fail(why, (setup, operations))) = &outcome {
        panic!("{why}\n{setup:?}\n{}", lines(operations));
    }
    outcome.unwrap();
    println!("{SEQUENCES} sequences of 1 to {MOST_OPERATIONS} operations");
}

fn lines(operations: &[Operation]) -> String {
    operations.iter().map(|operation| format!("    {operation:?}\n")).collect()
}
