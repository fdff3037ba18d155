//! A qcow2 image (QEMU's `docs/interop/qcow2.txt`), through the crate imago.

use std::fs::File;
use std::io;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use vm_memory::VolatileSlice;

use super::store::Access;

/// What an image begins with.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

type Format = FormatAccess<imago::file::File>;

/// An open image. Its metadata is kept here, and written with a flush, or when this is dropped.
pub(super) struct Image(RwLock<Format>);

impl Image {
    /// Of `file`, which is open for `access`. Nothing else is opened, whatever the image says.
    ///
    /// # Errors
    /// It makes no sense, wants another file (a backing or a data file), or cannot be read.
    pub(super) fn open(file: File, access: Access) -> io::Result<Self> {
        let options = StorageOpenOptions::new().write(!access.readonly).direct(access.direct);
        let file = imago::file::File::from_open_file(file, options)?;
        let builder = Qcow2::<imago::file::File>::builder(file).write(!access.readonly);
        let image = builder.open(DenyImplicitOpenGate::default())?;
        Ok(Self(RwLock::new(FormatAccess::new(image))))
    }

    /// Bytes of the disk that it is of.
    pub(super) fn bytes(&self) -> u64 {
        self.read_lock().size()
    }

    pub(super) fn read(&self, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(slices);
        self.read_lock().readv(vector, at)
    }

    pub(super) fn write(&self, at: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        let (vector, _guard) = IoVector::from_volatile_slice(slices);
        self.read_lock().writev(vector, at)
    }

    /// What was written is on the medium, and can be found there.
    pub(super) fn flush(&self) -> io::Result<()> {
        let image = self.read_lock();
        image.flush()?;
        image.sync()
    }

    /// Gives up clusters; what they held is undefined. Nobody else uses the image meanwhile.
    pub(super) fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).discard_to_any(at, length)
    }

    pub(super) fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        self.read_lock().write_zeroes(at, length)
    }

    /// The image finds out by itself which requests exclude each other.
    fn read_lock(&self) -> RwLockReadGuard<'_, Format> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
