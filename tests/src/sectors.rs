//! A disk whose every sector tells who wrote it last: what a guest writes to it and what a host may find there.
//!
//! Both sides know the order of the writes from a seed. A write that was flushed must be there; one that was not may be,
//! in whole or in part, but a sector is either the old one or the new one.

use std::ops::Range;

/// Bytes of a sector: what a disk writes as a whole.
pub const SECTOR: usize = 512;
/// Sectors of a block: what is written at a time.
pub const SECTORS: usize = 8;
/// Bytes of a block.
pub const BLOCK: usize = SECTOR * SECTORS;

/// Most writes between two flushes.
const LONGEST_BATCH: u64 = 24;
/// Bytes that say which block, and which write.
const STAMP: usize = 16;

/// The writes of one run, in order.
#[derive(Debug, Clone)]
pub struct Plan {
    random: fastrand::Rng,
    blocks: u64,
    next: u64,
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Its number, unique for the disk.
    pub number: u64,
    /// Where.
    pub block: u64,
}

impl Plan {
    /// Writes to a disk of so many blocks, numbered from `first` on.
    pub fn new(seed: u64, blocks: u64, first: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), blocks, next: first }
    }

    /// The writes up to the next flush.
    pub fn batch(&mut self) -> Vec<Write> {
        let count = self.random.u64(1..=LONGEST_BATCH);
        (0..count).map(|_| self.write()).collect()
    }

    fn write(&mut self) -> Write {
        let number = self.next;
        self.next += 1;
        Write { number, block: self.random.u64(..self.blocks) }
    }
}

impl Write {
    /// What the block then holds.
    pub fn fill(self, block: &mut [u8]) {
        for (index, sector) in block.chunks_exact_mut(SECTOR).enumerate() {
            sector[..8].copy_from_slice(&self.block.to_le_bytes());
            sector[8..STAMP].copy_from_slice(&self.number.to_le_bytes());
            let seed = self.number ^ ((index as u64) << 48);
            fastrand::Rng::with_seed(seed).fill(&mut sector[STAMP..]);
        }
    }
}

/// Which write each sector of a disk holds; 0 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk(Vec<u64>);

impl Disk {
    /// One of zeros.
    pub fn empty(blocks: u64) -> Self {
        Self(vec![0; usize::try_from(blocks).unwrap_or(0) * SECTORS])
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// A sector holds what nobody wrote, in words.
    pub fn read(image: &[u8]) -> Result<Self, String> {
        let mut expected = [0; BLOCK];
        let sectors = image.chunks_exact(SECTOR).enumerate().map(|(index, sector)| {
            if sector.iter().all(|byte| *byte == 0) {
                return Ok(0);
            }
            let (block, within) = ((index / SECTORS) as u64, index % SECTORS);
            let number = sector[8..STAMP].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
            Write { number, block }.fill(&mut expected);
            let same = sector == &expected[within * SECTOR..][..SECTOR];
            if same { Ok(number) } else { Err(format!("sector {index} is nobody's")) }
        });
        sectors.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `now` can be what is there after a run whose writes up to `flushed` were flushed.
    ///
    /// # Errors
    /// A write that was flushed is not there, or one that never was made is, in words.
    pub fn becomes(&self, now: &Self, mut plan: Plan, flushed: u64) -> Result<(), String> {
        let mut must = self.clone();
        let mut may = vec![Vec::new(); self.0.len()];
        let mut last = plan.next;
        let newest = now.0.iter().copied().max().unwrap_or(0).max(flushed);
        while last <= newest {
            for write in plan.batch() {
                let sectors = sectors(write.block);
                match write.number <= flushed {
                    true => must.0[sectors].fill(write.number),
                    false => may[sectors].iter_mut().for_each(|may| may.push(write.number)),
                }
                last = write.number;
            }
        }
        for (index, found) in now.0.iter().enumerate() {
            if *found != must.0[index] && !may[index].contains(found) {
                let must = must.0[index];
                return Err(format!(
                    "sector {index} holds write {found}, and {must} was flushed ({flushed} the last)"
                ));
            }
        }
        Ok(())
    }
}

fn sectors(block: u64) -> Range<usize> {
    let first = usize::try_from(block).unwrap_or(usize::MAX / SECTORS) * SECTORS;
    first..first + SECTORS
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u64 = 8;

    /// A disk after the first `count` writes of a plan.
    fn written(count: u64) -> Vec<u8> {
        let mut plan = Plan::new(7, BLOCKS, 1);
        let mut image = vec![0; sectors(BLOCKS).start * SECTOR];
        loop {
            for write in plan.batch() {
                if write.number > count {
                    return image;
                }
                let start = sectors(write.block).start * SECTOR;
                write.fill(&mut image[start..start + BLOCK]);
            }
        }
    }

    fn check(image: &[u8], flushed: u64) -> Result<(), String> {
        Disk::empty(BLOCKS).becomes(&Disk::read(image)?, Plan::new(7, BLOCKS, 1), flushed)
    }

    #[test]
    fn what_was_written_may_be_more_than_was_flushed_but_not_less() {
        let image = written(20);

        assert_eq!(check(&image, 20), Ok(()));
        assert_eq!(check(&image, 5), Ok(()));
        assert!(check(&image, 40).unwrap_err().contains("was flushed"));
    }

    #[test]
    fn block_may_be_half_new_until_it_is_flushed() {
        let (old, mut image) = (written(20), written(21));
        let changed = old.iter().zip(&image).position(|(old, new)| old != new).unwrap();
        let start = changed / BLOCK * BLOCK;
        image[start..start + 3 * SECTOR].copy_from_slice(&old[start..start + 3 * SECTOR]);

        assert_eq!(check(&image, 20), Ok(()));
        assert!(check(&image, 21).is_err());
    }

    #[test]
    fn sector_that_is_torn_or_in_the_wrong_place_is_nobodys() {
        let mut image = written(20);
        image[SECTOR - 1] ^= 1;
        assert!(check(&image, 5).unwrap_err().contains("sector 0"));

        let mut image = written(20);
        image.copy_within(0..SECTOR, SECTOR);
        assert!(check(&image, 5).unwrap_err().contains("sector 1"));
    }
}
