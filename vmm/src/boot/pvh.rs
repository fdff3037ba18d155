//! The PVH boot protocol: an ELF kernel, entered in 32-bit mode.
//!
//! Source: `xen/include/public/arch-x86/hvm/start_info.h`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use super::initramfs::{self, Placed};
use super::memory_map::{self, low_end};
use super::{COMMAND_LINE, COMMAND_LINE_MAX, Error, Payload, not_a_kernel, write_command_line};
use crate::arch::x86_64::registers::Entry;
use crate::memory::ram::Memory;

/// Where `struct hvm_start_info`, its only module, and its memory map are.
const START_INFO: u64 = 0x6000;
const MODULE: u64 = 0x6040;
const MEMORY_MAP: u64 = 0x6080;

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

/// Loads the ELF kernel in `file`, and everything that goes with it.
pub(super) fn load(
    memory: &Memory,
    payload: &Payload,
    file: &mut File,
    rsdp: Option<u64>,
) -> Result<Entry, Error> {
    let path = &payload.kernel;
    let there = low_end(memory);
    let needed = end_of_segments(file).map_err(|error| not_a_kernel(path, &error))?;
    if needed > there {
        return Err(Error::NoRoom { path: path.clone(), needed, there });
    }
    let loaded = Elf::load(memory, None, file, None).map_err(|error| not_a_kernel(path, &error))?;
    let PvhBootCapability::PvhEntryPresent(start) = loaded.pvh_boot_cap else {
        return Err(not_a_kernel(path, &"this ELF file has no PVH entry (CONFIG_PVH)"));
    };
    if start.0 >= needed {
        let reason = format!("its PVH entry {:#x} lies outside of its segments", start.0);
        return Err(not_a_kernel(path, &reason));
    }
    let initramfs = match &payload.initramfs {
        Some(path) => Some(initramfs::load(memory, path, needed, u64::from(u32::MAX))?),
        None => None,
    };
    write_command_line(memory, &payload.cmdline, COMMAND_LINE_MAX - 1)?;
    write_start_info(memory, initramfs, rsdp)?;
    Ok(Entry::Pvh { start: start.0, start_info: START_INFO })
}

/// End of the memory that the kernel's segments take (ELF-64 object file format,
/// "Program header"). The loader would only say that it cannot read the file.
fn end_of_segments(file: &mut File) -> io::Result<u64> {
    const TABLE_OFFSET: usize = 32;
    const ENTRIES: usize = 56;
    const PHYSICAL_ADDRESS: usize = 24;
    const MEMORY_SIZE: usize = 40;
    const LOAD: u32 = 1;
    let mut header = [0; 64];
    file.rewind()?;
    file.read_exact(&mut header)?;
    file.seek(SeekFrom::Start(long(&header, TABLE_OFFSET)))?;
    let mut end = 0;
    for _ in 0..u16::from_le_bytes([header[ENTRIES], header[ENTRIES + 1]]) {
        let mut entry = [0; 56];
        file.read_exact(&mut entry)?;
        if entry[..4] == LOAD.to_le_bytes() {
            let start = long(&entry, PHYSICAL_ADDRESS);
            end = end.max(start.saturating_add(long(&entry, MEMORY_SIZE)));
        }
    }
    Ok(end)
}

/// The little-endian number of eight bytes at `offset`, which is inside.
fn long(bytes: &[u8], offset: usize) -> u64 {
    bytes[offset..offset + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Writes the start info, the module entry and the memory map.
fn write_start_info(
    memory: &Memory,
    initramfs: Option<Placed>,
    rsdp: Option<u64>,
) -> Result<(), Error> {
    let map = memory_map::map(memory);
    let pieces = u32::try_from(map.len()).expect("a handful of pieces");
    let info = Bytes64::default()
        .u32s([MAGIC, VERSION, 0, u32::from(initramfs.is_some())])
        .u64s([MODULE, COMMAND_LINE, rsdp.unwrap_or(0), MEMORY_MAP])
        .u32s([pieces, 0]);
    memory.write_slice(&info.0, GuestAddress(START_INFO))?;
    if let Some(placed) = initramfs {
        let module = Bytes64::default().u64s([placed.start.into(), placed.size.into(), 0, 0]);
        memory.write_slice(&module.0, GuestAddress(MODULE))?;
    }
    let entries = map.iter().fold(Bytes64::default(), |bytes, piece| {
        bytes.u64s([piece.start, piece.size]).u32s([piece.kind as u32, 0])
    });
    Ok(memory.write_slice(&entries.0, GuestAddress(MEMORY_MAP))?)
}

/// Little-endian fields, one after the other.
#[derive(Default)]
struct Bytes64(Vec<u8>);

impl Bytes64 {
    fn u32s<const N: usize>(mut self, values: [u32; N]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn u64s<const N: usize>(mut self, values: [u64; N]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }
}
