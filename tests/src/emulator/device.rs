//! What the emulator's function does: its registers, its interrupts, its copies.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::wire::{Answer, Channel, DMA_READ, DMA_WRITE, MOST_DESCRIPTORS, Message, bytes, words};

/// What [`register::IDENTITY`] reads as.
pub const IDENTITY: u32 = 0x6862_7573;

/// Offsets in BAR 0; each register has 32 bits.
pub mod register {
    /// Always reads [`super::IDENTITY`].
    pub const IDENTITY: u64 = 0x00;
    /// Written: the vector of this number fires.
    pub const FIRE: u64 = 0x04;
    /// Where a copy comes from, in guest memory.
    pub const FROM: u64 = 0x08;
    /// Where it goes.
    pub const TO: u64 = 0x0c;
    /// Written: so many bytes are copied, through the memory that is mapped.
    pub const COPY: u64 = 0x10;
    /// Written: the same by messages.
    pub const COPY_BY_MESSAGES: u64 = 0x14;
    /// Copies that have been done.
    pub const DONE: u64 = 0x18;
    /// What the last copy failed with, or the cut; an errno.
    pub const FAILURE: u64 = 0x1c;
    /// Reads what was written.
    pub const SCRATCH: u64 = 0x20;
    /// Written: 1, it never answers again, from this write on; 2, it dies; 3, its answers make no sense; 4, it tries to
    /// cut off the file of its memory.
    pub const MOOD: u64 = 0x24;
    /// Written: vectors that are wired fire, the first so many of them, again and again for as long as the emulator lives.
    pub const STORM: u64 = 0x28;
}

/// Regions, by VFIO's numbers.
const REGISTERS: u32 = 0;
const MEMORY: u32 = 1;
const TABLE: u32 = 2;
const PENDING: u32 = 4;
const CONFIG: u32 = 7;
/// Bytes of them.
const REGISTERS_SIZE: usize = 0x1000;
const MEMORY_SIZE: u64 = 0x1_0000;
const TABLE_SIZE: u64 = 0x1_0000;
const CONFIG_SIZE: usize = 0x100;
/// Where the pending bits are behind the table.
const PENDING_BEHIND: usize = 0x8000;
/// The part of the memory that may be mapped.
const MAPPABLE: Range<u64> = 0x1000..MEMORY_SIZE;

/// A guest that is interrupted without end would not get to anything else.
const BETWEEN_STORMS: Duration = Duration::from_millis(2);

/// Its one capability.
const MSIX: usize = 0x40;
const MSIX_CONTROL: Range<usize> = MSIX + 2..MSIX + 4;
const COMMAND: Range<usize> = 4..6;
/// `VFIO_PCI_MSIX_IRQ_INDEX`.
const MSIX_INDEX: u32 = 2;
/// `VFIO_IRQ_SET_DATA_EVENTFD`.
const EVENTFDS: u32 = 4;

/// What a function has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Vectors, 1 to 2,048.
    pub vectors: u16,
    /// The pending bits are in a BAR of their own.
    pub split: bool,
    /// It answers nothing at all.
    pub mute: bool,
}

/// How a message is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Sane,
    Silent,
    Dying,
    Garbled,
}

/// Guest memory that we may reach.
#[derive(Debug)]
struct Mapped {
    guest: Range<u64>,
    file: File,
    offset: u64,
}

/// The function.
#[derive(Debug)]
pub(super) struct Device {
    shape: Shape,
    mood: Mood,
    config: Vec<u8>,
    registers: Vec<u8>,
    memory: File,
    /// Each vector's eventfd, if it is wired, and whether it has something to say.
    vectors: Vec<(Option<File>, bool)>,
    mapped: Vec<Mapped>,
}

