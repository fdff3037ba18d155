use std::cell::RefCell;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::*;
use crate::virtio::Memory;
use crate::virtio::testing::memory;

fn slices(memory: &Memory) -> [VolatileSlice<'_>; 3] {
    [(0, 10), (100, 0), (200, 20)]
        .map(|(at, size)| memory.get_slice(GuestAddress(at), size).unwrap())
}

/// What [`each`] asks for, step by step, when so many bytes are done each time.
fn steps(done: &[io::Result<usize>]) -> (Vec<(u64, Vec<usize>)>, io::Result<()>) {
    let memory = memory();
    let (asked, done) = (RefCell::new(Vec::new()), RefCell::new(done.iter()));
    let step = |at, slices: &[VolatileSlice<'_>]| {
        asked.borrow_mut().push((at, slices.iter().map(VolatileSlice::len).collect()));
        match done.borrow_mut().next().unwrap() {
            Ok(count) => Ok(*count),
            Err(error) => Err(error.kind().into()),
        }
    };
    let outcome = each(512, &slices(&memory), io::ErrorKind::UnexpectedEof, step);
    (asked.into_inner(), outcome)
}

#[test]
fn part_that_was_not_done_is_asked_for_again() {
    let interrupted = Err(io::ErrorKind::Interrupted.into());

    let (asked, outcome) = steps(&[Ok(4), interrupted, Ok(10), Ok(16)]);

    let rest = (516, vec![6, 20]);
    assert_eq!(asked, [(512, vec![10, 20]), rest.clone(), rest, (526, vec![16])]);
    assert!(outcome.is_ok());
}

#[test]
fn nothing_done_and_an_error_end_it() {
    let (_, stuck) = steps(&[Ok(10), Ok(0)]);
    assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    let (_, full) = steps(&[Ok(10), Err(io::ErrorKind::StorageFull.into())]);
    assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn zeros_are_written_where_nothing_better_is_offered() {
    // A memory file system has holes, but knows no other way to make zeros.
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all_at(&[0xff; 200_000], 0).unwrap();
    let medium = Medium::Raw(file.try_clone().unwrap());
    let store = Store { medium, access: Access::default(), sectors: 300, block_size: 512 };

    store.zero(512, 150_000, false).unwrap();

    let mut data = vec![1; 200_000];
    file.read_exact_at(&mut data, 0).unwrap();
    assert!(data[512..150_512].iter().all(|byte| *byte == 0));
    assert!(data[..512].iter().chain(&data[150_512..]).all(|byte| *byte == 0xff));
}
