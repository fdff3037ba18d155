//! A function behind the back of the VMM that has it: its VFIO descriptor, taken out of that process
//! (pidfd_getfd(2)). What is done to it hits the VMM as if the host or the device had done it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Doing, Error, Result};
use crate::host::run;

/// Where VFIO keeps configuration space in a device's file (Linux `include/linux/vfio_pci_core.h`).
const CONFIG: u64 = 7 << 40;

/// `pidfd_getfd`, for which Python has no name, and a write.
const WRITE: &str = "
import ctypes, os, sys
pid, fd, at, value = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
copy = libc.syscall(438, os.pidfd_open(pid), fd, 0)
if copy < 0: sys.exit(os.strerror(ctypes.get_errno()))
os.pwrite(copy, value.to_bytes(2, 'little'), at)
";

/// The one function that a process has open.
#[derive(Debug)]
pub struct Behind {
    pid: u32,
    descriptor: String,
}

impl Behind {
    /// Of the process `pid`.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}/fd"));
        let all = fs::read_dir(&folder).doing(format!("list the descriptors of {pid}"))?;
        let is_device = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("vfio-device"))
        };
        let mut devices = all.flatten().map(|entry| entry.path()).filter(is_device);
        let only = devices.next().filter(|_| devices.next().is_none());
        let name = only.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let none = || Error::Unexpected(format!("{pid} has not exactly one function open"));
        Ok(Self { pid, descriptor: name.ok_or_else(none)? })
    }

    /// Writes 16 bits of the function's configuration space.
    pub fn write_config(&self, offset: u16, value: u64) -> Result {
        let arguments = [self.pid.to_string(), self.descriptor.clone()];
        let place = (CONFIG + u64::from(offset)).to_string();
        let mut python = Command::new("python3");
        python.args(["-c", WRITE]).args(arguments).args([place, value.to_string()]);
        run(&mut python).map(drop)
    }
}
