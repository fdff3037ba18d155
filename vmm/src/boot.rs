//! Puts a kernel, its initramfs and its command line into guest memory.
//!
//! ```text
//! 0x0500   descriptor table         0x0009_fc00  reserved; ACPI tables
//! 0x6000   PVH start info           0x0010_0000  kernel
//! 0x7000   zero page                top of the low RAM, downwards: initramfs
//! 0x9000   page tables              0x000f_fff0  reset vector
//! 0x20000  command line
//! ```

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::arch::x86_64::registers::Entry;
use crate::memory::ram::Memory;

mod initramfs;
mod linux;
mod memory_map;
mod pvh;

/// Where the command line is.
const COMMAND_LINE: u64 = 0x2_0000;
/// Most bytes of a command line with its end, where the kernel does not say.
const COMMAND_LINE_MAX: usize = 2048;
/// Where kernels are loaded, and end of what a PC keeps for itself.
const HIGH_MEMORY: u64 = 0x10_0000;
/// Where a processor begins in real mode, seen from the first MiB.
const RESET_VECTOR: u64 = 0xf_fff0;
/// The keyboard controller's command port, and its command for a reset.
const COMMAND_PORT: u8 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// What to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// A bzImage, or an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// Handed to the kernel as it is.
    pub initramfs: Option<PathBuf>,
    /// Handed to the kernel as it is.
    pub cmdline: String,
}

/// Why nothing boots.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Missing, or not readable.
    #[error("cannot read {what} {}{}", path.display(), remedy(source))]
    Read {
        /// Which file it is to us.
        what: &'static str,
        /// Its name.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Neither of the two formats.
    #[error("{} is not a kernel that can boot here: {reason}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The guest has not enough memory below 3 GiB.
    #[error(
        "the guest's memory is too small: {} needs {} MiB, there are {} MiB below 3 GiB",
        path.display(), mib_up(*.needed), .there >> 20
    )]
    NoRoom {
        /// The file that does not fit.
        path: PathBuf,
        /// Bytes needed, counted from address 0.
        needed: u64,
        /// Bytes there.
        there: u64,
    },
    /// The host has not enough memory to give all of it at once.
    #[error("cannot fault the guest's memory in (prefault); has the host enough free?")]
    Prefault(#[source] io::Error),
    /// Too long, or with a NUL byte.
    #[error("the kernel command line is not 0 to {most} bytes without NUL")]
    CommandLine {
        /// Most bytes this kernel takes.
        most: usize,
    },
    /// Guest memory refuses: smaller than anything boots in.
    #[error("cannot write the boot data into guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Root is used to reading everything, but hotbay has given that up.
fn remedy(error: &io::Error) -> &'static str {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return "";
    }
    "; hotbay has no capability, so even root needs the permission bits of the file and its \
     folders; with Landlock it must be the file that was there when that began"
}

fn mib_up(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Loads `payload` and returns where the first processor begins. `rsdp` is the
/// address of the ACPI root pointer.
pub fn load(memory: &Memory, payload: &Payload, rsdp: Option<u64>) -> Result<Entry, Error> {
    let mut file = open("kernel", &payload.kernel)?;
    let mut magic = [0; 4];
    let read = file.read_exact(&mut magic).and_then(|()| file.rewind());
    let entry = match read {
        Ok(()) if magic == *b"\x7fELF" => pvh::load(memory, payload, &mut file, rsdp)?,
        Ok(()) => linux::load(memory, payload, &mut file, rsdp)?,
        Err(error) => return Err(not_a_kernel(&payload.kernel, &error)),
    };
    entry.write_tables(memory)?;
    write_reset_vector(memory)?;
    Ok(entry)
}

/// Writes what a PC's firmware has at the reset vector: code that resets the
/// machine. A Linux without EFI on hardware-reduced ACPI wants to reboot through
/// EFI, finds none, and as its last resort jumps there in real mode. It pulls the
/// keyboard controller's line, so that the log tells this way from the usual one.
fn write_reset_vector(memory: &Memory) -> Result<(), Error> {
    let code = [
        0xb0,
        PULSE_RESET, // mov al, PULSE_RESET
        0xe6,
        COMMAND_PORT, // out COMMAND_PORT, al
        0xf4,         // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ];
    Ok(memory.write_slice(&code, GuestAddress(RESET_VECTOR))?)
}

fn open(what: &'static str, path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Read { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(file)
}

fn not_a_kernel(path: &Path, reason: &impl ToString) -> Error {
    Error::NotAKernel { path: path.to_owned(), reason: reason.to_string() }
}

/// Writes the command line; `most` is its greatest length without the end.
fn write_command_line(memory: &Memory, text: &str, most: usize) -> Result<(), Error> {
    if text.len() > most || text.contains('\0') {
        return Err(Error::CommandLine { most });
    }
    let bytes = [text.as_bytes(), b"\0"].concat();
    Ok(memory.write_slice(&bytes, GuestAddress(COMMAND_LINE))?)
}

#[cfg(test)]
mod tests;
