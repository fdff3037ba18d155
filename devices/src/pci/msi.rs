//! The MSI capability as pure state (PCI 3.0, 6.8.1): writes go in, route
//! changes come out.

use crate::irq::{Change, Message, Route};
use crate::pci::config::{dword, word};
use crate::pci::msix::View;

/// Most vectors the capability can have.
pub const MOST_VECTORS: u16 = 32;

const CONTROL: usize = 2;
const ENABLE: u16 = 1;
const MULTIPLE_CAPABLE_SHIFT: u16 = 1;
const MULTIPLE_ENABLE_SHIFT: u16 = 4;
const MULTIPLE_MASK: u16 = 7;
const WIDE: u16 = 1 << 7;
const MASKABLE: u16 = 1 << 8;
/// 32 vectors, as a power of two.
const MOST_SHIFT: u16 = 5;

/// Whether `length` bytes at `offset` from the start of the capability are, in
/// part, message control.
pub fn is_control(offset: usize, length: usize) -> bool {
    offset < CONTROL + 2 && offset.saturating_add(length) > CONTROL
}

/// Registers of one function's capability.
#[derive(Clone, Debug)]
pub struct Msi {
    /// Message control without the bits that a guest may change.
    fixed: u16,
    enabled: bool,
    /// Vectors in use, as a power of two.
    shift: u16,
    written: Message,
    /// What is delivered while enabled.
    latched: Message,
    masks: u32,
}

/// Where each register is, from the start of the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    data: usize,
    mask: Option<usize>,
    end: usize,
}

impl Msi {
    /// As after reset, with the abilities that `control` (the device's own
    /// message control) declares.
    pub fn new(control: u16) -> Self {
        let capable = ((control >> MULTIPLE_CAPABLE_SHIFT) & MULTIPLE_MASK).min(MOST_SHIFT);
        let fixed = (control & (WIDE | MASKABLE)) | capable << MULTIPLE_CAPABLE_SHIFT;
        let none = Message::default();
        Self { fixed, enabled: false, shift: 0, written: none, latched: none, masks: 0 }
    }

    /// Bytes of the whole capability, header included.
    pub fn length(&self) -> u16 {
        u16::try_from(self.layout().end).unwrap_or(0)
    }

    /// Vectors the function could use.
    pub fn capable(&self) -> u16 {
        1 << ((self.fixed >> MULTIPLE_CAPABLE_SHIFT) & MULTIPLE_MASK)
    }

    /// Vectors the guest has enabled; none while the capability is off.
    pub fn in_use(&self) -> u16 {
        if self.enabled { 1 << self.shift } else { 0 }
    }

    /// What `vector` does now.
    pub fn route(&self, vector: u16) -> Route {
        if vector >= self.in_use() || self.masked(vector) {
            return Route::Masked;
        }
        Route::To(self.numbered(self.latched, vector))
    }

    /// The guest's view of `vector`; none if it is not in use.
    pub fn view(&self, vector: u16) -> Option<View> {
        if vector >= self.in_use() {
            return None;
        }
        let (message, masked) = (self.numbered(self.written, vector), self.masked(vector));
        Some(View { message, masked, live: !masked })
    }

