//! The part of a write to configuration space that concerns one field.

use super::Field;

/// Bytes that a guest writes to one field.
pub struct Piece<'a> {
    /// The field.
    pub field: Field,
    /// First offset of the field.
    pub start: u16,
    /// First offset written.
    pub at: u16,
    /// What is written there.
    pub data: &'a [u8],
}

impl Piece<'_> {
    /// The field's value after the write, if it was `old`: registers of up to four bytes.
    pub fn merge(&self, old: u32) -> u32 {
        let mut bytes = old.to_le_bytes();
        let within = usize::from(self.at - self.start);
        bytes[within.min(4)..].iter_mut().zip(self.data).for_each(|(to, from)| *to = *from);
        u32::from_le_bytes(bytes)
    }

    /// What is written at `offset`, if anything.
    pub fn byte(&self, offset: u16) -> Option<u8> {
        self.data.get(usize::from(offset.checked_sub(self.at)?)).copied()
    }
}
