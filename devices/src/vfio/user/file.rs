//! A server in the place of the kernel's device file: VFIO's ioctls as its messages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_REGION_INFO_FLAG_MMAP,
};

use super::enable::Enables;
use super::server::Server;
use super::wire::{Command, words};
use crate::vfio::sys::device::{GET_INFO, GET_IRQ_INFO, RESET, SET_IRQS};
use crate::vfio::sys::file::DeviceFile;
use crate::vfio::sys::mmap::Mmap;
use crate::vfio::sys::region::GET_REGION_INFO;

/// Each region has so many bits of the positions in the file, as with the kernel's own.
const REGION_SHIFT: u32 = 40;
const WITHIN: u64 = (1 << REGION_SHIFT) - 1;

/// Words of what the protocol says of a device; the kernel may say more.
const DEVICE_WORDS: usize = 4;
/// Words of what it says of an interrupt index.
const IRQ_WORDS: usize = 4;
/// Words of a region's description before its capabilities, and where among them its flags, index, size and
/// offset are.
const REGION_WORDS: usize = 8;
const FLAGS: usize = 1;
const INDEX: usize = 2;
const SIZE: usize = 4;
const OFFSET: usize = 6;
/// The word that stands for no eventfd.
const NONE: u32 = u32::MAX;

/// The device of a server.
#[derive(Debug)]
pub struct Remote {
    server: Server,
    enables: Enables,
    /// Files of the regions that can be mapped, and where in them a region begins.
    files: Mutex<BTreeMap<u64, (File, u64)>>,
}

impl Remote {
    /// Of a server that has RAM to work on.
    pub fn new(server: Server) -> Self {
        Self { server, enables: Enables::default(), files: Mutex::default() }
    }

    fn device_info(&self, info: &mut [u32]) -> io::Result<()> {
        let info = info.get_mut(..DEVICE_WORDS).ok_or(io::ErrorKind::InvalidInput)?;
        info[0] = 16;
        let (body, _) = self.server.describe(Command::DeviceInfo, info)?;
        self.copy("DEVICE_GET_INFO", &body, info)
    }

    /// Vectors are always added one by one, and one that its server does not add is refused. Where they all go
    /// off and on again, each is owed an event that we write, and with a server at its other descriptor we might
    /// wait in that.
    fn irq_info(&self, info: &mut [u32]) -> io::Result<()> {
        let info = info.get_mut(..IRQ_WORDS).ok_or(io::ErrorKind::InvalidInput)?;
        let index = info[INDEX];
        let (body, _) = self.server.describe(Command::IrqInfo, info)?;
        self.copy("DEVICE_GET_IRQ_INFO", &body, info)?;
        if info[INDEX] != index {
            return Err(self.server.misled("DEVICE_GET_IRQ_INFO"));
        }
        info[FLAGS] &= !VFIO_IRQ_INFO_NORESIZE;
        Ok(())
    }

