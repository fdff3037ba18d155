//! A piece of a region mapped into this process.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
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
