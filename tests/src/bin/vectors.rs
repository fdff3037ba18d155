//! Runs in a guest: brings up every MSI-X vector of the emulator's function (`tests::emulator`) and fires each, by hand.
//!
//! `vectors BDF COUNT PENDING` expects the function at BDF to answer, with MSI-X on and all vectors masked. PENDING is where its
//! pending bits are: BAR and offset, `4:0`. It fires every vector while it is masked, and looks whether that is what is pending;
//! then it unmasks each, which has to interrupt once, and fires it, which has to do so again. At the end it prints
//! `vectors COUNT delivered N`.
//! All have the same message, of an interrupt that only counts, so the next event has to wait until the last is counted.

#![expect(unsafe_code, reason = "registers of a device are memory that is mapped")]

use std::env;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use tests::emulator::register;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Row of `/proc/interrupts` that counts the message, and the message: interrupt 0xf2 of processor 0.
const ROW: &str = "PIN:";
const MESSAGE: [u32; 3] = [0xfee0_0000, 0, 0xf2];
/// Dwords of an entry of the table, and which of them masks it.
const ENTRY: usize = 4;
const CONTROL: usize = 3;
/// From an event to its count, under emulation.
const LIMIT: Duration = Duration::from_secs(30);

/// A BAR.
struct Bar {
    base: NonNull<u32>,
    words: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [bdf, count, pending] = &arguments[..] else { return ExitCode::FAILURE };
    match play(bdf, count, pending) {
        Ok(delivered) => {
            println!("vectors {count} delivered {delivered}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(bdf: &str, count: &str, pending: &str) -> Outcome<u64> {
    let device = Path::new("/sys/bus/pci/devices").join(bdf);
    let count: usize = count.parse()?;
    let (bar, offset) = pending.split_once(':').ok_or("where are the pending bits?")?;
    let (registers, table) = (Bar::map(&device, "0")?, Bar::map(&device, "2")?);
    let (bits, first) =
        (Bar::map(&device, bar)?, usize::from_str_radix(offset.trim_start_matches("0x"), 16)? / 4);
    let fire = usize::try_from(register::FIRE)? / 4;
    let before = counted()?;
    for vector in 0..count {
        for (word, value) in MESSAGE.into_iter().enumerate() {
            table.write(vector * ENTRY + word, value);
        }
        registers.write(fire, u32::try_from(vector)?);
    }
    let is_pending = |vector: usize| bits.read(first + vector / 32) >> (vector % 32) & 1 == 1;
    let quiet = (0..count).find(|vector| !is_pending(*vector));
    quiet.map_or(Ok(()), |vector| Err(format!("vector {vector} is not pending")))?;
    reaches(before)?;
    let mut delivered = 0;
    for vector in 0..count {
        table.write(vector * ENTRY + CONTROL, 0);
        reaches(before + delivered + 1)?;
        registers.write(fire, u32::try_from(vector)?);
        reaches(before + delivered + 2)?;
        delivered += 2;
    }
    let noisy = (0..count).find(|vector| is_pending(*vector));
    noisy.map_or(Ok(()), |vector| Err(format!("vector {vector} is pending still")))?;
    Ok(counted()? - before)
}

/// Waits until so many messages have been counted; more are an error.
fn reaches(expected: u64) -> Outcome<()> {
    let begun = Instant::now();
    loop {
        match counted()? {
            now if now == expected => return Ok(()),
            now if now > expected || begun.elapsed() > LIMIT => {
                return Err(format!("{now} messages counted, {expected} expected").into());
            }
            _ => {}
        }
    }
}

/// Messages that all processors have counted.
fn counted() -> Outcome<u64> {
    let rows = fs::read_to_string("/proc/interrupts")?;
    let row = rows.lines().find_map(|row| row.trim_start().strip_prefix(ROW));
    let counts = row.ok_or("no row of it")?.split_whitespace();
    Ok(counts.map_while(|count| count.parse::<u64>().ok()).sum())
}

impl Bar {
    fn map(device: &Path, number: &str) -> Outcome<Self> {
        let file: File = OpenOptions::new()
            .read(true)
            .write(true)
            .open(device.join(format!("resource{number}")))?;
        let size = usize::try_from(file.metadata()?.len())?;
        let length = NonZeroUsize::new(size).ok_or("an empty BAR")?;
        let (protection, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let base: NonNull<c_void> = unsafe { mmap(None, length, protection, flags, &file, 0)? };
        Ok(Self { base: base.cast(), words: size / 4 })
    }

    fn read(&self, word: usize) -> u32 {
        assert!(word < self.words, "inside of the BAR");
        // SAFETY: the mapping has so many words, and stays.
        let at = unsafe { self.base.add(word) };
        // SAFETY: as above; a register may hold anything.
        unsafe { at.read_volatile() }
    }

    fn write(&self, word: usize, value: u32) {
        assert!(word < self.words, "inside of the BAR");
        // SAFETY: the mapping has so many words, and stays.
        let at = unsafe { self.base.add(word) };
        // SAFETY: as above.
        unsafe { at.write_volatile(value) };
    }
}
