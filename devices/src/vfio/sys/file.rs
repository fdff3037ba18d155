//! The descriptor of an open function: everything that [`super::device::Device`]
//! asks of the kernel goes through it.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vmm_sys_util::ioctl::ioctl_with_mut_ptr;

use super::mmap::Mmap;
use super::{check, request};

/// An open function, to the kernel. The kernel's own is a [`File`]; whatever owns
/// one can be one, and `tests/fuzz` has a device that lies.
pub trait DeviceFile: Debug + Send + Sync {
    /// VFIO request `number` (100 more in `linux/vfio.h`) with its structure as
    /// words in the host's byte order, of which the first, `argsz`, says how many
    /// bytes of them count. The kernel's answer is written over it. Requests
    /// without a structure have no words.
    fn call(&self, number: u32, argument: &mut [u32]) -> io::Result<i32>;

    /// Fills `data` with what is at `position` of the device's file.
    fn read_at(&self, position: u64, data: &mut [u8]) -> io::Result<()>;

    /// Stores `data` at `position` of the device's file.
    fn write_at(&self, position: u64, data: &[u8]) -> io::Result<()>;

    /// Maps `size` bytes at `position`, as `protection` (`PROT_*`) allows.
    fn map(&self, position: u64, size: u64, protection: i32) -> io::Result<Mmap>;
}

impl DeviceFile for File {
    fn call(&self, number: u32, argument: &mut [u32]) -> io::Result<i32> {
        let counts = argument.first().map_or(Ok(0), |argsz| usize::try_from(*argsz));
        if counts.is_ok_and(|counts| counts > size_of_val(argument)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: VFIO writes at most the `argsz` bytes that the first word names, and
        // those are inside; without words the pointer is one that the kernel refuses.
        check(unsafe { ioctl_with_mut_ptr(self, request(number), argument.as_mut_ptr()) })
    }

    fn read_at(&self, position: u64, data: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(data, position)
    }

    fn write_at(&self, position: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, position)
    }

    fn map(&self, position: u64, size: u64, protection: i32) -> io::Result<Mmap> {
        Mmap::new(self, position, size, protection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_that_claims_more_than_it_has_does_not_reach_the_kernel() {
        let file = File::open("/dev/null").unwrap();

        let error = file.call(7, &mut [13, 0, 0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // The kernel's: it is no device.
        let error = file.call(7, &mut [12, 0, 0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
