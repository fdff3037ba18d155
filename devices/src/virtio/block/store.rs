//! Where a disk's bytes are: a raw image or a block device of the host.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use vm_memory::VolatileSlice;

use super::SECTOR;
use super::sys::{self, Erase};

/// Zeros to write where the host knows no better way.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What `direct` reads at least.
const PAGE: usize = 4096;
/// What a qcow2 image begins with (QEMU's `docs/interop/qcow2.txt`).
const QCOW2: &[u8] = b"QFI\xfb";

/// How a disk is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It is never written.
    pub readonly: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// What the bytes mean.
    pub format: Format,
}

/// What the bytes of a file mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// They are the disk's, but nobody has said so: those of a qcow2 image are not taken.
    #[default]
    Unsaid,
    /// They are the disk's, whatever they are.
    Raw,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not there, or not for us.
    #[error("cannot open it{}", hint(.0))]
    Open(#[source] io::Error),
    /// A folder, a pipe...
    #[error("it is neither a file nor a block device")]
    NoDisk,
    /// It is smaller than a sector.
    #[error("it has {0} bytes, less than one sector of 512; make it longer (truncate -s)")]
    Empty(u64),
    /// Somebody else has it, for writing or while we want to write.
    #[error(
        "another disk or process has it; share it by readonly=on on both sides, or give each its own"
    )]
    Taken,
    /// Its file system knows no locks.
    #[error(
        "cannot lock it; readonly=on needs a lock too, so put it on a file system that has them"
    )]
    Lock(#[source] io::Error),
    /// A disk of such bytes is no use to a guest, unless they are its own.
    #[error(
        "it begins as a qcow2 image does; make a raw one of it (qemu-img convert -O raw), or say \
         image_type Raw if the guest is to have it byte for byte"
    )]
    Qcow2,
    /// The host does not say.
    #[error("cannot find out what it is")]
    Inspect(#[source] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) => " with direct=on, which its file system may not offer",
        Some(libc::EROFS | libc::EACCES) => " (readonly=on needs less)",
        _ => "",
    }
}

/// An open image or device, which nobody else writes meanwhile.
#[derive(Debug)]
pub struct Store {
    file: File,
    access: Access,
    sectors: u64,
    block_size: u32,
}

impl Store {
    /// Opens and locks `path` (`flock`): alone if it is to be written, else together
    /// with others that only read. Bytes after the last whole sector are not used.
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let flags = if access.direct { libc::O_DIRECT } else { 0 };
        let mut options = OpenOptions::new();
        // Nothing else blocks: opening a pipe does.
        options.read(true).write(!access.readonly).custom_flags(flags | libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(OpenError::Open)?;
        let kind = file.metadata().map_err(OpenError::Inspect)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NoDisk);
        }
        let lock = if access.readonly { file.try_lock_shared() } else { file.try_lock() };
        lock.map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Taken,
            TryLockError::Error(error) => OpenError::Lock(error),
        })?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(OpenError::Inspect)?;
        if bytes < SECTOR {
            return Err(OpenError::Empty(bytes));
        }
        if access.format == Format::Unsaid && begins_as_qcow2(&file).map_err(OpenError::Inspect)? {
            return Err(OpenError::Qcow2);
        }
        let aligned = if access.direct { sys::direct_alignment(&file) } else { 0 };
        let block_size = aligned.max(512);
        Ok(Self { file, access, sectors: bytes / SECTOR, block_size })
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Bytes that positions and lengths must be multiples of: 512, or more with `direct`.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether it is never written.
    pub fn is_readonly(&self) -> bool {
        self.access.readonly
    }

    /// Whether it is used past the host's page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.access.direct
    }

    /// Fills `slices` from byte `at` on. An end of the file before theirs is an error:
    /// it has become shorter.
    pub(super) fn read(&self, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        let read = |at, slices: &[VolatileSlice<'_>]| sys::read(&self.file, at, slices);
        each(at, slices, io::ErrorKind::UnexpectedEof, read)
    }

    /// Writes `slices` from byte `at` on.
    pub(super) fn write(&self, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        let write = |at, slices: &[VolatileSlice<'_>]| sys::write(&self.file, at, slices);
        each(at, slices, io::ErrorKind::WriteZero, write)
    }

    /// What was written is on the medium.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives up what holds these bytes.
    pub(super) fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        sys::erase(&self.file, Erase::Punch, at, length)
    }

    /// Makes these bytes zeros, in the quickest way that there is.
    pub(super) fn zero(&self, at: u64, length: u64, unmap: bool) -> io::Result<()> {
        let ways = [Erase::Punch, Erase::Zero];
        for way in if unmap { &ways[..] } else { &ways[1..] } {
            match sys::erase(&self.file, *way, at, length) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                outcome => return outcome,
            }
        }
        let end = at + length;
        let pieces = (at..end).step_by(ZEROS.len());
        let most = ZEROS.len() as u64;
        let size = |at: u64| usize::try_from((end - at).min(most)).unwrap_or(ZEROS.len());
        pieces.into_iter().try_for_each(|at| self.file.write_all_at(&ZEROS[..size(at)], at))
    }
}

/// Whether a file's first bytes are those of a qcow2 image.
fn begins_as_qcow2(file: &File) -> io::Result<bool> {
    // Room for a page that begins at one, as `direct` wants it.
    let mut room = vec![0; 2 * PAGE];
    let start = room.as_ptr().align_offset(PAGE).min(PAGE);
    let count = file.read_at(&mut room[start..start + PAGE], 0)?;
    Ok(room[start..start + count].starts_with(QCOW2))
}

/// Repeats `step`, which does a part, until all of `slices` are done; nothing done is
/// the error `stuck`.
fn each(
    mut at: u64,
    slices: &[VolatileSlice<'_>],
    stuck: io::ErrorKind,
    step: impl Fn(u64, &[VolatileSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut rest: Vec<_> = slices.iter().copied().filter(|slice| !slice.is_empty()).collect();
    let mut done = 0;
    while done < rest.len() {
        let now = &rest[done..];
        let mut count = match step(at, &now[..now.len().min(sys::MOST_SLICES)]) {
            Ok(0) => return Err(stuck.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        at += u64::try_from(count).unwrap_or(0);
        while let Some(first) = rest.get_mut(done).filter(|_| count > 0) {
            let taken = count.min(first.len());
            count -= taken;
            if taken == first.len() {
                done += 1;
            } else {
                *first = first.offset(taken).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
