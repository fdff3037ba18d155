//! The kernel's VFIO interface (Linux `include/uapi/linux/vfio.h`): groups,
//! devices, regions, interrupts. Thin and typed; every unsafe of the VFIO code
//! is below here.
#![expect(unsafe_code, reason = "ioctls and memory maps have no safe form")]

pub mod device;
pub mod dma;
pub mod file;
pub mod group;
pub mod mmap;
pub mod region;
pub mod socket;

use std::ffi::c_ulong;
use std::io;

use vmm_sys_util::ioctl::{_IOC_NONE, ioctl_expr};

/// `_IO(';', 100 + number)`: VFIO encodes no sizes in its requests.
const fn request(number: u32) -> c_ulong {
    ioctl_expr(_IOC_NONE, b';' as u32, 100 + number, 0)
}

/// The kernel's answer as a result.
fn check(answer: i32) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Bytes of a kernel structure, for its `argsz`.
fn size_of<T>() -> u32 {
    u32::try_from(std::mem::size_of::<T>()).unwrap_or(u32::MAX)
}
