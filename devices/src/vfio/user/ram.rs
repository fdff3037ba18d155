//! Guest RAM that a server may reach: it is handed the file behind it, and may also ask
//! for bytes of it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::connection::{Connection, Question};
use super::wire::{ACCESS, Command, DMA_READ, DMA_WRITE, MOST_DATA, bytes, long};

/// The guest's RAM.
pub(super) type Memory = GuestMemoryMmap<()>;

/// Bits of a mapping: the server may read it, and write it.
const READABLE: u32 = 1;
const WRITABLE: u32 = 2;
/// Bytes of a mapping's description, and of one to be undone.
const MAP: u32 = 32;
const UNMAP: u32 = 24;

/// The RAM is this process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest's RAM cannot be handed to another process: create the VM with \"shared\": true \
     (--memory shared=on)"
)]
pub struct NotShared;

/// RAM, and which of it a server may reach.
#[derive(Debug)]
pub(super) struct Ram {
    memory: Memory,
    lent: Mutex<Vec<Range<u64>>>,
}

/// All RAM in the hands of a server. Taken back when this is dropped, if the server still
/// answers; what it has mapped it can reach for as long as it lives.
#[derive(Debug)]
pub struct Lent {
    connection: Arc<Connection>,
    ranges: Vec<Range<u64>>,
}

/// A piece of RAM and the file that it is in.
struct Piece {
    guest: Range<u64>,
    file: RawFd,
    offset: u64,
}

impl Ram {
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, lent: Mutex::default() }
    }

    /// Answers a server: the body of the reply, or an errno.
    pub(super) fn serve(&self, command: u16, body: &[u8]) -> Result<Vec<u8>, i32> {
        let (Some(address), Some(count)) = (long(body, 0), long(body, 8)) else {
            return Err(libc::EINVAL);
        };
        let count = usize::try_from(count).ok().filter(|count| *count <= MOST_DATA);
        let count = count.ok_or(libc::EINVAL)?;
        let (access, data) = body.split_at(ACCESS);
        let expected = if command == DMA_WRITE { count } else { 0 };
        if data.len() != expected {
            return Err(libc::EINVAL);
        }
        self.check(address, count)?;
        let at = GuestAddress(address);
        match command {
            DMA_READ => {
                let mut reply = [access, &vec![0; count]].concat();
                let read = self.memory.read_slice(&mut reply[ACCESS..], at);
                read.map(|()| reply).map_err(|_| libc::EFAULT)
            }
            DMA_WRITE => {
                let written = self.memory.write_slice(data, at);
                written.map(|()| access.to_vec()).map_err(|_| libc::EFAULT)
            }
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    /// Fails unless all of it is lent.
    fn check(&self, address: u64, count: usize) -> Result<(), i32> {
        let end = u64::try_from(count).ok().and_then(|count| address.checked_add(count));
        let end = end.ok_or(libc::EFAULT)?;
        let inside = |lent: &Range<u64>| lent.start <= address && end <= lent.end;
        if self.lock().iter().any(inside) { Ok(()) } else { Err(libc::EFAULT) }
    }

    fn pieces(&self) -> Result<Vec<Piece>, NotShared> {
        pieces(&self.memory)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails unless all of `memory` can be handed to another process.
pub(super) fn check_shared(memory: &Memory) -> Result<(), NotShared> {
    pieces(memory).map(drop)
}

/// Private memory may have a file too: another process would see the file, and not what
/// the guest writes.
fn pieces(memory: &Memory) -> Result<Vec<Piece>, NotShared> {
    let piece = |region: &vm_memory::GuestRegionMmap<()>| {
        let file = region.file_offset().filter(|_| region.flags() & libc::MAP_SHARED != 0);
        let file = file.ok_or(NotShared)?;
        let start = region.start_addr().0;
        let guest = start..start + region.len();
        Ok(Piece { guest, file: file.file().as_raw_fd(), offset: file.start() })
    };
    memory.iter().map(piece).collect()
}

impl Lent {
    /// Hands all RAM to a server. Each piece goes by itself, with its file.
    pub(super) fn lend(connection: &Arc<Connection>) -> io::Result<Self> {
        let mut lent = Self { connection: Arc::clone(connection), ranges: Vec::new() };
        for piece in connection.ram().pieces().map_err(io::Error::other)? {
            let Piece { guest, file, offset } = piece;
            let sizes = [offset, guest.start, guest.end - guest.start];
            let body = [bytes(&[MAP, READABLE | WRITABLE]), longs(&sizes)].concat();
            // It may be used before we hear that it has arrived.
            connection.ram().lock().push(guest.clone());
            lent.ranges.push(guest);
            let descriptors = &[file];
            let command = Command::DmaMap;
            let asked = Question { command, body: &body, most: 0, descriptors };
            connection.ask(asked, connection.limit())?;
        }
        Ok(lent)
    }

    fn take_back(&self, range: &Range<u64>) -> io::Result<()> {
        let sizes = [range.start, range.end - range.start];
        let body = [bytes(&[UNMAP, 0]), longs(&sizes)].concat();
        // Some answer with what they were asked.
        let most = body.len();
        let descriptors = &[];
        let asked = Question { command: Command::DmaUnmap, body: &body, most, descriptors };
        self.connection.ask(asked, self.connection.limit()).map(drop)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        for range in &self.ranges {
            if let Err(error) = self.take_back(range) {
                log::warn!("a vfio-user server may still have guest RAM mapped: {error}");
            }
            self.connection.ram().lock().retain(|lent| lent != range);
        }
    }
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}
