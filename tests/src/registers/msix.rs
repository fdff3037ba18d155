//! MSI-X of a function, as software in the guest programs it (PCI 3.0, 6.8.2): message control, the table,
//! the pending bits.

use super::{Registers, Width, capability};
use crate::error::Result;
use crate::guest::Guest;

/// Message control: MSI-X Enable.
pub const ENABLE: u64 = 1 << 15;
/// Message control: Function Mask.
pub const FUNCTION_MASK: u64 = 1 << 14;
/// Message control: table size less one.
const SIZE_MASK: u64 = 0x7ff;

// Within the capability.
const CONTROL: u16 = 2;
const TABLE: u16 = 4;
const PENDING: u16 = 8;
const BAR_MASK: u64 = 7;

// Within an entry of the table.
const ENTRY_SIZE: u64 = 16;
const DATA: u64 = 8;
const VECTOR_CONTROL: u64 = 12;
const MASK_BIT: u64 = 1;

/// A message: what a vector writes, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Address.
    pub address: u64,
    /// Data.
    pub data: u64,
}

impl Message {
    /// The fixed, edge-triggered interrupt `vector` of the processor with this APIC id (Intel SDM 3A,
    /// 12.11).
    pub fn interrupt(apic_id: u64, vector: u8) -> Self {
        Self { address: 0xfee0_0000 | apic_id << 12, data: vector.into() }
    }
}

/// MSI-X of one function.
#[derive(Debug, Clone)]
pub struct Msix {
    /// The function.
    pub function: Registers,
    /// Vectors in its table.
    pub count: u16,
    capability: u16,
    table: (usize, u64),
    pending: (usize, u64),
}

impl Msix {
    /// Finds the table and the pending bits of the function at `bdf`.
    pub fn of(guest: &mut Guest, bdf: &str) -> Result<Self> {
        let function = Registers::of(guest, bdf)?;
        let capability = function.capability(capability::MSIX)?;
        let mut location = |register: u16| {
            let value = function.config_read(guest, Width::Dword, capability + register)?;
            let bar = usize::try_from(value & BAR_MASK).unwrap_or_default();
            Ok((bar, value & !BAR_MASK))
        };
        let (table, pending) = (location(TABLE)?, location(PENDING)?);
        let control = function.config_read(guest, Width::Word, capability + CONTROL)?;
        let count = u16::try_from((control & SIZE_MASK) + 1).unwrap_or_default();
        Ok(Self { function, count, capability, table, pending })
    }

    /// The BAR that holds the table.
    pub fn table_bar(&self) -> usize {
        self.table.0
    }

    /// Physical addresses of the table and of the pending bits.
    pub fn addresses(&self) -> Result<[u64; 2]> {
        let (table, pending) = (self.table, self.pending);
        Ok([self.function.bar(table.0)? + table.1, self.function.bar(pending.0)? + pending.1])
    }

    /// Switches MSI-X on or off.
    pub fn enable(&self, guest: &mut Guest, enabled: bool) -> Result {
        let others = self.control(guest)? & !ENABLE;
        self.write_control(guest, if enabled { others | ENABLE } else { others })
    }

    /// Message control.
    pub fn control(&self, guest: &mut Guest) -> Result<u64> {
        self.function.config_read(guest, Width::Word, self.capability + CONTROL)
    }

    /// Writes message control; the size does not stick.
    pub fn write_control(&self, guest: &mut Guest, control: u64) -> Result {
        self.function.config_write(guest, Width::Word, self.capability + CONTROL, control)
    }

    /// Sets the function mask, or clears it.
    pub fn mask_function(&self, guest: &mut Guest, masked: bool) -> Result {
        let others = self.control(guest)? & !FUNCTION_MASK;
        self.write_control(guest, if masked { others | FUNCTION_MASK } else { others })
    }

    /// Masks a vector.
    pub fn mask(&self, guest: &mut Guest, vector: u16) -> Result {
        self.write_entry(guest, vector, VECTOR_CONTROL, MASK_BIT)
    }

    /// Unmasks a vector.
    pub fn unmask(&self, guest: &mut Guest, vector: u16) -> Result {
        self.write_entry(guest, vector, VECTOR_CONTROL, 0)
    }

    /// Whether the vector's own mask bit is set.
    pub fn is_masked(&self, guest: &mut Guest, vector: u16) -> Result<bool> {
        Ok(self.read_entry(guest, vector, VECTOR_CONTROL)? & MASK_BIT != 0)
    }

    /// A vector's message.
    pub fn message(&self, guest: &mut Guest, vector: u16) -> Result<Message> {
        let (low, high) = (self.read_entry(guest, vector, 0)?, self.read_entry(guest, vector, 4)?);
        Ok(Message { address: high << 32 | low, data: self.read_entry(guest, vector, DATA)? })
    }

    /// Gives a vector a message, as three writes; it should be masked.
    pub fn write_message(&self, guest: &mut Guest, vector: u16, message: Message) -> Result {
        self.write_entry(guest, vector, 0, message.address & 0xffff_ffff)?;
        self.write_entry(guest, vector, 4, message.address >> 32)?;
        self.write_entry(guest, vector, DATA, message.data)
    }

    /// All vectors whose Pending bit is set.
    pub fn pending(&self, guest: &mut Guest) -> Result<Vec<u16>> {
        let mut pending = Vec::new();
        for first in (0..self.count).step_by(64) {
            let (bar, start) = self.pending;
            let bits =
                self.function.read(guest, Width::Qword, (bar, start + u64::from(first / 8)))?;
            pending.extend((0..64).filter(|bit| bits >> bit & 1 != 0).map(|bit| first + bit));
        }
        Ok(pending)
    }

    fn read_entry(&self, guest: &mut Guest, vector: u16, register: u64) -> Result<u64> {
        self.function.read32(guest, self.table.0, self.entry(vector) + register)
    }

    fn write_entry(&self, guest: &mut Guest, vector: u16, register: u64, value: u64) -> Result {
        self.function.write32(guest, self.table.0, self.entry(vector) + register, value)
    }

    fn entry(&self, vector: u16) -> u64 {
        self.table.1 + u64::from(vector) * ENTRY_SIZE
    }
}
