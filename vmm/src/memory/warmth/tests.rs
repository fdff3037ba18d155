//! Which RAM becomes warm, and who waits for whom.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use devices::memory::Warmth as _;
use vm_memory::GuestAddress;

use super::*;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Two pieces, of 9 and of 5 MiB: neither is a whole number of steps.
fn memory() -> Memory {
    let piece = |mib: usize| mib << 20;
    Memory::from_ranges(&[(GuestAddress(0), piece(9)), (GuestAddress(64 * MIB), piece(5))]).unwrap()
}

fn range(guest: u64, size: u64) -> RamRange {
    RamRange { guest, size, host: NonNull::dangling() }
}

/// Bytes of the process's memory at `memory` that are there (mincore(2)).
#[expect(unsafe_code, reason = "asks the kernel about pages")]
fn resident(memory: &Memory) -> u64 {
    let pages = |range: RamRange| {
        let size = usize::try_from(range.size).unwrap();
        let mut there = vec![0_u8; size / 4096];
        // SAFETY: the range is mapped, and a byte for each page is there.
        let answer = unsafe { libc::mincore(range.host.as_ptr().cast(), size, there.as_mut_ptr()) };
        assert_eq!(answer, 0);
        there.into_iter().filter(|page| page & 1 != 0).count() as u64
    };
    ram::ranges(memory).map(pages).sum::<u64>() * 4096
}

#[test]
fn all_of_it_is_warmed_and_counted_once() {
    let memory = memory();
    let warmth = Warmth::new(&memory);
    assert_eq!(warmth.level(), Level { warm: 0, total: 14 * MIB });
    assert_eq!(resident(&memory), 0);

    warmth.warm_now().unwrap();
    warmth.warm_in_background().unwrap();
    warmth.warm(&range(0, 9 * MIB), &|| false).unwrap();

    assert_eq!(warmth.level(), Level { warm: 14 * MIB, total: 14 * MIB });
    assert_eq!(resident(&memory), 14 * MIB);
}

#[test]
fn part_is_warmed_without_the_rest() {
    let memory = memory();
    let warmth = Warmth::new(&memory);

    warmth.warm(&range(66 * MIB, 3 * MIB), &|| false).unwrap();

    assert_eq!(warmth.level().warm, 3 * MIB);
    assert_eq!(resident(&memory), 3 * MIB);
}

#[test]
fn wish_to_give_up_is_heard_between_two_steps() {
    let warmth = Warmth::new(&memory());

    warmth.warm(&range(0, 9 * MIB), &|| warmth.level().warm >= 2 * STEP).unwrap();
    assert_eq!(warmth.level().warm, 2 * STEP);

    warmth.stop();
    warmth.warm_in_background().unwrap();
    assert_eq!(warmth.level().warm, 2 * STEP);
}

#[test]
fn background_steps_back_while_somebody_is_in_a_hurry() {
    let warmth = Arc::new(Warmth::new(&memory()));
    let hurry = warmth.hurry();
    let (done, is_done) = mpsc::channel();
    let background = Arc::clone(&warmth);
    let body = move || done.send(background.warm_in_background()).unwrap();
    let background = thread::Builder::new().name("warm".to_owned()).spawn(body).unwrap();

    warmth.warm(&range(0, STEP), &|| false).unwrap();
    assert_eq!(warmth.level().warm, STEP, "nobody else has done anything");
    assert!(is_done.try_recv().is_err());
    drop(hurry);

    is_done.recv_timeout(PATIENCE).unwrap().unwrap();
    background.join().unwrap();
    assert_eq!(warmth.level().warm, 14 * MIB);
}

#[test]
fn background_that_has_stepped_back_ends_with_the_machine() {
    let warmth = Arc::new(Warmth::new(&memory()));
    let hurry = warmth.hurry();
    let background = Arc::clone(&warmth);
    let body = move || background.warm_in_background();
    let background = thread::Builder::new().name("warm".to_owned()).spawn(body).unwrap();

    warmth.stop();

    background.join().unwrap().unwrap();
    drop(hurry);
    assert_eq!(warmth.level().warm, 0);
}
