//! A request's buffers: a chain of descriptors, walked once and checked (virtio 1.2, 2.7).
//!
//! Descriptors lie in memory that the guest may change at any time, so each is read
//! once; what the walk returns is a copy. Where buffers are is checked when they are
//! used.

use std::mem;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::virtio::Memory;

/// What is wrong with a chain, or with where it says that a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It loops, is longer than its queue, names a descriptor that is not there, or has none.
    #[error("a chain of descriptors has no proper end")]
    Endless,
    /// A buffer for the device to read after one for it to write.
    #[error("a readable buffer comes after a writable one")]
    Order,
    /// Shorter than what should be in it.
    #[error("the buffers are too short")]
    Short,
    /// Not RAM.
    #[error("a buffer lies outside of the RAM")]
    Outside,
}

/// One buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    address: u64,
    length: u32,
}

/// Buffers taken as one run of bytes.
#[derive(Clone, Debug)]
pub struct Area<'m> {
    memory: &'m Memory,
    pieces: Vec<Piece>,
}

/// The buffers of one request.
#[derive(Clone, Debug)]
pub struct Buffers<'m> {
    /// What the device may read.
    pub readable: Area<'m>,
    /// What it may write.
    pub writable: Area<'m>,
}

impl<'m> Buffers<'m> {
    /// Those of `chain`, of at most `most` descriptors (2.7.5.3.1: the size of the queue).
    ///
    /// # Errors
    /// The chain breaks a rule of the specification.
    pub fn collect(
        memory: &'m Memory,
        chain: DescriptorChain<&'m Memory>,
        most: u16,
    ) -> Result<Self, Malformed> {
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let mut ended = false;
        for descriptor in chain.take(most.into()) {
            // The iterator ends early, without a word, where a chain is wrong.
            ended = !descriptor.has_next();
            let piece = Piece { address: descriptor.addr().0, length: descriptor.len() };
            match descriptor.is_write_only() {
                true => writable.push(piece),
                false if writable.is_empty() => readable.push(piece),
                false => return Err(Malformed::Order),
            }
        }
        if !ended {
            return Err(Malformed::Endless);
        }
        let area = |pieces| Area { memory, pieces };
        Ok(Self { readable: area(readable), writable: area(writable) })
    }
}

impl<'m> Area<'m> {
    /// Bytes; a chain has fewer than 2^32.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.length)).sum()
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Guest-physical address and bytes of each buffer, whether it is RAM or not.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pieces.iter().map(|piece| (piece.address, piece.length.into()))
    }

    /// The bytes from `start` up to `end`.
    ///
    /// # Errors
    /// There are not so many.
    pub fn part(&self, start: u64, end: u64) -> Result<Self, Malformed> {
        if start > end || end > self.len() {
            return Err(Malformed::Short);
        }
        let mut at = 0;
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            let (from, to) = (at, at + u64::from(piece.length));
            at = to;
            let (from_cut, to_cut) = (from.max(start), to.min(end));
            let Some(length) = to_cut.checked_sub(from_cut).filter(|length| *length > 0) else {
                continue;
            };
            let address = piece.address.checked_add(from_cut - from).ok_or(Malformed::Outside)?;
            let length = u32::try_from(length).map_err(|_| Malformed::Short)?;
            pieces.push(Piece { address, length });
        }
        Ok(Self { memory: self.memory, pieces })
    }

    /// Where the bytes are in this process, in order; a buffer across two pieces of RAM
    /// makes two slices. They stay mapped as long as the memory does.
    ///
    /// # Errors
    /// Some are not in the RAM.
    pub fn slices(&self) -> Result<Vec<VolatileSlice<'m>>, Malformed> {
        let mut slices = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let length = usize::try_from(piece.length).map_err(|_| Malformed::Outside)?;
            for slice in self.memory.get_slices(GuestAddress(piece.address), length) {
                slices.push(slice.map_err(|_| Malformed::Outside)?);
            }
        }
        Ok(slices)
    }

    /// Copies the first bytes into `data`.
    ///
    /// # Errors
    /// There are not so many, or they are not in the RAM.
    pub fn read(&self, data: &mut [u8]) -> Result<(), Malformed> {
        let mut rest = data;
        self.each_slice(rest.len(), |slice| {
            let (head, tail) = mem::take(&mut rest).split_at_mut(slice.len());
            rest = tail;
            slice.read_slice(head, 0).map_err(|_| Malformed::Outside)
        })
    }

    /// Copies `data` over the first bytes.
    ///
    /// # Errors
    /// There are not so many, or they are not in the RAM.
    pub fn write(&self, data: &[u8]) -> Result<(), Malformed> {
        let mut rest = data;
        self.each_slice(rest.len(), |slice| {
            let (head, tail) = rest.split_at(slice.len());
            rest = tail;
            slice.write_slice(head, 0).map_err(|_| Malformed::Outside)
        })
    }

    /// Does `step` with where the first `length` bytes are, in order; each request has a head and a status, so nothing
    /// is allocated.
    fn each_slice(
        &self,
        length: usize,
        mut step: impl FnMut(VolatileSlice<'m>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if u64::try_from(length).unwrap_or(u64::MAX) > self.len() {
            return Err(Malformed::Short);
        }
        let mut rest = length;
        for piece in &self.pieces {
            let here = usize::try_from(piece.length).unwrap_or(usize::MAX).min(rest);
            rest -= here;
            if here == 0 {
                continue;
            }
            for slice in self.memory.get_slices(GuestAddress(piece.address), here) {
                step(slice.map_err(|_| Malformed::Outside)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
