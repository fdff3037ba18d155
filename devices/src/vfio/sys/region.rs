//! What a region is: the kernel's description of a BAR, the ROM or
//! configuration space, with its capability chain.

use std::io;
use std::ops::Range;

use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};

use super::file::DeviceFile;
use super::size_of;

pub(in crate::vfio) const GET_REGION_INFO: u32 = 8;
/// No description is longer: the sparse list has a handful of areas.
const MOST_BYTES: u32 = 64 << 10;
/// Nor are more of its areas mapped, each of which costs a mapping and a memory slot: a server could
/// use up all that this process may have.
const MOST_AREAS: usize = 32;
/// Header of a capability: id, version, offset of the next.
const CAPABILITY_HEADER: usize = 8;

/// One region of a device's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Bytes; zero when the device has no such region.
    pub size: u64,
    /// Where it begins in the device's file.
    pub offset: u64,
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// Parts that may be mapped, from the region's start.
    pub mappable: Vec<Range<u64>>,
}

impl Region {
    /// Asks for region `index`.
    ///
    /// # Errors
    /// The kernel's, and `InvalidData` when the region is past the end of any file.
    pub fn query(device: &dyn DeviceFile, index: u32) -> io::Result<Self> {
        let mut bytes = Info::query(device, index, size_of::<vfio_region_info>())?;
        let wanted = bytes.u32(ARGSZ);
        if wanted > size_of::<vfio_region_info>() && wanted <= MOST_BYTES {
            bytes = Info::query(device, index, wanted)?;
        }
        bytes.region()
    }

    /// Whether the guest may read it.
    pub fn is_readable(&self) -> bool {
        self.size > 0 && self.flags & VFIO_REGION_INFO_FLAG_READ != 0
    }

    /// Whether the guest may write it.
    pub fn is_writable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_WRITE != 0
    }

    /// `PROT_*` of a mapping.
    pub fn protection(&self) -> i32 {
        let read = if self.flags & VFIO_REGION_INFO_FLAG_READ != 0 { libc::PROT_READ } else { 0 };
        let write = if self.is_writable() { libc::PROT_WRITE } else { 0 };
        read | write
    }
}

// Offsets in struct vfio_region_info.
const ARGSZ: usize = 0;
const FLAGS: usize = 4;
const INDEX: usize = 8;
const CAP_OFFSET: usize = 12;
const SIZE: usize = 16;
const OFFSET: usize = 24;

/// The kernel's answer as words.
struct Info(Vec<u32>);

impl Info {
    fn query(device: &dyn DeviceFile, index: u32, argsz: u32) -> io::Result<Self> {
        let words = usize::try_from(argsz.div_ceil(4)).unwrap_or(0);
        let mut info = Self(vec![0; words]);
        info.0[ARGSZ / 4] = argsz;
        info.0[INDEX / 4] = index;
        device.call(GET_REGION_INFO, &mut info.0)?;
        Ok(info)
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at / 4).copied().unwrap_or(0)
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn region(&self) -> io::Result<Region> {
        let (flags, size, offset) = (self.u32(FLAGS), self.u64(SIZE), self.u64(OFFSET));
        // Positions in a file are signed. Everything that adds to an offset leans on this.
        if size > 0 && offset.checked_add(size).is_none_or(|end| i64::try_from(end).is_err()) {
            let what = format!("its region of {size:#x} bytes at {offset:#x} is in no file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut mappable = Vec::new();
        if flags & VFIO_REGION_INFO_FLAG_MMAP != 0 && size > 0 {
            mappable = self.sparse_areas().unwrap_or_else(|| vec![0..size]);
            mappable.retain(|area| area.start < area.end && area.end <= size);
        }
        Ok(Region { size, offset, flags, mappable })
    }

    /// The areas of the sparse-map capability, if the chain has one.
    fn sparse_areas(&self) -> Option<Vec<Range<u64>>> {
        if self.u32(FLAGS) & VFIO_REGION_INFO_FLAG_CAPS == 0 {
            return None;
        }
        let bytes = self.0.len() * 4;
        let mut at = usize::try_from(self.u32(CAP_OFFSET)).ok()?;
        for _ in 0..bytes / CAPABILITY_HEADER {
            if at == 0 || at % 8 != 0 || at + CAPABILITY_HEADER > bytes {
                return None;
            }
            let id = self.u32(at) & 0xffff;
            if id == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
                return Some(self.areas_at(at + CAPABILITY_HEADER));
            }
            at = usize::try_from(self.u32(at + 4)).ok()?;
        }
        None
    }

    /// Count, reserved, then pairs of offset and size.
    fn areas_at(&self, at: usize) -> Vec<Range<u64>> {
        let room = (self.0.len() * 4).saturating_sub(at + 8) / 16;
        let count = usize::try_from(self.u32(at)).unwrap_or(0).min(room).min(MOST_AREAS);
        let area = |index: usize| {
            let (offset, size) = (self.u64(at + 8 + index * 16), self.u64(at + 16 + index * 16));
            offset..offset.saturating_add(size)
        };
        (0..count).map(area).collect()
    }
}

#[cfg(test)]
mod tests {
    use vfio_bindings::bindings::vfio::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE;

    use super::*;

    /// A description with one sparse-map capability of two areas.
    fn sparse(next: u32) -> Info {
        let flags = VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
        let head = vec![96, flags, 0, 32, 0x1_0000, 0, 0, 0];
        let sparse = vec![VFIO_REGION_INFO_CAP_SPARSE_MMAP, next, 2, 0];
        let areas = vec![0, 0, 0x1000, 0, 0x3000, 0, 0xd000, 0, 0, 0, 0, 0];
        Info([head, sparse, areas].concat())
    }

    #[test]
    fn sparse_areas_are_the_mappable_ones() {
        assert_eq!(sparse(0).region().unwrap().mappable, [0..0x1000, 0x3000..0x1_0000]);
    }

    #[test]
    fn areas_past_the_region_are_dropped() {
        let mut info = sparse(0);
        (info.0[18], info.0[19]) = (u32::MAX, u32::MAX);

        assert_eq!(info.region().unwrap().mappable, [0..0x1000]);
    }

    #[test]
    fn no_more_than_a_handful_of_areas_is_mapped() {
        let mut info = sparse(0);
        info.0[10] = u32::MAX;
        info.0.resize(12, 0);
        for page in 1..1000 {
            info.0.extend([(page % 8) << 12, 0, 0x1000, 0]);
        }

        assert_eq!(info.region().unwrap().mappable.len(), MOST_AREAS);
    }

    #[test]
    fn region_past_the_end_of_any_file_is_refused() {
        let mut info = sparse(0);
        info.0[7] = 1 << 31;
        assert_eq!(info.region().unwrap_err().kind(), io::ErrorKind::InvalidData);

        (info.0[4], info.0[5]) = (u32::MAX, u32::MAX);
        info.0[7] = 0;
        assert_eq!(info.region().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn looping_chain_ends() {
        let mut info = sparse(32);
        (info.0[8], info.0[9]) = (VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 32);

        assert_eq!(info.region().unwrap().mappable, [0..0x1_0000]);
    }

    #[test]
    fn region_without_capabilities_is_mappable_whole() {
        let mut info = sparse(0);
        info.0[1] = VFIO_REGION_INFO_FLAG_MMAP;

        assert_eq!(info.region().unwrap().mappable, [0..0x1_0000]);
    }
}
