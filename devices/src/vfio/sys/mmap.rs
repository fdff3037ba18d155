//! A piece of a region mapped into this process.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use crate::memory::Backing;

/// A shared mapping of device memory. It is handed to the kernel as the backing
/// of a guest window, and never read or written by this process.
#[derive(Debug)]
pub struct Mmap {
    host: NonNull<u8>,
    size: NonZeroUsize,
}

// SAFETY: the mapping is only unmapped, by its one owner.
unsafe impl Send for Mmap {}
// SAFETY: there is nothing to do with a shared reference but to copy the address.
unsafe impl Sync for Mmap {}

impl Mmap {
    /// Maps `size` bytes at `offset` of the device's file, as `protection`
    /// (`PROT_READ`, `PROT_WRITE`) allows.
    pub fn new(file: &File, offset: u64, size: u64, protection: i32) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let size = usize::try_from(size).ok().and_then(NonZeroUsize::new).ok_or_else(invalid)?;
        let offset = i64::try_from(offset).map_err(|_| invalid())?;
        let (fd, flags) = (file.as_raw_fd(), libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let host =
            unsafe { libc::mmap(std::ptr::null_mut(), size.get(), protection, flags, fd, offset) };
        if host == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let host = NonNull::new(host.cast()).ok_or_else(invalid)?;
        Ok(Self { host, size })
    }

    /// Maps part of a file of another process: memory that cannot get shorter, which is a `memfd` that is sealed so, or
    /// is now. A page of any other file can take as long as whoever serves its file system likes; and where a file has
    /// been cut off, KVM asks for the page again and again (its asynchronous page faults), and the guest's thread with it.
    ///
    /// # Errors
    /// `InvalidData` if it is not, or ends before it should, or is not cut at its pages.
    pub fn of_memory(file: &File, offset: u64, size: u64, protection: i32) -> io::Result<Self> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if !is_sealed(file) && !seal(file) {
            return invalid("its file is no memfd that keeps its size");
        }
        let about = file.metadata()?;
        if offset.checked_add(size).is_none_or(|end| end > about.len()) {
            return invalid("its file is shorter than it");
        }
        if !size.is_multiple_of(about.blksize().max(1)) {
            return invalid("its file is of larger pages");
        }
        Self::new(file, offset, size, protection)
    }

    /// What a guest window needs to know of it.
    pub fn backing(&self) -> Backing {
        Backing { host: self.host, size: self.size.get() as u64 }
    }
}

impl Drop for Mmap {
    fn drop(&mut self) {
        // SAFETY: we made this mapping, and whoever uses it borrows from us.
        let answer = unsafe { libc::munmap(self.host.as_ptr().cast(), self.size.get()) };
        if answer < 0 {
            log::error!("cannot unmap device memory: {}", io::Error::last_os_error());
        }
    }
}

/// Whether a file can never get shorter. Only memory has seals, and nobody else is asked for them.
fn is_sealed(file: &File) -> bool {
    // SAFETY: the arguments are numbers.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// Sees to that, if it may be sealed at all.
fn seal(file: &File) -> bool {
    // SAFETY: the arguments are numbers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) == 0 }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    fn memfd(flags: u32) -> File {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"bar".as_ptr(), flags) };
        assert!(fd >= 0);
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(0x3000).unwrap();
        file
    }

    #[test]
    fn memory_that_can_be_sealed_is_mapped_and_keeps_its_size() {
        let file = memfd(libc::MFD_ALLOW_SEALING);
        let map = |at, size| Mmap::of_memory(&file, at, size, libc::PROT_READ);

        assert_eq!(map(0x1000, 0x2000).unwrap().backing().size, 0x2000);
        assert!(map(0x1000, 0x1000).is_ok(), "sealed already");

        assert!(file.set_len(0).is_err());
        for (at, size) in [(0x2000, 0x2000), (u64::MAX, 0x1000)] {
            let short = map(at, size).unwrap_err();
            assert!(short.to_string().contains("shorter"), "{short}");
        }
    }

    #[test]
    fn file_that_could_be_cut_off_is_not_mapped() {
        let other = File::open("/proc/self/maps").unwrap();
        for file in [memfd(0), other, tempfile::tempfile().unwrap()] {
            let refused = Mmap::of_memory(&file, 0, 0x1000, libc::PROT_READ).unwrap_err();
            assert!(refused.to_string().contains("keeps its size"), "{refused}");
        }
    }
}
