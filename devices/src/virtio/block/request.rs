//! One request of a disk's driver (virtio 1.2, 5.2.6): read, checked, done.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::{Disk, FLUSH, MOST_DISCARDED, MOST_RANGES, MOST_ZEROED, SECTOR};
use crate::virtio::chain::{Area, Buffers, Malformed};

/// Bytes of a request's head.
const HEAD: usize = 16;
/// Bytes of a range to discard or to fill with zeros.
const RANGE: usize = 16;

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    /// The host failed it, or it cannot be.
    IoError,
    /// There is no such request.
    Unsupported,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        let value = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        value.to_le_bytes()[0]
    }
}

/// Why a driver's request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// Its buffers are not what they should be.
    #[error(transparent)]
    Buffers(#[from] Malformed),
    /// Past the end of the disk, or not whole sectors.
    #[error("sectors that are not on the disk")]
    Sectors,
    /// The disk cannot be written.
    #[error("a write to a disk that is read-only")]
    ReadOnly,
    /// No range, half a range, too many, or too long ones.
    #[error("ranges of the wrong number or length")]
    Ranges,
}

/// What is done with a range of sectors, besides reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Erasure {
    /// Its contents are of no interest any more.
    Discard,
    /// It reads as zeros from now on.
    Zeros,
}

/// Whether a request reads or writes sectors. The driver may change it meanwhile: only for who wants to guess.
pub(super) fn is_transfer(request: &Buffers<'_>) -> bool {
    let mut kind = [0; 4];
    let read = request.readable.read(&mut kind);
    read.is_ok() && matches!(u32::from_le_bytes(kind), VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT)
}

impl Disk {
    /// Does `request`, whose writable buffers but the status end at `end`; how many
    /// bytes of those were filled.
    pub(super) fn answer(
        &self,
        features: u64,
        request: &Buffers<'_>,
        end: u64,
    ) -> Result<u64, Status> {
        let mut head = [0; HEAD];
        request.readable.read(&mut head).map_err(|error| self.refuse(error))?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = head;
        let sector = u64::from_le_bytes(sector);
        let sent = request.readable.part(HEAD as u64, request.readable.len());
        let sent = sent.map_err(|error| self.refuse(error))?;
        let wanted = request.writable.part(0, end).map_err(|error| self.refuse(error))?;
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => self.read(sector, &wanted),
            VIRTIO_BLK_T_OUT => self.write(features, sector, &sent),
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => self.identify(&wanted),
            VIRTIO_BLK_T_DISCARD => self.erase(&sent, Erasure::Discard, features),
            VIRTIO_BLK_T_WRITE_ZEROES => self.erase(&sent, Erasure::Zeros, features),
            _ => Err(Status::Unsupported),
        }
    }

    fn read(&self, sector: u64, wanted: &Area<'_>) -> Result<u64, Status> {
        let at = self.range(sector, wanted.len())?;
        let slices = wanted.slices().map_err(|error| self.refuse(error))?;
        self.store.read(at, &slices).map_err(|error| self.fail("a read", &error))?;
        count(&self.counts.read_ops, 1);
        count(&self.counts.read_bytes, wanted.len());
        Ok(wanted.len())
    }

    fn write(&self, features: u64, sector: u64, sent: &Area<'_>) -> Result<u64, Status> {
        self.check_writable()?;
        let at = self.range(sector, sent.len())?;
        let slices = sent.slices().map_err(|error| self.refuse(error))?;
        self.store.write(at, &slices).map_err(|error| self.fail("a write", &error))?;
        count(&self.counts.write_ops, 1);
        count(&self.counts.write_bytes, sent.len());
        self.write_through(features)
    }

    fn flush(&self) -> Result<u64, Status> {
        self.store.flush().map_err(|error| self.fail("a flush", &error))?;
        count(&self.counts.flushes, 1);
        Ok(0)
    }

    /// A driver that does not know of flushes believes written what is done (5.2.5.1).
    fn write_through(&self, features: u64) -> Result<u64, Status> {
        if features & FLUSH == 0 { self.flush() } else { Ok(0) }
    }

    fn identify(&self, wanted: &Area<'_>) -> Result<u64, Status> {
        let room = wanted.len().min(self.serial.len() as u64);
        let fits = usize::try_from(room).unwrap_or(0);
        wanted.write(&self.serial[..fits]).map_err(|error| self.refuse(error))?;
        Ok(room)
    }

    /// Ranges are all checked before the first is touched.
    fn erase(&self, sent: &Area<'_>, how: Erasure, features: u64) -> Result<u64, Status> {
        self.check_writable()?;
        let ranges = sent.len() / RANGE as u64;
        let whole = sent.len().is_multiple_of(RANGE as u64);
        if !whole || ranges == 0 || ranges > MOST_RANGES.into() {
            return Err(self.refuse(Refusal::Ranges));
        }
        let mut checked = Vec::new();
        for index in 0..ranges {
            let mut bytes = [0; RANGE];
            let start = index * RANGE as u64;
            let part = sent.part(start, start + RANGE as u64);
            part.and_then(|part| part.read(&mut bytes)).map_err(|error| self.refuse(error))?;
            checked.push(self.erasable(bytes, how)?);
        }
        for (at, length, unmap) in checked {
            let done = match how {
                Erasure::Discard => self.store.discard(at, length),
                Erasure::Zeros => self.store.zero(at, length, unmap),
            };
            done.map_err(|error| {
                let unknown = error.kind() == io::ErrorKind::Unsupported;
                if unknown { Status::Unsupported } else { self.fail("an erasure", &error) }
            })?;
        }
        self.write_through(features)
    }

    /// Position and length in bytes of a range, and whether its blocks may be given up.
    fn erasable(&self, bytes: [u8; RANGE], how: Erasure) -> Result<(u64, u64, bool), Status> {
        let [sector @ .., a, b, c, d, e, f, g, h] = bytes;
        let (sector, sectors) = (u64::from_le_bytes(sector), u32::from_le_bytes([a, b, c, d]));
        let flags = u32::from_le_bytes([e, f, g, h]);
        let (most, known) = match how {
            Erasure::Discard => (MOST_DISCARDED, 0),
            Erasure::Zeros => (MOST_ZEROED, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
        };
        if flags & !known != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > most {
            return Err(self.refuse(Refusal::Ranges));
        }
        let length = u64::from(sectors) * SECTOR;
        Ok((self.range(sector, length)?, length, flags != 0))
    }

    /// Position in bytes of `length` bytes at `sector`, which are all on the disk.
    fn range(&self, sector: u64, length: u64) -> Result<u64, Status> {
        let end = sector.checked_add(length / SECTOR);
        let inside = end.is_some_and(|end| end <= self.store.sectors());
        match inside && length.is_multiple_of(SECTOR) {
            true => Ok(sector * SECTOR),
            false => Err(self.refuse(Refusal::Sectors)),
        }
    }

    fn check_writable(&self) -> Result<(), Status> {
        if self.store.is_readonly() { Err(self.refuse(Refusal::ReadOnly)) } else { Ok(()) }
    }

    /// The driver should not have asked for that.
    fn refuse(&self, why: impl Into<Refusal>) -> Status {
        count(&self.counts.refused, 1);
        log::debug!("disk {}: refused a request: {}", self.name, why.into());
        Status::IoError
    }

    fn fail(&self, what: &str, error: &io::Error) -> Status {
        self.failed(what, error);
        Status::IoError
    }
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
