//! Runs in a guest: writes to a disk for ever, flushes, and says what has been flushed.
//!
//! `scribe DISK SEED BLOCKS FIRST` makes the writes of that plan (`tests::sectors`), past the page cache, and
//! prints `flushed N` after each flush: all writes up to number N. Now and then it reads a block again that it has just
//! flushed; one that is not what was written ends it with `wrong N`.

use std::env;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;

use nix::libc::O_DIRECT;
use tests::sectors::{BLOCK, Plan, Write};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [disk, numbers @ ..] = &arguments[..] else { return ExitCode::FAILURE };
    let numbers: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
    let Ok(&[seed, blocks, first]) = numbers.as_deref() else { return ExitCode::FAILURE };
    let written = write(disk, Plan::new(seed, blocks, first));
    if let Err(error) = written {
        println!("failed: {error}");
    }
    ExitCode::FAILURE
}

fn write(disk: &str, mut plan: Plan) -> io::Result<()> {
    let disk = OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT).open(disk)?;
    // Transfers past the page cache want memory at a multiple of the block size.
    let mut space = vec![0; 3 * BLOCK];
    let start = space.as_ptr().align_offset(BLOCK);
    let (block, again) = space[start..start + 2 * BLOCK].split_at_mut(BLOCK);
    loop {
        let batch = plan.batch();
        for write in &batch {
            write.fill(block);
            disk.write_all_at(block, write.block * BLOCK as u64)?;
        }
        disk.sync_data()?;
        let Some(last) = batch.last() else { continue };
        println!("flushed {}", last.number);
        if !reads(&disk, *last, block, again)? {
            println!("wrong {}", last.number);
            return Ok(());
        }
    }
}

/// Whether the block of `write`, which `block` is, is there.
fn reads(disk: &File, write: Write, block: &[u8], again: &mut [u8]) -> io::Result<bool> {
    disk.read_exact_at(again, write.block * BLOCK as u64)?;
    Ok(again == block)
}
