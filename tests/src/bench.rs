//! A function whose vectors a scene fires at will, and the guest's counts beside them.

use std::time::Duration;

use serde_json::json;

use crate::emulator::register;
use crate::error::{Error, Result, ensure, same};
use crate::registers::Msix;
use crate::registers::msix::Message;
use crate::tally::Row;
use crate::vm::Vm;
use crate::wait::{Look, until};

/// From an event of the device to its Pending bit.
const PENDING_LIMIT: Duration = Duration::from_secs(30);

/// Extended interrupt registers of Intel's 82576, all in BAR 0 (its data sheet, 8.8): a bit for each vector.
mod igb {
    pub(super) const GENERAL: u64 = 0x1514;
    pub(super) const MULTIPLE_MSIX: u64 = 1 << 4;
    pub(super) const CAUSE_SET: u64 = 0x1520;
    pub(super) const MASK_SET: u64 = 0x1524;
    pub(super) const AUTO_CLEAR: u64 = 0x152c;
}

/// Vectors of an igb's queues under a driver with two processors, two of each kind. Its watchdog fires them
/// now and then; vector 0, for everything else, is silent.
pub const IGB_QUEUES: [u16; 4] = [1, 2, 3, 4];

/// Who makes a vector fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stimulus {
    /// The hardware: the guest sets a cause in the igb's EICS.
    Igb,
    /// The function itself: the guest writes a register of our emulator's.
    Emulator,
    /// VFIO's loopback: `vm.test-interrupt`.
    Loopback,
}

/// A vector, and the row of the guest that counts it.
#[derive(Debug, Clone)]
pub struct Vector {
    /// Its index in the table.
    pub number: u16,
    /// Where the guest counts it.
    pub row: Row,
}

/// The function and its guest.
#[derive(Debug)]
pub struct Bench<'v> {
    /// The guest's VMM.
    pub vm: &'v mut Vm,
    /// Id of the function.
    pub id: &'static str,
    /// Its registers.
    pub msix: Msix,
    stimulus: Stimulus,
    /// Vectors that the guest's driver fires itself, now and then.
    restless: Vec<u16>,
}

impl<'v> Bench<'v> {
    /// The function `id`, at `bdf` in the guest.
    pub fn new(vm: &'v mut Vm, id: &'static str, bdf: &str, stimulus: Stimulus) -> Result<Self> {
        let msix = Msix::of(&mut vm.guest, bdf)?;
        Ok(Self { vm, id, msix, stimulus, restless: Vec::new() })
    }

    /// Does what a driver does first, for a function that has none: registers and messages on, and MSI-X.
    pub fn without_driver(mut self) -> Result<Self> {
        self.switch_on()?;
        Ok(self)
    }

    /// Registers and messages on, and MSI-X, as after a reset that took them away.
    pub fn switch_on(&mut self) -> Result {
        let guest = &mut self.vm.guest;
        self.msix.function.switch_on(guest, false)?;
        if self.stimulus == Stimulus::Igb {
            self.msix.function.write32(guest, 0, igb::GENERAL, igb::MULTIPLE_MSIX)?;
        }
        self.msix.enable(guest, true)
    }

    /// Leaves these vectors out of what [`Bench::pending_are`] looks at.
    pub fn but(mut self, restless: &[u16]) -> Self {
        self.restless = restless.to_vec();
        self
    }

    /// A vector that the guest's driver has requested.
    pub fn of_driver(&self, number: u16) -> Vector {
        Vector { number, row: Row::Vector(self.msix.function.bdf.clone(), number) }
    }

    /// Takes a vector that no driver uses: it stays masked and sends the interrupt of `row` to a processor.
    pub fn spare(&mut self, number: u16, row: Row, apic_id: u64) -> Result<Vector> {
        let guest = &mut self.vm.guest;
        ensure(self.msix.is_masked(guest, number)?, || format!("vector {number} is in use"))?;
        let interrupt = row.interrupt().unwrap_or_default();
        self.msix.write_message(guest, number, Message::interrupt(apic_id, interrupt))?;
        if self.stimulus == Stimulus::Igb {
            for register in [igb::AUTO_CLEAR, igb::MASK_SET] {
                let others = self.msix.function.read32(guest, 0, register)?;
                self.msix.function.write32(guest, 0, register, others | 1 << number)?;
            }
        }
        Ok(Vector { number, row })
    }

    /// Fires a vector once.
    pub fn fire(&mut self, vector: &Vector) -> Result {
        let number = vector.number;
        match self.stimulus {
            Stimulus::Igb => {
                let function = &self.msix.function;
                function.write32(&mut self.vm.guest, 0, igb::CAUSE_SET, 1 << number)
            }
            Stimulus::Emulator => {
                let function = &self.msix.function;
                function.write32(&mut self.vm.guest, 0, register::FIRE, number.into())
            }
            Stimulus::Loopback => {
                let body = json!({ "id": self.id, "vector": number });
                self.vm.api.put_json("vm.test-interrupt", &body)?.ok().map(drop)
            }
        }
    }

    /// The command with which the guest fires an igb's vector itself.
    pub fn command(&self, vector: &Vector) -> Result<String> {
        let address = self.msix.function.bar(0)? + igb::CAUSE_SET;
        Ok(format!("devmem {address:#x} 32 {:#x}", 1 << vector.number))
    }

    /// Fires a live vector and waits until the guest has counted it: what was fired before has arrived
    /// by then, if it was on its way.
    pub fn fence(&mut self, fence: &Vector) -> Result {
        let before = self.count(fence)?;
        self.fire(fence)?;
        self.counts(fence, before + 1)
    }

    /// Masks a vector.
    pub fn mask(&mut self, vector: &Vector) -> Result {
        self.msix.mask(&mut self.vm.guest, vector.number)
    }

    /// Unmasks a vector.
    pub fn unmask(&mut self, vector: &Vector) -> Result {
        self.msix.unmask(&mut self.vm.guest, vector.number)
    }

    /// Sets or clears the function mask.
    pub fn mask_function(&mut self, masked: bool) -> Result {
        self.msix.mask_function(&mut self.vm.guest, masked)
    }

    /// What the guest has counted of a vector.
    pub fn count(&mut self, vector: &Vector) -> Result<u64> {
        vector.row.count(&mut self.vm.guest)
    }

    /// Waits until the guest has counted a vector so often; more is an error.
    pub fn counts(&mut self, vector: &Vector, expected: u64) -> Result {
        vector.row.reaches(&mut self.vm.guest, expected)
    }

    /// Fails unless the guest has counted a vector exactly so often by now.
    pub fn has_counted(&mut self, vector: &Vector, expected: u64) -> Result {
        same(&vector.row.to_string(), &self.count(vector)?, &expected)
    }

    /// Waits until exactly these Pending bits are set.
    pub fn pending_are(&mut self, expected: &[&Vector]) -> Result {
        let mut expected: Vec<u16> = expected.iter().map(|vector| vector.number).collect();
        expected.sort_unstable();
        until(&format!("pending vectors {expected:?}"), PENDING_LIMIT, || {
            let mut pending = self.msix.pending(&mut self.vm.guest)?;
            pending.retain(|vector| !self.restless.contains(vector));
            if let Some(wrong) = pending.iter().find(|vector| !expected.contains(vector)) {
                return Err(Error::Unexpected(format!("vector {wrong} is pending: {pending:?}")));
            }
            let all = pending == expected;
            Ok(if all { Look::Holds(()) } else { Look::NotYet(format!("{pending:?}")) })
        })
    }
}
