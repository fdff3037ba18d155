//! What a guest has flushed to a disk of ours is there, whenever the VMM is killed. The host lives on, so this is about what
//! hotbay still had in its hands; that a flush is one of the host's is tried by value (`devices/src/virtio/block/tests.rs`).
//! docs/testing.md has the long version.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use tests::artifacts::pack_program;
use tests::error::{Doing, ensure};
use tests::rounds::{chance, rounds};
use tests::sectors::{BLOCK, Disk, Plan};
use tests::wait::pass;
use tests::{Error, Options, Result, in_lab};

/// Blocks of the disk: few, so that each is written over and over.
const BLOCKS: u64 = 1024;
/// Numbers for the writes of one round.
const NUMBERS: u64 = 1 << 32;
/// Rounds in every run of the tests.
const KILLS: u32 = 2;
/// The last moment after the first flush at which the VMM is killed.
const LATEST: Duration = Duration::from_millis(1500);
/// From the start of the program to its first flush.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn what_was_flushed_is_there_when_the_vmm_is_killed_at_any_moment() {
    in_lab(|_| {
        let (rounds, mut chance) = (rounds(KILLS)?, chance()?);
        let dir = tempfile::tempdir().doing("make a folder")?;
        let (image, archive) = (dir.path().join("image"), dir.path().join("scribe.cpio"));
        pack_program(env!("CARGO_BIN_EXE_scribe"), "scribe", dir.path(), &archive)?;
        let size = BLOCKS * BLOCK as u64;
        File::create(&image).and_then(|file| file.set_len(size)).doing("make an image")?;
        let mut before = Disk::empty(BLOCKS);

        let mut writes = 0;
        for round in 0..u64::from(rounds) {
            let (seed, first) = (chance.u64(..), 1 + round * NUMBERS);
            let option = options(round, &image);
            let options = Options {
                arguments: vec!["--disk".to_owned(), option.clone()],
                archives: vec![archive.clone()],
                cpus: "boot=2",
                ..Options::default()
            };
            let flushed = killed_while_it_writes(options, (seed, first), &mut chance)?;
            let image = fs::read(&image).doing("read the image")?;
            let now = Disk::read(&image).map_err(Error::Unexpected)?;
            let plan = Plan::new(seed, BLOCKS, first);
            let outcome = before.becomes(&now, plan, flushed);
            outcome.map_err(|why| Error::Unexpected(format!("{option}: {why}")))?;
            writes += flushed + 1 - first;
            before = now;
        }
        println!("measured: {rounds} VMMs killed after {writes} writes that were flushed");
        Ok(())
    });
}

/// Past the host's page cache and through it, with one queue and with two.
fn options(round: u64, image: &Path) -> String {
    let direct = if round.is_multiple_of(2) { "off" } else { "on" };
    let queues = 1 + round / 2 % 2;
    format!("path={},id=data,direct={direct},num_queues={queues}", image.display())
}

/// Kills a VMM at some moment after its guest's first flush; the last write that was flushed before.
fn killed_while_it_writes(options: Options, plan: (u64, u64), chance: &mut Rng) -> Result<u64> {
    let mut vm = options.boot()?;
    vm.guest.wait_for("the disk", "test -b /dev/vda")?;
    let (seed, first) = plan;
    vm.guest.type_in(&format!("scribe /dev/vda {seed} {BLOCKS} {first}\n"))?;
    vm.guest.expect("flushed ", FLUSH_LIMIT)?;
    pass(LATEST.mul_f64(chance.f64()));
    let flushes = vm.counters()?["data"]["flushes"].as_u64();
    ensure(flushes > Some(0), || format!("hotbay counts {flushes:?} flushes"))?;
    let said = vm.guest.unread();
    drop(vm); // by SIGKILL
    ensure(!said.contains("wrong") && !said.contains("failed"), || format!("it said {said}"))?;
    // The last line may be half a number.
    let (lines, _) = said.rsplit_once('\n').unwrap_or_default();
    let last = lines.lines().next_back().and_then(|line| line.rsplit(' ').next()?.parse().ok());
    Ok(last.unwrap_or(first - 1))
}
