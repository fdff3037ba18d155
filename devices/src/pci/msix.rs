//! The MSI-X capability and table as pure state: writes go in, route changes
//! come out.
//!
//! PCI 3.0, 6.8.2 and 6.8.3. Nothing here signals, locks or calls the kernel,
//! so every rule of the specification is a test by value. Pending bits are not
//! here: they are facts of whoever counts the events.
//!
//! ```text
//!                 unmasked            live: the message latched at the last
//!   vector mask ────────────► live    unmask is delivered; address writes are
//!   function mask ◄────────── masked  staged until the data or control write
//!   disabled        masked            that completes them (never a mix)
//! ```

use crate::irq::{Change, Message, Route};

/// Bytes of one table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Most vectors a table can have: the size field has 11 bits.
pub const MOST_VECTORS: u16 = 2048;
/// Message control: MSI-X Enable.
pub const ENABLE: u16 = 1 << 15;
/// Message control: Function Mask.
pub const FUNCTION_MASK: u16 = 1 << 14;
/// Message control: table size minus one.
pub const SIZE_MASK: u16 = 0x7ff;

const MASK_BIT: u32 = 1;

/// Table and control bits of one function.
#[derive(Clone, Debug)]
pub struct Msix {
    entries: Box<[Entry]>,
    enabled: bool,
    function_masked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// What the guest reads back.
    written: Message,
    /// Vector control, of which only the mask bit exists.
    masked: bool,
    /// What is delivered while the vector is live.
    latched: Message,
}

/// What the guest sees of one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Address and data as written.
    pub message: Message,
    /// The entry's own mask bit.
    pub masked: bool,
    /// Whether the vector delivers: enabled, and neither mask is set.
    pub live: bool,
}

/// The doublewords of an entry, in table order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    AddressLow,
    AddressHigh,
    Data,
    Control,
}

impl Msix {
    /// As after reset: disabled, every vector masked (6.8.2.3, 6.8.2.9).
    pub fn new(count: u16) -> Self {
        let reset =
            Entry { written: Message::default(), masked: true, latched: Message::default() };
        let entries = vec![reset; usize::from(count.min(MOST_VECTORS))].into();
        Self { entries, enabled: false, function_masked: false }
    }

    /// Number of vectors.
    pub fn count(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(MOST_VECTORS)
    }

    /// Back to the state after reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.count());
    }

    /// Whether the function uses MSI-X.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the function mask is set, MSI-X being on or not.
    pub fn function_masked(&self) -> bool {
        self.function_masked
    }

    /// Message control as the guest reads it.
    pub fn control(&self) -> u16 {
        let size = self.count().saturating_sub(1);
        let enable = if self.enabled { ENABLE } else { 0 };
        let mask = if self.function_masked { FUNCTION_MASK } else { 0 };
        size | enable | mask
    }

    /// Guest writes message control. Returns every vector that wakes or sleeps.
    pub fn write_control(&mut self, control: u16) -> Vec<Change> {
        let before = self.open();
        self.enabled = control & ENABLE != 0;
        self.function_masked = control & FUNCTION_MASK != 0;
        let after = self.open();
        if before == after {
            return Vec::new();
        }
        let unmasked = (0..).zip(self.entries.iter_mut()).filter(|(_, entry)| !entry.masked);
        unmasked
            .map(|(vector, entry)| {
                entry.latched = entry.written;
                Change { vector, route: entry.route(after) }
            })
            .collect()
    }

    /// Guest reads the table: aligned doublewords and quadwords; anything else
    /// reads as ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if !aligned(offset, data.len()) {
            return data.fill(0xff);
        }
        for (at, dword) in (offset..).step_by(4).zip(data.chunks_exact_mut(4)) {
            let value = self.entry_at(at).map(|vector| &self.entries[vector]);
            let value =
                value.zip(Field::at(at)).map_or(u32::MAX, |(entry, field)| entry.get(field));
            dword.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Guest writes the table: aligned doublewords and quadwords; anything else
    /// changes nothing. Returns the change, if the vector is heard of it.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Change> {
        if !aligned(offset, data.len()) {
            return None;
        }
        let index = self.entry_at(offset)?;
        let open = self.open();
        let entry = &mut self.entries[index];
        let before = entry.route(open);
        let mut completes = false;
        for (at, dword) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            let field = Field::at(at)?;
            entry.set(field, u32::from_le_bytes(dword.try_into().ok()?));
            completes |= matches!(field, Field::Data | Field::Control);
        }
        if completes {
            entry.latched = entry.written;
        }
        let route = entry.route(open);
        let vector = u16::try_from(index).ok()?;
        (route != before).then_some(Change { vector, route })
    }

    /// What every vector that is live does now.
    pub fn live(&self) -> Vec<Change> {
        let open = self.open();
        let all = (0..).zip(self.entries.iter());
        all.map(|(vector, entry)| Change { vector, route: entry.route(open) })
            .filter(|change| change.route != Route::Masked)
            .collect()
    }

    /// The guest's view of `vector`.
    pub fn view(&self, vector: u16) -> Option<View> {
        let entry = self.entries.get(usize::from(vector))?;
        let live = entry.route(self.open()) != Route::Masked;
        Some(View { message: entry.written, masked: entry.masked, live })
    }

    /// Whether vectors deliver unless they are masked themselves.
    fn open(&self) -> bool {
        self.enabled && !self.function_masked
    }

    fn entry_at(&self, offset: u64) -> Option<usize> {
        let index = usize::try_from(offset / ENTRY_SIZE).ok()?;
        (index < self.entries.len()).then_some(index)
    }
}

impl Entry {
    fn route(&self, open: bool) -> Route {
        if open && !self.masked { Route::To(self.latched) } else { Route::Masked }
    }

    fn get(&self, field: Field) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.written.address.to_le_bytes();
        match field {
            Field::AddressLow => u32::from_le_bytes([a, b, c, d]),
            Field::AddressHigh => u32::from_le_bytes([e, f, g, h]),
            Field::Data => self.written.data,
            Field::Control => u32::from(self.masked),
        }
    }

    fn set(&mut self, field: Field, value: u32) {
        let address = &mut self.written.address;
        match field {
            // The low two bits are always zero (6.8.2.4).
            Field::AddressLow => *address = (*address & !0xffff_ffff) | u64::from(value & !3),
            Field::AddressHigh => *address = (*address & 0xffff_ffff) | u64::from(value) << 32,
            Field::Data => self.written.data = value,
            Field::Control => self.masked = value & MASK_BIT != 0,
        }
    }
}

impl Field {
    fn at(offset: u64) -> Option<Self> {
        match offset % ENTRY_SIZE {
            0 => Some(Self::AddressLow),
            4 => Some(Self::AddressHigh),
            8 => Some(Self::Data),
            12 => Some(Self::Control),
            _ => None,
        }
    }
}

/// Software must use aligned doublewords or quadwords (6.8.2).
fn aligned(offset: u64, length: usize) -> bool {
    match length {
        4 => offset.is_multiple_of(4),
        8 => offset.is_multiple_of(8),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
