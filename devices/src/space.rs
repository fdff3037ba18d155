//! An address space: disjoint ranges, each with what answers there.
//!
//! One instance stands for guest-physical MMIO and one for x86 port I/O. The
//! lock covers only the look-up, never the access itself: a device may move its
//! own ranges while it handles an access (a guest moves a BAR), and a slow
//! device keeps nobody but its own callers waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::io::Access;

/// Ranges of one address space and what answers in each.
#[derive(Default)]
pub struct Space {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

struct Range {
    length: u64,
    target: Arc<dyn Access>,
}

/// A range held in a [`Space`]; dropping it takes the range out again.
///
/// An access that a vCPU began before the drop may still be running after it.
#[must_use]
pub struct Claim {
    space: Arc<Space>,
    base: u64,
}

/// The range could not be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Somebody answers there already.
    #[error("addresses {base:#x}..+{length:#x} overlap the range at {other:#x}")]
    Overlap {
        /// First address asked for.
        base: u64,
        /// Bytes asked for.
        length: u64,
        /// First address of the range that is in the way.
        other: u64,
    },
    /// Empty, or past the end of the address space.
    #[error("addresses {base:#x}..+{length:#x} are no range")]
    NoRange {
        /// First address asked for.
        base: u64,
        /// Bytes asked for.
        length: u64,
    },
}

impl Space {
    /// Lets `target` answer `length` bytes from `base` until the claim is dropped.
    pub fn claim(
        self: &Arc<Self>,
        base: u64,
        length: u64,
        target: Arc<dyn Access>,
    ) -> Result<Claim, ClaimError> {
        let last = length.checked_sub(1).and_then(|more| base.checked_add(more));
        let last = last.ok_or(ClaimError::NoRange { base, length })?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((&other, range)) = ranges.range(..=last).next_back()
            && other + (range.length - 1) >= base
        {
            return Err(ClaimError::Overlap { base, length, other });
        }
        ranges.insert(base, Range { length, target });
        Ok(Claim { space: Arc::clone(self), base })
    }

    /// Reads `data.len()` bytes at `address`. Nobody there: all ones, and `false`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((target, offset)) => {
                target.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes `data` at `address`. Nobody there: dropped, and `false`.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let found = self.find(address, data.len());
        if let Some((target, offset)) = &found {
            target.write(*offset, data);
        }
        found.is_some()
    }

    /// Who answers at `address`, and where in its range that is. An access that
    /// crosses the end of a range belongs to nobody.
    fn find(&self, address: u64, size: usize) -> Option<(Arc<dyn Access>, u64)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (base, range) = ranges.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(u64::try_from(size).ok()?)?;
        (end <= range.length).then(|| (Arc::clone(&range.target), offset))
    }
}

impl Claim {
    /// First address of the range.
    pub fn base(&self) -> u64 {
        self.base
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut ranges = self.space.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let range = ranges.remove(&self.base);
        // The target may drop with it, and its drop may claim or release: unlock first.
        drop(ranges);
        drop(range);
    }
}

#[cfg(test)]
mod tests;
