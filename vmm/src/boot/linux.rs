//! The Linux boot protocol: bzImage, entered in 64-bit mode.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`.

use std::fs::File;
use std::path::Path;

use linux_loader::loader::bootparam::{
    CAN_USE_HEAP, LOADED_HIGH, boot_e820_entry, boot_params, setup_header,
};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use super::initramfs::{self, Placed};
use super::memory_map::{self, low_end};
use super::{
    COMMAND_LINE, COMMAND_LINE_MAX, Error, HIGH_MEMORY, Payload, not_a_kernel, write_command_line,
};
use crate::arch::x86_64::registers::Entry;
use crate::memory::ram::Memory;

/// Where `struct boot_params` is.
const ZERO_PAGE: u64 = 0x7000;
/// Offset of the 64-bit entry in the protected-mode kernel.
const ENTRY64: u64 = 0x200;
/// Protocol 2.12, the first to say whether there is a 64-bit entry.
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// That it has one (`XLF_KERNEL_64`).
const HAS_ENTRY64: u16 = 1;
/// A boot loader without a number of its own.
const LOADER_OTHER: u8 = 0xff;

/// Loads the bzImage in `file`, and everything that goes with it.
pub(super) fn load(
    memory: &Memory,
    payload: &Payload,
    file: &mut File,
    rsdp: Option<u64>,
) -> Result<Entry, Error> {
    let header = load_kernel(memory, &payload.kernel, file)?;
    let end = end_of_kernel(&header);
    let there = low_end(memory);
    if end > there {
        return Err(Error::NoRoom { path: payload.kernel.clone(), needed: end, there });
    }
    let last = u64::from(header.initrd_addr_max);
    let initramfs = match &payload.initramfs {
        Some(path) => initramfs::load(memory, path, end, last)?,
        None => Placed::default(),
    };
    let most = usize::try_from(header.cmdline_size).unwrap_or(0).max(COMMAND_LINE_MAX - 1);
    write_command_line(memory, &payload.cmdline, most.min(0xffff))?;
    let params = zero_page(header, initramfs, memory, rsdp);
    memory.write_obj(params, GuestAddress(ZERO_PAGE))?;
    Ok(Entry::Long { start: HIGH_MEMORY + ENTRY64, zero_page: ZERO_PAGE })
}

fn load_kernel(memory: &Memory, path: &Path, file: &mut File) -> Result<setup_header, Error> {
    let size = file.metadata().map(|data| data.len());
    let size = size.map_err(|error| not_a_kernel(path, &error))?;
    let there = low_end(memory);
    let load_at = Some(GuestAddress(HIGH_MEMORY));
    let loaded = match BzImage::load(memory, load_at, file, load_at) {
        Ok(loaded) => loaded,
        Err(_) if HIGH_MEMORY + size > there => {
            let needed = HIGH_MEMORY + size;
            return Err(Error::NoRoom { path: path.to_owned(), needed, there });
        }
        Err(error) => return Err(not_a_kernel(path, &error)),
    };
    let header = loaded.setup_header.ok_or_else(|| not_a_kernel(path, &"no setup header"))?;
    if header.version < VERSION_XLOADFLAGS || header.xloadflags & HAS_ENTRY64 == 0 {
        return Err(not_a_kernel(path, &"it has no 64-bit entry"));
    }
    Ok(header)
}

/// End of the memory the kernel uses before it reads the memory map: it moves
/// itself to its preferred address and unpacks itself there.
fn end_of_kernel(header: &setup_header) -> u64 {
    HIGH_MEMORY.max(header.pref_address).saturating_add(u64::from(header.init_size))
}

/// Fills the page that tells the kernel everything.
fn zero_page(
    header: setup_header,
    initramfs: Placed,
    memory: &Memory,
    rsdp: Option<u64>,
) -> boot_params {
    let mut params = boot_params { hdr: header, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_OTHER;
    params.hdr.loadflags |= LOADED_HIGH | CAN_USE_HEAP;
    params.hdr.cmd_line_ptr = u32::try_from(COMMAND_LINE).expect("in low memory");
    params.hdr.ramdisk_image = initramfs.start;
    params.hdr.ramdisk_size = initramfs.size;
    params.acpi_rsdp_addr = rsdp.unwrap_or(0);
    let map = memory_map::map(memory);
    for (entry, piece) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: piece.start, size: piece.size, r#type: piece.kind as u32 };
    }
    params.e820_entries = u8::try_from(map.len()).expect("a handful of pieces");
    params
}
