//! The PVH boot protocol: an ELF kernel, entered in 32-bit mode.
//!
//! Source: `xen/include/public/arch-x86/hvm/start_info.h`.

use std::fs::File;

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
    let size = file.metadata().map(|data| data.len());
    let size = size.map_err(|error| not_a_kernel(path, &error))?;
    let loaded = Elf::load(memory, None, file, None).map_err(|error| {
        if size > there {
            Error::NoRoom { path: path.clone(), needed: size, there }
        } else {
            not_a_kernel(path, &error)
        }
    })?;
    let PvhBootCapability::PvhEntryPresent(start) = loaded.pvh_boot_cap else {
        return Err(not_a_kernel(path, &"this ELF file has no PVH entry (CONFIG_PVH)"));
    };
    if loaded.kernel_end > there {
        return Err(Error::NoRoom { path: path.clone(), needed: loaded.kernel_end, there });
    }
    let initramfs = match &payload.initramfs {
        Some(path) => Some(initramfs::load(memory, path, loaded.kernel_end, u64::from(u32::MAX))?),
        None => None,
    };
    write_command_line(memory, &payload.cmdline, COMMAND_LINE_MAX - 1)?;
    write_start_info(memory, initramfs, rsdp)?;
    Ok(Entry::Pvh { start: start.0, start_info: START_INFO })
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
