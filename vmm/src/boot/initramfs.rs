//! Puts an initramfs at the top of the low RAM.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::memory_map::low_end;
use super::{Error, open};
use crate::memory::ram::{Memory, PAGE};

/// Where an initramfs is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    /// Guest-physical address; page-aligned, below 4 GiB.
    pub(super) start: u32,
    /// Bytes.
    pub(super) size: u32,
}

/// Reads the file at `path` to as high as its last byte may be at `last`, and
/// not below `floor`, where the kernel ends.
pub(super) fn load(memory: &Memory, path: &Path, floor: u64, last: u64) -> Result<Placed, Error> {
    let failed = |source| Error::Read { what: "initramfs", path: path.to_owned(), source };
    let mut file = open("initramfs", path)?;
    let size = file.metadata().map_err(failed)?.len();
    let there = low_end(memory);
    let top = there.min(last.saturating_add(1));
    let start = top.checked_sub(size).map(|start| start / PAGE * PAGE);
    let Some(start) = start.filter(|start| *start >= floor) else {
        let needed = (floor + size).next_multiple_of(PAGE);
        return Err(Error::NoRoom { path: path.to_owned(), needed, there });
    };
    let length = usize::try_from(size).expect("smaller than RAM, which is mapped");
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, length)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let narrow = |value| u32::try_from(value).expect("low RAM ends below 4 GiB");
    Ok(Placed { start: narrow(start), size: narrow(size) })
}
