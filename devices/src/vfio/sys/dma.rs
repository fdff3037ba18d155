//! Guest RAM made reachable for devices, and what limits that.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use vfio_bindings::bindings::vfio::{
    VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, vfio_iommu_type1_info,
};
use vfio_ioctls::{VfioContainer, VfioError};
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;

use super::{check, request, size_of};

use crate::memory::RamRange;

/// Pins `range` and maps it at its guest-physical address for every device in
/// the container. It stays mapped until the container closes.
pub fn map(container: &VfioContainer, range: &RamRange) -> io::Result<()> {
    let size = usize::try_from(range.size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: guest RAM outlives the container, and no reference to it is ever made:
    // guests and devices write it at any time.
    let mapped = unsafe { container.vfio_dma_map(range.guest, size, range.host.as_ptr()) };
    mapped.map_err(|error| {
        if let VfioError::IommuDmaMap(cause) = &error {
            return io::Error::from_raw_os_error(cause.errno());
        }
        io::Error::other(error)
    })
}

const IOMMU_GET_INFO: u32 = 12;
/// No description is longer: an IOMMU has a handful of reserved ranges.
const MOST_BYTES: u32 = 64 << 10;
/// Header of a capability: id, version, offset of the next.
const CAPABILITY_HEADER: usize = 8;

/// Addresses that an IOMMU can translate; empty when the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach(pub Vec<RangeInclusive<u64>>);

impl Reach {
    /// That of the IOMMU behind `container`, which has its domain.
    pub fn of(container: &VfioContainer) -> io::Result<Self> {
        let fixed = size_of::<vfio_iommu_type1_info>();
        let mut info = Info::query(container, fixed)?;
        let wanted = info.u32(ARGSZ);
        if wanted > fixed && wanted <= MOST_BYTES {
            info = Info::query(container, wanted)?;
        }
        Ok(Self(info.windows()))
    }
}

// Offsets in struct vfio_iommu_type1_info.
const ARGSZ: usize = 0;
const FLAGS: usize = 4;
const CAP_OFFSET: usize = 16;

/// The kernel's answer as bytes, aligned as the structure is.
struct Info(Vec<u64>);

impl Info {
    fn query(container: &VfioContainer, argsz: u32) -> io::Result<Self> {
        let words = usize::try_from(argsz.div_ceil(8)).unwrap_or(0);
        let mut info = Self(vec![0; words]);
        info.0[ARGSZ / 8] = u64::from(argsz);
        let (fd, at) = (container.as_raw_fd(), info.0.as_mut_ptr());
        // SAFETY: the buffer has the `argsz` bytes that its first field names, and is
        // aligned for every field of the structure.
        check(unsafe { ioctl_with_mut_ptr(&fd, request(IOMMU_GET_INFO), at) })?;
        Ok(info)
    }

    fn u32(&self, at: usize) -> u32 {
        let word = self.0.get(at / 8).copied().unwrap_or(0).to_ne_bytes();
        let half = at % 8;
        u32::from_ne_bytes([word[half], word[half + 1], word[half + 2], word[half + 3]])
    }

    fn u64(&self, at: usize) -> u64 {
        self.0.get(at / 8).copied().unwrap_or(0)
    }

    /// What the capability of address ranges says, if the chain has one. The chain is
    /// the kernel's, but walked like any other: bounded.
    fn windows(&self) -> Vec<RangeInclusive<u64>> {
        let bytes = self.0.len() * 8;
        let mut at = match self.u32(FLAGS) & VFIO_IOMMU_INFO_CAPS {
            0 => 0,
            _ => usize::try_from(self.u32(CAP_OFFSET)).unwrap_or(0),
        };
        for _ in 0..bytes / CAPABILITY_HEADER {
            if at == 0 || !at.is_multiple_of(8) || at + CAPABILITY_HEADER > bytes {
                break;
            }
            if self.u32(at) & 0xffff == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
                return self.ranges_at(at + CAPABILITY_HEADER);
            }
            at = usize::try_from(self.u32(at + 4)).unwrap_or(0);
        }
        Vec::new()
    }

    /// Count, reserved, then pairs of first and last.
    fn ranges_at(&self, at: usize) -> Vec<RangeInclusive<u64>> {
        let room = (self.0.len() * 8).saturating_sub(at + 8) / 16;
        let count = usize::try_from(self.u32(at)).unwrap_or(0).min(room);
        let range = |index: usize| self.u64(at + 8 + index * 16)..=self.u64(at + 16 + index * 16);
        (0..count).map(range).collect()
    }
}

/// How many bytes this process may lock; `None` for as many as it likes.
pub fn lock_limit() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with one capability of two ranges at byte 24.
    fn answer(id: u32, next: u32) -> Info {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let fixed = [pair(72, VFIO_IOMMU_INFO_CAPS), 0x1000, pair(24, 0)];
        let capability = [pair(id, next), pair(2, 0), 0, 0xfedf_ffff, 0xfef0_0000, (1 << 39) - 1];
        Info([&fixed[..], &capability[..]].concat())
    }

    #[test]
    fn ranges_of_addresses_are_read() {
        let info = answer(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 0);

        assert_eq!(info.windows(), [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1]);
    }

    #[test]
    fn chain_without_ranges_or_with_a_loop_says_nothing() {
        assert!(answer(3, 0).windows().is_empty());
        assert!(answer(3, 24).windows().is_empty());
        assert!(answer(3, 1 << 20).windows().is_empty());
    }

    #[test]
    fn ranges_past_the_answer_are_not_read() {
        let mut info = answer(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 0);
        info.0[4] = u64::from(u32::MAX);

        assert_eq!(info.windows().len(), 2);
    }
}