impl Device {
    pub(super) fn new(shape: Shape) -> io::Result<Self> {
        let memory = File::from(memfd_create(
            c"emulator",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?);
        memory.set_len(MEMORY_SIZE)?;
        let mood = if shape.mute { Mood::Silent } else { Mood::Sane };
        let vectors = (0..shape.vectors).map(|_| (None, false)).collect();
        let (config, registers) = (config(shape), vec![0; REGISTERS_SIZE]);
        Ok(Self { shape, mood, config, registers, memory, vectors, mapped: Vec::new() })
    }

    pub(super) fn mood(&self) -> Mood {
        self.mood
    }

    pub(super) fn answer(&mut self, message: Message, channel: &mut Channel) -> Answer {
        let (command, asked) = (message.header.command, words(&message.body).collect::<Vec<_>>());
        match (command, &asked[..]) {
            (1, _) => Ok((version(), Vec::new())),
            (2, _) => self.map(message).map_err(|_| libc::EINVAL).map(|()| nothing()),
            (3, [_, _, low, high, ..]) => {
                let start = long(*low, *high);
                self.mapped.retain(|mapped| mapped.guest.start != start);
                Ok((message.body, Vec::new()))
            }
            // PCI, and it can be reset.
            (4, _) => Ok((bytes(&[16, 3, 9, 5]), Vec::new())),
            (5, [argsz, _, index, ..]) => Ok(self.region(*index, *argsz)),
            (7, [_, _, index, ..]) => Ok((self.irq(*index), Vec::new())),
            (8, [_, flags, index, start, count, ..]) => {
                self.wire([*flags, *index, *start, *count], message).map(|()| nothing())
            }
            (9, [low, high, region, count, ..]) => {
                let data = self.read(*region, long(*low, *high), *count).ok_or(libc::EINVAL)?;
                Ok(([&message.body[..16], &data].concat(), Vec::new()))
            }
            (10, [low, high, region, _, ..]) => {
                let (access, data) = message.body.split_at(16);
                let at = long(*low, *high);
                self.write(*region, at, data, channel).map_err(|_| libc::EINVAL)?;
                Ok((access.to_vec(), Vec::new()))
            }
            (13, _) => {
                self.registers.fill(0);
                self.vectors.iter_mut().for_each(|(_, pending)| *pending = false);
                Ok(nothing())
            }
            _ => Err(libc::EINVAL),
        }
    }

    fn map(&mut self, message: Message) -> io::Result<()> {
        let word: Vec<u64> =
            message.body.as_chunks().0.iter().map(|long| u64::from_ne_bytes(*long)).collect();
        let (Some(file), [_, offset, start, size]) =
            (message.descriptors.into_iter().next(), &word[..])
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let guest = *start..start + size;
        self.mapped.push(Mapped { guest, file: file.into(), offset: *offset });
        Ok(())
    }

    fn region(&self, index: u32, argsz: u32) -> (Vec<u8>, Vec<i32>) {
        let (read_write, map, capabilities) = (3, 4, 8);
        let size = match index {
            REGISTERS => REGISTERS_SIZE as u64,
            MEMORY => MEMORY_SIZE,
            TABLE => TABLE_SIZE,
            PENDING if self.shape.split => 0x1000,
            CONFIG => CONFIG_SIZE as u64,
            _ => 0,
        };
        let low = |value: u64| (value & 0xffff_ffff).try_into().unwrap_or(0);
        if index != MEMORY {
            return (bytes(&[32, read_write, index, 0, low(size), 0, 0, 0]), Vec::new());
        }
        let flags = read_write | map | capabilities;
        let fixed = [64, flags, index, 32, low(size), 0, 0, 0];
        if argsz < 64 {
            return (bytes(&fixed), Vec::new());
        }
        // A list of areas (VFIO_REGION_INFO_CAP_SPARSE_MMAP, version 1) of one.
        let Range { start, end } = MAPPABLE;
        let areas = [1 | 1 << 16, 0, 1, 0, low(start), 0, low(end - start), 0];
        (bytes(&[fixed, areas].concat()), vec![self.memory.as_raw_fd()])
    }

    fn irq(&self, index: u32) -> Vec<u8> {
        let count = if index == MSIX_INDEX { self.shape.vectors.into() } else { 0 };
        bytes(&[16, 1, index, count])
    }

    fn wire(&mut self, set: [u32; 4], message: Message) -> Result<(), i32> {
        let [flags, index, start, count] = set.map(|word| usize::try_from(word).unwrap_or(0));
        if index != MSIX_INDEX as usize {
            return Err(libc::EINVAL);
        }
        if count == 0 {
            self.vectors.iter_mut().for_each(|(event, _)| *event = None);
            return Ok(());
        }
        let range = self.vectors.get_mut(start..start + count).ok_or(libc::EINVAL)?;
        if flags & EVENTFDS as usize == 0 {
            range.iter_mut().for_each(fire);
            return Ok(());
        }
        let mut events = message.descriptors.into_iter().map(File::from);
        for vector in range {
            vector.0 = events.next();
            if std::mem::take(&mut vector.1) {
                fire(vector);
            }
        }
        Ok(())
    }

    fn read(&self, region: u32, at: u64, count: u32) -> Option<Vec<u8>> {
        let (start, count) = (usize::try_from(at).ok()?, usize::try_from(count).ok()?);
        let end = start.checked_add(count)?;
        match region {
            CONFIG => self.config.get(start..end).map(<[u8]>::to_vec),
            REGISTERS => self.registers_now().get(start..end).map(<[u8]>::to_vec),
            MEMORY => {
                let mut data = vec![0; count];
                self.memory.read_exact_at(&mut data, at).ok().map(|()| data)
            }
            PENDING => self.pending().get(start..end).map(<[u8]>::to_vec),
            TABLE if start >= PENDING_BEHIND => {
                self.pending().get(start - PENDING_BEHIND..end - PENDING_BEHIND).map(<[u8]>::to_vec)
            }
            TABLE => Some(vec![0; count]),
            _ => None,
        }
    }

    fn registers_now(&self) -> Vec<u8> {
        let mut now = self.registers.clone();
        now[..4].copy_from_slice(&IDENTITY.to_le_bytes());
        now
    }

    /// What the function itself has to say: of vectors that nobody has wired.
    fn pending(&self) -> Vec<u8> {
        let mut bits = vec![0; 0x1000];
        for (number, (_, pending)) in self.vectors.iter().enumerate() {
            bits[number / 8] |= u8::from(*pending) << (number % 8);
        }
        bits
    }

    fn write(
        &mut self,
        region: u32,
        at: u64,
        data: &[u8],
        channel: &mut Channel,
    ) -> io::Result<()> {
        let start = usize::try_from(at).map_err(io::Error::other)?;
        let end = start.saturating_add(data.len());
        match region {
            CONFIG => {
                let known =
                    [COMMAND, MSIX_CONTROL].into_iter().find(|r| r.start <= start && end <= r.end);
                if known.is_some() {
                    self.config[start..end].copy_from_slice(data);
                }
                Ok(())
            }
            MEMORY => self.memory.write_all_at(data, at),
            REGISTERS if end <= REGISTERS_SIZE => {
                self.registers[start..end].copy_from_slice(data);
                let value = words(data).next().unwrap_or(0);
                self.act(at, value, channel)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn act(&mut self, at: u64, value: u32, channel: &mut Channel) -> io::Result<()> {
        match at {
            register::FIRE => {
                let vector = usize::try_from(value).ok().and_then(|at| self.vectors.get_mut(at));
                vector.into_iter().for_each(fire);
            }
            register::COPY | register::COPY_BY_MESSAGES => {
                let by_messages = at == register::COPY_BY_MESSAGES;
                let [from, to] =
                    [register::FROM, register::TO].map(|at| u64::from(self.register(at)));
                let copied = match by_messages {
                    true => ask_for_copy(channel, from, to, value)?,
                    false => self.copy(from, to, value),
                };
                let failure = copied.err().unwrap_or(0).unsigned_abs();
                self.set(register::FAILURE, failure);
                self.set(register::DONE, self.register(register::DONE) + u32::from(failure == 0));
            }
            register::MOOD => {
                self.mood = match value {
                    1 => Mood::Silent,
                    2 => Mood::Dying,
                    3 => Mood::Garbled,
                    _ => Mood::Sane,
                };
                if value == 4 {
                    // Whoever has mapped it may have seen to it that this fails.
                    let failure =
                        self.memory.set_len(0).err().and_then(|error| error.raw_os_error());
                    self.set(register::FAILURE, failure.unwrap_or(0).unsigned_abs());
                }
            }
            register::STORM => self.storm(value)?,
            _ => {}
        }
        Ok(())
    }

    fn storm(&self, count: u32) -> io::Result<()> {
        let first = self.vectors.iter().take(usize::try_from(count).unwrap_or(0));
        let wired = first.filter_map(|(event, _)| event.as_ref());
        let mut events = wired.map(File::try_clone).collect::<io::Result<Vec<_>>>()?;
        let storm = move || loop {
            // It fails only when the count is full: nobody is owed more.
            events.iter_mut().for_each(|event| drop(event.write(&1_u64.to_ne_bytes())));
            thread::sleep(BETWEEN_STORMS);
        };
        thread::Builder::new().name("storm".to_owned()).spawn(storm).map(drop)
    }

    /// Through the files that the guest's memory is in.
    fn copy(&self, from: u64, to: u64, count: u32) -> Result<(), i32> {
        let mut data = vec![0; usize::try_from(count).unwrap_or(0)];
        let place = |at: u64| {
            let end = at + u64::from(count);
            let held = self.mapped.iter().find(|m| m.guest.start <= at && end <= m.guest.end);
            held.map(|m| (&m.file, m.offset + at - m.guest.start)).ok_or(libc::EFAULT)
        };
        let ((source, read_at), (target, write_at)) = (place(from)?, place(to)?);
        source.read_exact_at(&mut data, read_at).map_err(|_| libc::EIO)?;
        target.write_all_at(&data, write_at).map_err(|_| libc::EIO)
    }

    fn register(&self, at: u64) -> u32 {
        let at = usize::try_from(at).unwrap_or(0);
        self.registers[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
    }

    fn set(&mut self, at: u64, value: u32) {
        let at = usize::try_from(at).unwrap_or(0);
        self.registers[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn ask_for_copy(
    channel: &mut Channel,
    from: u64,
    to: u64,
    count: u32,
) -> io::Result<Result<(), i32>> {
    let access = |at: u64| [at, count.into()].map(u64::to_ne_bytes).concat();
    let read = match channel.ask(DMA_READ, &access(from))? {
        Ok(read) => read,
        Err(errno) => return Ok(Err(errno)),
    };
    let data = read.get(16..).unwrap_or_default();
    Ok(channel.ask(DMA_WRITE, &[&access(to), data].concat())?.map(drop))
}

/// A wired vector interrupts; any other remembers.
fn fire((event, pending): &mut (Option<File>, bool)) {
    let Some(event) = event else { return *pending = true };
    // It fails only when the count is full: nobody is owed more.
    let _ = event.write_all(&1_u64.to_ne_bytes());
}

fn nothing() -> (Vec<u8>, Vec<i32>) {
    (Vec::new(), Vec::new())
}

fn long(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn version() -> Vec<u8> {
    let text = format!("{{\"capabilities\":{{\"max_msg_fds\":{MOST_DESCRIPTORS}}}}}\0");
    [&[0, 0, 1, 0], text.as_bytes()].concat()
}

/// Configuration space at power-on (PCI 3.0, 6.1): a function of no class that any driver takes.
fn config(shape: Shape) -> Vec<u8> {
    let mut space = vec![0; CONFIG_SIZE];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &[0x34, 0x12, 0x0b, 0x0b]);
    // The status register: there are capabilities.
    put(0x06, &[0x10, 0x00]);
    put(0x08, &[1, 0, 0, 0xff]);
    put(0x34, &[MSIX.to_le_bytes()[0]]);
    let [low, high] = (shape.vectors - 1).to_le_bytes();
    let pending = if shape.split { PENDING } else { TABLE | 0x8000 };
    put(MSIX, &[0x11, 0, low, high]);
    put(MSIX + 4, &TABLE.to_le_bytes());
    put(MSIX + 8, &pending.to_le_bytes());
    space
}
