//! An IOMMU group: the smallest set of functions that the host can isolate.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use vfio_bindings::bindings::vfio::{
    VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE1v2_IOMMU, vfio_group_status,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val};

use super::{check, request, size_of};

const SET_IOMMU: u32 = 2;
const GET_STATUS: u32 = 3;
const SET_CONTAINER: u32 = 4;
const GET_DEVICE_FD: u32 = 6;

/// An open group. Only one process can have it open.
#[derive(Debug)]
pub struct Group(File);

impl Group {
    /// Opens `/dev/vfio/<number>`.
    pub fn open(number: u32) -> io::Result<Self> {
        let path = format!("/dev/vfio/{number}");
        OpenOptions::new().read(true).write(true).open(path).map(Self)
    }

    /// Whether every function of the group is in VFIO's hands (or in nobody's).
    pub fn is_viable(&self) -> io::Result<bool> {
        let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>(), flags: 0 };
        // SAFETY: the structure is of the size it names, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&self.0, request(GET_STATUS), &mut status) })?;
        Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    /// Puts the group into `container`. It leaves when the group is closed.
    pub fn join(&self, container: &impl AsRawFd) -> io::Result<()> {
        let fd = container.as_raw_fd();
        // SAFETY: the kernel reads one descriptor number.
        check(unsafe { ioctl_with_ref(&self.0, request(SET_CONTAINER), &fd) })?;
        Ok(())
    }

    /// A file on which no ioctl works.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn fake() -> Self {
        Self(File::open("/dev/null").expect("there is always /dev/null"))
    }

    /// Opens the function called `name` (`0000:01:00.0`), which resets it.
    pub fn device(&self, name: &str) -> io::Result<File> {
        let name = CString::new(name)?;
        // SAFETY: a terminated string that outlives the call.
        let fd = check(unsafe { ioctl_with_ptr(&self.0, request(GET_DEVICE_FD), name.as_ptr()) })?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}

/// Makes `container`, which has a group, a type 1 IOMMU domain: from here on it
/// takes mappings.
pub fn set_type1(container: &impl AsRawFd) -> io::Result<()> {
    let kind = VFIO_TYPE1v2_IOMMU.into();
    // SAFETY: the argument is a number.
    check(unsafe { ioctl_with_val(&container.as_raw_fd(), request(SET_IOMMU), kind) })?;
    Ok(())
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Group {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
