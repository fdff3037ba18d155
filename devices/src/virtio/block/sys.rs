//! System calls on guest memory and on a disk's file that std does not offer.
#![expect(unsafe_code, reason = "positioned vectored I/O, fallocate and statx")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use libc::{c_int, iovec, off_t};
use vm_memory::VolatileSlice;

/// Most slices of one call (IOV_MAX).
pub(super) const MOST_SLICES: usize = 1024;

/// What becomes of a range of a file that keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Erase {
    /// It holds nothing any more, and reads as zeros.
    Punch,
    /// It reads as zeros.
    Zero,
}

/// Reads into `slices`, at most [`MOST_SLICES`], from byte `at` on; bytes read, 0 at the end.
pub(super) fn read(file: &File, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, count, at) = arguments(slices, at)?;
    // SAFETY: each vector is guest RAM that stays mapped as long as its slice lives; the
    // guest may see and change it at any time, which plain bytes of its own may.
    done(unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, at) })
}

/// Writes `slices`, at most [`MOST_SLICES`], from byte `at` on; bytes written.
pub(super) fn write(file: &File, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, count, at) = arguments(slices, at)?;
    // SAFETY: as above, and the kernel only reads them.
    done(unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, at) })
}

fn arguments(slices: &[VolatileSlice<'_>], at: u64) -> io::Result<(Vec<iovec>, c_int, off_t)> {
    let vector = |slice: &VolatileSlice<'_>| iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    let vectors: Vec<iovec> = slices.iter().take(MOST_SLICES).map(vector).collect();
    let count = c_int::try_from(vectors.len()).map_err(io::Error::other)?;
    Ok((vectors, count, off_t::try_from(at).map_err(io::Error::other)?))
}

fn done(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Empties `length` bytes from `at` on; block devices take this too.
pub(super) fn erase(file: &File, how: Erase, at: u64, length: u64) -> io::Result<()> {
    let mode = match how {
        Erase::Punch => libc::FALLOC_FL_PUNCH_HOLE,
        Erase::Zero => libc::FALLOC_FL_ZERO_RANGE,
    };
    let at = off_t::try_from(at).map_err(io::Error::other)?;
    let length = off_t::try_from(length).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(());
    }
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: numbers only.
    let failed = unsafe { libc::fallocate(file.as_raw_fd(), mode, at, length) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What positions of direct I/O must be multiples of; 0 if the kernel does not say
/// (before Linux 6.1).
pub(super) fn direct_alignment(file: &File) -> u32 {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path means the descriptor; the kernel fills the structure.
    let failed = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            found.as_mut_ptr(),
        )
    };
    // SAFETY: every pattern of bits is one, and zeros were there before.
    let found = unsafe { found.assume_init() };
    let told = failed == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0;
    if told { found.stx_dio_offset_align } else { 0 }
}
