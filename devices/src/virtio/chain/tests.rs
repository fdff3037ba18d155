use super::*;
use crate::virtio::testing::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};

const SIZE: u16 = 8;

/// The chain that begins at descriptor 0, as the device collects it.
fn collect(memory: &Memory) -> Result<Buffers<'_>, Malformed> {
    offer(memory, 0, 1, SIZE);
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_desc_table_address(Some(u32::try_from(TABLE).unwrap()), None);
    queue.set_avail_ring_address(Some(u32::try_from(AVAILABLE).unwrap()), None);
    queue.set_used_ring_address(Some(u32::try_from(USED).unwrap()), None);
    queue.set_ready(true);
    let chain = queue.iter(memory).unwrap().next().unwrap();
    Buffers::collect(memory, chain, SIZE)
}

#[test]
fn readable_and_writable_buffers_are_two_runs_of_bytes() {
    let memory = memory();
    describe(&memory, (TABLE, 0), (0x5000, 4), (NEXT, 3));
    describe(&memory, (TABLE, 3), (0x6000, 4), (NEXT, 1));
    describe(&memory, (TABLE, 1), (0x7000, 8), (WRITE, 0));
    memory.write_slice(b"abcd", GuestAddress(0x5000)).unwrap();
    memory.write_slice(b"efgh", GuestAddress(0x6000)).unwrap();

    let buffers = collect(&memory).unwrap();

    let mut bytes = [0; 5];
    buffers.readable.part(2, 7).unwrap().read(&mut bytes).unwrap();
    assert_eq!((&bytes, buffers.writable.len()), (b"cdefg", 8));
    buffers.writable.part(6, 8).unwrap().write(b"xy").unwrap();
    let mut written = [0; 8];
    memory.read_slice(&mut written, GuestAddress(0x7000)).unwrap();
    assert_eq!(&written, b"\0\0\0\0\0\0xy");
}

#[test]
fn indirect_table_is_followed_once() {
    let memory = memory();
    describe(&memory, (TABLE, 0), (0x8000, 32), (INDIRECT, 0));
    describe(&memory, (0x8000, 0), (0x5000, 16), (NEXT, 1));
    describe(&memory, (0x8000, 1), (0x6000, 16), (WRITE, 0));
    let buffers = collect(&memory).unwrap();
    assert_eq!((buffers.readable.len(), buffers.writable.len()), (16, 16));

    // A table within a table is against the rules (2.7.5.3.1).
    describe(&memory, (0x8000, 1), (0x9000, 16), (INDIRECT, 0));
    assert_eq!(collect(&memory).err(), Some(Malformed::Endless));
    // So is one that is not whole descriptors.
    describe(&memory, (TABLE, 0), (0x8000, 17), (INDIRECT, 0));
    assert_eq!(collect(&memory).err(), Some(Malformed::Endless));
}

#[test]
fn chain_that_loops_or_leads_nowhere_is_refused() {
    let memory = memory();
    describe(&memory, (TABLE, 0), (0x5000, 4), (NEXT, 1));
    describe(&memory, (TABLE, 1), (0x5000, 4), (NEXT, 0));
    assert_eq!(collect(&memory).err(), Some(Malformed::Endless));

    describe(&memory, (TABLE, 1), (0x5000, 4), (NEXT, SIZE));
    assert_eq!(collect(&memory).err(), Some(Malformed::Endless));

    // More than 2^32 bytes in all.
    describe(&memory, (TABLE, 0), (0x5000, u32::MAX), (NEXT, 1));
    describe(&memory, (TABLE, 1), (0x5000, u32::MAX), (0, 0));
    assert_eq!(collect(&memory).err(), Some(Malformed::Endless));
}

#[test]
fn indirect_chain_longer_than_the_queue_is_refused() {
    let memory = memory();
    describe(&memory, (TABLE, 0), (0x8000, 16 * 9), (INDIRECT, 0));
    for index in 0..9 {
        let next = if index < 8 { NEXT } else { 0 };
        describe(&memory, (0x8000, index), (0x5000, 1), (next, index + 1));
    }
    assert_eq!(collect(&memory).err(), Some(Malformed::Endless));
}

#[test]
fn readable_after_writable_is_refused() {
    let memory = memory();
    describe(&memory, (TABLE, 0), (0x5000, 4), (WRITE | NEXT, 1));
    describe(&memory, (TABLE, 1), (0x6000, 4), (0, 0));
    assert_eq!(collect(&memory).err(), Some(Malformed::Order));
}

#[test]
fn buffer_outside_of_the_ram_is_found_when_it_is_used() {
    let memory = memory();
    let end = SECOND + HALF;
    for (address, length) in [(HALF - 4, 8), (end - 4, 8), (u64::MAX - 3, 8), (1 << 40, 1)] {
        describe(&memory, (TABLE, 0), (address, length), (0, 0));
        let buffers = collect(&memory).unwrap();
        assert_eq!(buffers.readable.slices().err(), Some(Malformed::Outside), "{address:#x}");
    }
}

#[test]
fn parts_past_the_end_are_refused_and_empty_ones_are_not() {
    let memory = memory();
    describe(&memory, (TABLE, 0), (0x5000, 4), (0, 0));
    let readable = collect(&memory).unwrap().readable;
    assert_eq!(readable.part(0, 5).err(), Some(Malformed::Short));
    assert_eq!(readable.part(3, 2).err(), Some(Malformed::Short));
    assert!(readable.part(4, 4).unwrap().is_empty());
    assert_eq!(readable.read(&mut [0; 5]), Err(Malformed::Short));
}
