//! Guest RAM: mapped once when the machine is built, unmapped after everything
//! that may reach it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

use devices::memory::{Backing, RamRange, Window, Windows};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use super::layout;

/// The guest's RAM as the loaders see it.
pub type Memory = GuestMemoryMmap<()>;

/// Smallest page, and unit of every RAM size.
pub const PAGE: u64 = 4096;

/// How much RAM, and what backs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backings {
    /// Bytes in all.
    pub size: u64,
    /// One file that other processes can be handed, instead of private memory.
    pub shared: bool,
    /// Size of the hugepages to take, in bytes.
    pub hugepage: Option<u64>,
    /// When the host's memory is taken.
    pub prefault: Prefault,
}

/// When the host's memory is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefault {
    /// When the guest first touches it, or when a device needs it.
    #[default]
    Never,
    /// Before the guest starts.
    AtBoot,
    /// While the guest runs, when nobody else needs the processors.
    InBackground,
}

/// Why there is no RAM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Odd size.
    #[error("memory size {size} is not a multiple of {unit} bytes")]
    Unaligned {
        /// Bytes asked for.
        size: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// The host has not enough, or no hugepages.
    #[error("cannot allocate {size} bytes of guest memory{}", hint(*.hugepages))]
    Allocate {
        /// Bytes of the piece.
        size: u64,
        /// Whether hugepages were asked for.
        hugepages: bool,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The vCPUs cannot be shown the memory.
    #[error("cannot show the guest its memory")]
    Show(#[source] io::Error),
}

fn hint(hugepages: bool) -> &'static str {
    if hugepages {
        " from hugepages (are enough reserved in /proc/sys/vm/nr_hugepages?)"
    } else {
        ""
    }
}

/// Guest RAM in one or two pieces: below the hole at 3 GiB, and from 4 GiB up.
/// Field order is teardown order.
pub struct Ram {
    _windows: Vec<Box<dyn Window>>,
    memory: Memory,
}

impl Ram {
    /// Allocates the memory and shows it to the guest through `windows`.
    pub fn new(wanted: Backings, windows: &dyn Windows) -> Result<Self, Error> {
        let unit = wanted.hugepage.unwrap_or(PAGE);
        if wanted.size == 0 || !wanted.size.is_multiple_of(unit) {
            return Err(Error::Unaligned { size: wanted.size, unit });
        }
        let pieces = pieces(wanted.size);
        let regions = pieces.iter().map(|&(base, size)| allocate(base, size, wanted));
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        let memory = Memory::from_regions(regions).expect("two disjoint pieces in order");
        let open = |range: RamRange| {
            windows.open(range.guest, Backing { host: range.host, size: range.size })
        };
        let windows = ranges(&memory).map(open).collect::<Result<_, _>>().map_err(Error::Show)?;
        Ok(Self { _windows: windows, memory })
    }

    /// For the loaders.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Where the pieces are, for DMA.
    pub fn ranges(&self) -> Vec<RamRange> {
        ranges(&self.memory).collect()
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }
}

/// Guest-physical start and size of each piece of `size` bytes of RAM.
pub fn pieces(size: u64) -> Vec<(u64, u64)> {
    match size.checked_sub(layout::LOW_RAM_END) {
        Some(rest) if rest > 0 => {
            vec![(0, layout::LOW_RAM_END), (layout::HIGH_RAM_START, rest)]
        }
        Some(_) | None => vec![(0, size)],
    }
}

/// First guest-physical address above all of `size` bytes of RAM and above 4 GiB.
pub fn end(size: u64) -> u64 {
    layout::HIGH_RAM_START + size.saturating_sub(layout::LOW_RAM_END)
}

/// Where the pieces of `memory` are, for DMA.
pub(super) fn ranges(memory: &Memory) -> impl Iterator<Item = RamRange> {
    memory.iter().map(|region| RamRange {
        guest: region.start_addr().0,
        size: region.len(),
        host: NonNull::new(region.as_ptr()).expect("a mapping is never at address zero"),
    })
}

fn allocate(base: u64, size: u64, wanted: Backings) -> Result<GuestRegionMmap<()>, Error> {
    let failed = |source| Error::Allocate { size, hugepages: wanted.hugepage.is_some(), source };
    let mapping = map(size, wanted).map_err(failed)?;
    // The guest's memory belongs in no child and in no core dump.
    advise(&mapping, libc::MADV_DONTFORK).map_err(failed)?;
    advise(&mapping, libc::MADV_DONTDUMP).map_err(failed)?;
    if wanted.hugepage.is_none() {
        // Best effort: a kernel without transparent hugepages refuses.
        let _ = advise(&mapping, libc::MADV_HUGEPAGE);
    }
    Ok(GuestRegionMmap::new(mapping, GuestAddress(base)).expect("RAM ends below 2^64"))
}

fn map(size: u64, wanted: Backings) -> io::Result<MmapRegion<()>> {
    let length = usize::try_from(size).map_err(io::Error::other)?;
    let file = if wanted.shared || wanted.hugepage.is_some() {
        let file = memfd(wanted.hugepage)?;
        file.set_len(size)?;
        seal(&file)?;
        Some(FileOffset::new(file, 0))
    } else {
        None
    };
    let sharing = match (&file, wanted.shared) {
        (None, _) => libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
        (Some(_), true) => libc::MAP_SHARED,
        (Some(_), false) => libc::MAP_PRIVATE,
    };
    // Hugepages are reserved at once: running out later would kill the guest.
    let reserve = if wanted.hugepage.is_some() { 0 } else { libc::MAP_NORESERVE };
    MmapRegion::build(file, length, libc::PROT_READ | libc::PROT_WRITE, sharing | reserve).map_err(
        |error| match error {
            MmapRegionError::Mmap(error) => error,
            other @ (MmapRegionError::InvalidOffsetLength
            | MmapRegionError::InvalidPointer
            | MmapRegionError::MapFixed
            | MmapRegionError::MappingOverlap
            | MmapRegionError::MappingPastEof) => io::Error::other(other),
        },
    )
}

/// An anonymous file, of hugepages when a size is given.
#[expect(unsafe_code, reason = "memfd_create has no safe wrapper")]
fn memfd(hugepage: Option<u64>) -> io::Result<File> {
    let huge = match hugepage {
        Some(size) => libc::MFD_HUGETLB | size.trailing_zeros() << libc::MFD_HUGE_SHIFT,
        None => 0,
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"hotbay-ram".as_ptr(), flags | huge) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Keeps its size as it is: whoever is handed the file could cut it off under us.
#[expect(unsafe_code, reason = "fcntl has no safe wrapper")]
fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the arguments are numbers.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "madvise has no safe wrapper")]
fn advise(mapping: &MmapRegion<()>, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range is a mapping of ours; none of the advices used discards data.
    let failed = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Faults in `size` bytes from `start` of a piece of RAM that stays mapped
/// meanwhile. Their contents stay as they are.
#[expect(unsafe_code, reason = "madvise has no safe wrapper")]
pub(super) fn populate(piece: &RamRange, start: u64, size: u64) -> io::Result<()> {
    let (host, size) = part(piece, start, size)?;
    // SAFETY: the range is a mapping of ours, and populating it discards nothing.
    let failed = unsafe { libc::madvise(host.cast(), size, libc::MADV_POPULATE_WRITE) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the pages of a piece of RAM back to the host, from byte `start` on so many; they read as zeros
/// next. `shared` RAM is that of a file. No device may have them mapped.
#[expect(unsafe_code, reason = "madvise has no safe wrapper")]
pub(super) fn discard(piece: &RamRange, (start, size): (u64, u64), shared: bool) -> io::Result<()> {
    let (host, size) = part(piece, start, size)?;
    let advice = if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    // SAFETY: the range is a mapping of ours of guest RAM, which stays mapped, and which nobody here takes for
    // anything but bytes that may change at any time.
    let failed = unsafe { libc::madvise(host.cast(), size, advice) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where part of a piece of RAM is in this process, and how long it is.
fn part(piece: &RamRange, start: u64, size: u64) -> io::Result<(*mut u8, usize)> {
    let out_of_range = || io::Error::from(io::ErrorKind::InvalidInput);
    let inside = start.checked_add(size).is_some_and(|end| end <= piece.size);
    let at = usize::try_from(start).ok().filter(|_| inside).ok_or_else(out_of_range)?;
    let size = usize::try_from(size).map_err(io::Error::other)?;
    Ok((piece.host.as_ptr().wrapping_add(at), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn file_of_shared_memory_keeps_its_size() {
        let file = memfd(None).unwrap();
        file.set_len(2 << 20).unwrap();
        seal(&file).unwrap();

        for size in [0, 4 << 20] {
            let refused = file.set_len(size).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{size}");
        }
    }

    #[test]
    fn memory_past_the_hole_goes_on_at_4_gib() {
        assert_eq!(pieces(64 << 20), [(0, 64 << 20)]);
        assert_eq!(pieces(3 * GIB), [(0, 3 * GIB)]);
        assert_eq!(pieces(5 * GIB), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
        assert_eq!([end(GIB), end(5 * GIB)], [4 * GIB, 6 * GIB]);
    }
}