    /// Back to the state after reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.fixed);
    }

    /// Guest reads `data.len()` bytes at `offset` from the start of the
    /// capability; `pending` is the Pending register. The two header bytes are
    /// not kept here and read zero.
    pub fn read(&self, offset: usize, pending: u32, data: &mut [u8]) {
        let image = self.image(pending);
        let length = data.len();
        match image.get(offset..offset.saturating_add(length)) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0),
        }
    }

    /// Guest writes at `offset` from the start of the capability. Returns what
    /// each vector that changed does from now on.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Vec<Change> {
        let layout = self.layout();
        let mut image = self.image(0);
        let Some(bytes) = image.get_mut(offset..offset.saturating_add(data.len())) else {
            return Vec::new();
        };
        bytes.copy_from_slice(data);
        let before = self.routes();
        let was_enabled = self.enabled;
        self.load(&image);
        // A byte of a register is a write to it, too.
        let touched = |at: usize| offset < at + 2 && at < offset + data.len();
        // An address alone is staged, so that nobody hears a mix of old and new.
        if !was_enabled || touched(layout.data) || touched(CONTROL) {
            self.latched = self.written;
        }
        let after = self.routes();
        let changed = (0..MOST_VECTORS).zip(before.into_iter().zip(after));
        changed
            .filter(|(_, (before, after))| before != after)
            .map(|(vector, (_, route))| Change { vector, route })
            .collect()
    }

    fn masked(&self, vector: u16) -> bool {
        u32::from(vector) >= u32::BITS || self.masks & (1 << vector) != 0
    }

    /// What `vector` sends: the function modifies the low bits of the data (6.8.1.6).
    fn numbered(&self, message: Message, vector: u16) -> Message {
        let low = u32::from(self.in_use().saturating_sub(1));
        Message { data: (message.data & !low) | u32::from(vector), ..message }
    }

    fn routes(&self) -> Vec<Route> {
        (0..MOST_VECTORS).map(|vector| self.route(vector)).collect()
    }

    /// Takes the registers over from `image`, ignoring what a guest cannot change.
    fn load(&mut self, image: &[u8]) {
        let layout = self.layout();
        let [control, data] = [CONTROL, layout.data].map(|at| read_word(image, at));
        let capable = (self.fixed >> MULTIPLE_CAPABLE_SHIFT) & MULTIPLE_MASK;
        self.enabled = control & ENABLE != 0;
        self.shift = ((control >> MULTIPLE_ENABLE_SHIFT) & MULTIPLE_MASK).min(capable);
        let high = if self.wide() { read_dword(image, 8) } else { 0 };
        let address = u64::from(high) << 32 | u64::from(read_dword(image, 4) & !3);
        self.written = Message { address, data: u32::from(data) };
        if let Some(mask) = layout.mask {
            // Bits of vectors that the function does not have are reserved (6.8.1.7).
            let implemented = u32::MAX >> (u32::BITS - u32::from(self.capable()));
            self.masks = read_dword(image, mask) & implemented;
        }
    }

    /// All registers as bytes.
    fn image(&self, pending: u32) -> Vec<u8> {
        let layout = self.layout();
        let mut image = vec![0; layout.end];
        let enable = if self.enabled { ENABLE } else { 0 };
        let control = self.fixed | enable | self.shift << MULTIPLE_ENABLE_SHIFT;
        image[CONTROL..CONTROL + 2].copy_from_slice(&control.to_le_bytes());
        let address = self.written.address.to_le_bytes();
        image[4..8].copy_from_slice(&address[..4]);
        if self.wide() {
            image[8..12].copy_from_slice(&address[4..]);
        }
        let data = self.written.data.to_le_bytes();
        image[layout.data..layout.data + 2].copy_from_slice(&data[..2]);
        if let Some(mask) = layout.mask {
            image[mask..mask + 4].copy_from_slice(&self.masks.to_le_bytes());
            image[mask + 4..mask + 8].copy_from_slice(&pending.to_le_bytes());
        }
        image
    }

    fn wide(&self) -> bool {
        self.fixed & WIDE != 0
    }

    fn layout(&self) -> Layout {
        let data = if self.wide() { 12 } else { 8 };
        let mask = (self.fixed & MASKABLE != 0).then_some(data + 4);
        Layout { data, mask, end: mask.map_or(data + 2, |mask| mask + 8) }
    }
}

fn read_word(image: &[u8], at: usize) -> u16 {
    u16::try_from(at).map_or(0, |at| word(image, at))
}

fn read_dword(image: &[u8], at: usize) -> u32 {
    u16::try_from(at).map_or(0, |at| dword(image, at))
}

#[cfg(test)]
mod tests;
