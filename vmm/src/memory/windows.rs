//! How the address map's windows for BARs are shared out among PCI segments.

use std::ops::Range;

use devices::pci::bar::Apertures;

use super::layout;

/// No share is finer than this: a BAR's address is a multiple of its size.
const IO_STEP: u64 = 0x100;
const MEM32_STEP: u64 = 1 << 20;
/// The largest page a BAR can be mapped with.
const MEM64_STEP: u64 = 1 << 30;

/// Windows of each of `segments` (at least one): equal parts. `mem64` is what lies above the RAM.
pub fn shared(segments: u8, mem64: &Range<u64>) -> Vec<Apertures> {
    let count = u64::from(segments.max(1));
    let part = |index| Apertures {
        io: share(&layout::PCI_IO, (index, count), IO_STEP),
        mem32: share(&layout::PCI_MEM32, (index, count), MEM32_STEP),
        mem64: share(mem64, (index, count), MEM64_STEP),
    };
    (0..count).map(part).collect()
}

/// Part `index` of `count` of a range, a multiple of `step` long; empty where there is less.
fn share(whole: &Range<u64>, (index, count): (u64, u64), step: u64) -> Range<u64> {
    let size = whole.end.saturating_sub(whole.start) / count / step * step;
    let start = whole.start + index * size;
    start..start + size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_has_it_all() {
        let mem64 = 0x40_0000_0000..0x80_0000_0000;

        let alone = &shared(1, &mem64)[0];

        assert_eq!(alone.io, layout::PCI_IO);
        assert_eq!(alone.mem32, layout::PCI_MEM32);
        assert_eq!(alone.mem64, mem64);
    }

    #[test]
    fn parts_are_equal_and_lie_one_after_the_other() {
        for count in 2..=16 {
            let parts = shared(count, &(0x40_0000_0000..0x80_0000_0000));
            for two in parts.windows(2) {
                assert_eq!(two[0].io.end, two[1].io.start);
                assert_eq!(two[0].mem32.end, two[1].mem32.start);
                assert_eq!(two[0].mem64.end, two[1].mem64.start);
                assert_eq!(two[0].mem64.start % MEM64_STEP, 0);
            }
            let last = parts.last().unwrap();
            assert!(last.mem32.end <= layout::PCI_MEM32.end && last.io.end <= layout::PCI_IO.end);
            assert!(!last.mem32.is_empty() && !last.io.is_empty());
        }
    }

    #[test]
    fn what_is_too_small_to_share_is_nobody_s() {
        assert!(shared(4, &(0..3 << 30)).iter().all(|part| part.mem64.is_empty()));
        assert!(shared(1, &(5..5))[0].mem64.is_empty());
    }
}
