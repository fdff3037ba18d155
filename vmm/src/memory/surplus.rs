//! Guest RAM on its way back to the host, because the guest does without it.
//!
//! While a function of the host's has RAM mapped for DMA, all of it stays: the IOMMU would go on to
//! lead to the pages that were there, and the guest, when it takes its own back, would have others.

use std::io;
use std::sync::Arc;

use devices::memory;
use devices::vfio::iommu::Iommu;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::ram::{self, Memory, PAGE};
use super::warmth::Warmth;

/// Bytes given back at once, for who attaches a device waits as long.
const STEP: u64 = 4 << 20;

/// A machine's RAM, as far as it may be given back.
pub struct Surplus {
    memory: Memory,
    warmth: Arc<Warmth>,
    iommu: Arc<Iommu>,
}

impl Surplus {
    /// Of this RAM, which `warmth` warms and `iommu` maps.
    pub fn new(memory: &Memory, warmth: Arc<Warmth>, iommu: Arc<Iommu>) -> Self {
        Self { memory: memory.clone(), warmth, iommu }
    }
}

impl memory::Surplus for Surplus {
    fn give_back(&self, guest: u64, size: u64) -> io::Result<bool> {
        let no_pages = || io::Error::from(io::ErrorKind::InvalidInput);
        let pages = guest.is_multiple_of(PAGE) && size.is_multiple_of(PAGE);
        let end = guest.checked_add(size).filter(|_| pages).ok_or_else(no_pages)?;
        let inside = |start: u64, length: u64| start <= guest && end <= start + length;
        let mut regions = self.memory.iter().zip(ram::ranges(&self.memory));
        let found = regions.find(|(_, range)| inside(range.guest, range.size));
        let (region, range) = found.ok_or_else(no_pages)?;
        let shared = region.file_offset().is_some();
        let mut at = guest;
        while at < end {
            let part = STEP.min(end - at);
            let discard = || ram::discard(&range, (at - range.guest, part), shared);
            match self.iommu.while_unmapped(discard) {
                Some(done) => done?,
                None => return Ok(false),
            }
            self.warmth.cools(at, part);
            at += part;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use devices::memory::{Backing, Surplus as _, Window, Windows};
    use devices::vfio::iommu::GroupWatch;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::ram::{Backings, Ram};

    struct Nobody;
    impl GroupWatch for Nobody {
        fn attached(&self, _: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }

        fn detaching(&self, _: BorrowedFd<'_>) {}
    }

    struct NoSlots;
    impl Window for NoSlots {}
    impl Windows for NoSlots {
        fn open(&self, _: u64, _: Backing) -> io::Result<Box<dyn Window>> {
            Ok(Box::new(Self))
        }
    }

    fn surplus(shared: bool) -> (Ram, Arc<Warmth>, Surplus) {
        let ram = Ram::new(Backings { size: 16 << 20, shared, ..Backings::default() }, &NoSlots);
        let ram = ram.unwrap();
        let warmth = Arc::new(Warmth::new(ram.memory()));
        let iommu = Iommu::new(ram.ranges(), Arc::clone(&warmth) as _, Arc::new(Nobody));
        let surplus = Surplus::new(ram.memory(), Arc::clone(&warmth), Arc::new(iommu));
        (ram, warmth, surplus)
    }

    #[test]
    fn pages_read_as_zeros_and_are_cold_and_their_neighbours_keep_what_they_had() {
        for shared in [false, true] {
            let (ram, warmth, surplus) = surplus(shared);
            warmth.warm_now().unwrap();
            let memory = ram.memory();
            memory.write_slice(&[1; 0x4000], GuestAddress(0x1000)).unwrap();

            assert!(surplus.give_back(0x2000, 0x2000).unwrap());

            let mut bytes = [0; 0x4000];
            memory.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
            let part = |page: usize| bytes[page * 0x1000];
            assert_eq!([part(0), part(1), part(2), part(3)], [1, 0, 0, 1], "shared {shared}");
            assert_eq!(warmth.level().warm, 14 << 20);
        }
    }

    #[test]
    fn what_is_no_page_and_no_ram_is_refused() {
        let (_ram, _, surplus) = surplus(false);
        let past = 16 << 20;
        for (guest, size) in [(1, 0x1000), (0, 1), (past, 0x1000), (0, past + 0x1000)] {
            assert!(surplus.give_back(guest, size).is_err(), "{guest:#x} {size:#x}");
        }
        assert!(surplus.give_back(u64::MAX - 0xfff, 0x1000).is_err());
    }
}