    /// The server's offset is one in a file of its own; ours says which region it is.
    fn region_info(&self, info: &mut [u32]) -> io::Result<()> {
        let index = info.get(..REGION_WORDS).ok_or(io::ErrorKind::InvalidInput)?[INDEX];
        let (body, file) = self.server.describe(Command::RegionInfo, &info[..REGION_WORDS])?;
        // More than the fixed part comes only if it fits.
        let room = info.len().min(REGION_WORDS.max(body.len() / 4));
        self.copy("DEVICE_GET_REGION_INFO", &body, &mut info[..room])?;
        let long = |at: usize| u64::from(info[at]) | u64::from(info[at + 1]) << 32;
        let (size, offset) = (long(SIZE), long(OFFSET));
        if info[INDEX] != index {
            return Err(self.server.misled("DEVICE_GET_REGION_INFO"));
        }
        if size > WITHIN {
            let what = format!("its region {index} has {size:#x} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mappable = info[FLAGS] & VFIO_REGION_INFO_FLAG_MMAP != 0;
        if let Some(file) = file.filter(|_| mappable) {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.insert(index.into(), (file.into(), offset));
        }
        (info[OFFSET], info[OFFSET + 1]) = (0, index << (REGION_SHIFT - 32));
        Ok(())
    }

    /// VFIO takes a block of vectors at once; a server as many descriptors as go with a
    /// message, and none to take vectors off.
    fn set_irqs(&self, set: &[u32]) -> io::Result<()> {
        let limit = self.server.limit();
        let (set, data) = set.split_first_chunk().ok_or(io::ErrorKind::InvalidInput)?;
        let &[_argsz, flags, index, start, count] = set;
        let off = [VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, 0];
        if flags & VFIO_IRQ_SET_DATA_EVENTFD == 0 {
            let asked = [flags, index, start, count];
            if asked == off {
                self.enables.set(&self.server, index, None)?;
            }
            return self.server.set_irqs(asked, &[], limit);
        }
        let blocks = blocks(start, data, self.server.most_descriptors);
        let several = blocks.len() > 1;
        let wire = |(start, block): (u32, &[u32])| {
            let fds: Vec<RawFd> =
                block.iter().map(|fd| fd.cast_signed()).filter(|fd| *fd >= 0).collect();
            let count = u32::try_from(block.len()).map_err(io::Error::other)?;
            self.server.set_irqs([flags, index, start, count], &fds, limit)
        };
        if let Err(error) = blocks.into_iter().try_for_each(wire) {
            if several {
                // As the kernel does: a block that fails is undone whole.
                self.server.set_irqs(off, &[], limit)?;
            }
            return Err(error);
        }
        if flags & VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
            return Ok(());
        }
        self.enables.set(&self.server, index, Some(count))
    }

    /// Copies an answer over what was asked, all of which it must answer.
    fn copy(&self, command: &str, body: &[u8], info: &mut [u32]) -> io::Result<()> {
        if body.len() < size_of_val(info) {
            return Err(self.server.misled(command));
        }
        info.iter_mut().zip(words(body)).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

impl DeviceFile for Remote {
    fn call(&self, number: u32, argument: &mut [u32]) -> io::Result<i32> {
        match number {
            GET_INFO => self.device_info(argument),
            GET_REGION_INFO => self.region_info(argument),
            GET_IRQ_INFO => self.irq_info(argument),
            SET_IRQS => self.set_irqs(argument),
            RESET => self.server.reset(),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        }
        .map(|()| 0)
    }

    fn read_at(&self, position: u64, data: &mut [u8]) -> io::Result<()> {
        let (region, offset) = place(position)?;
        self.server.read(region, offset, data)
    }

    fn write_at(&self, position: u64, data: &[u8]) -> io::Result<()> {
        let (region, offset) = place(position)?;
        self.server.write(region, offset, data)
    }

    /// A file that is too short would fail accesses later, and is not mapped.
    fn map(&self, position: u64, size: u64, protection: i32) -> io::Result<Mmap> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, base) = files.get(&(position >> REGION_SHIFT)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "its server has sent no file to map")
        })?;
        Mmap::of_memory(file, base.saturating_add(position & WITHIN), size, protection)
    }
}

/// Region and offset in it.
fn place(position: u64) -> io::Result<(u32, u64)> {
    let region = u32::try_from(position >> REGION_SHIFT).map_err(io::Error::other)?;
    Ok((region, position & WITHIN))
}

/// What goes in a message each: vectors that get no eventfd, or as many that get one as
/// there may be descriptors.
fn blocks(start: u32, fds: &[u32], most: usize) -> Vec<(u32, &[u32])> {
    let runs = fds.chunk_by(|one, next| (*one == NONE) == (*next == NONE));
    let pieces = runs.flat_map(|run| {
        let most = if run.first() == Some(&NONE) { run.len() } else { most };
        run.chunks(most.max(1))
    });
    let place = |at: &mut u32, piece: &'_ [u32]| {
        let here = *at;
        *at = here.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        here
    };
    let mut at = start;
    pieces.map(|piece| (place(&mut at, piece), piece)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_of_one_kind_and_no_longer_than_a_message_carries() {
        let fds = [7, 8, 9, NONE, NONE, NONE, 4];

        let expected: [(u32, &[u32]); 4] =
            [(10, &[7, 8]), (12, &[9]), (13, &[NONE; 3]), (16, &[4])];
        assert_eq!(blocks(10, &fds, 2), expected);
        assert_eq!(blocks(0, &[], 2), []);
    }

    #[test]
    fn positions_say_which_region() {
        assert_eq!(place(7 << 40 | 0x44).unwrap(), (7, 0x44));
        assert!(place(u64::MAX).is_ok(), "no such region, which its server says");
    }
}
