use super::*;
use crate::virtio::testing::*;

const SIZE: u16 = 8;
const DATA: u64 = 0x5000;

fn queue(event_idx: bool) -> Queue {
    let low = |address| Some(u32::try_from(address).unwrap());
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_desc_table_address(low(TABLE), None);
    queue.set_avail_ring_address(low(AVAILABLE), None);
    queue.set_used_ring_address(low(USED), None);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

/// Offers buffers of these lengths, one a chain, as the first ones of the ring.
fn offer_all(memory: &Memory, lengths: &[u32]) {
    for (index, length) in (0..).zip(lengths) {
        let address = DATA + 0x1000 * u64::from(index);
        describe(memory, (TABLE, index), (address, *length), (WRITE, 0));
        offer(memory, index, index + 1, SIZE);
    }
}

fn gather<'m>(memory: &'m Memory, queue: &mut Queue, want: u64) -> (Room<'m>, Vec<Used>) {
    let (mut room, mut refused) = (Room::default(), Vec::new());
    room.gather((memory, queue), want, &mut refused).unwrap();
    (room, refused)
}

#[test]
fn chains_are_taken_until_there_is_enough_and_used_in_order() {
    let (memory, mut queue) = (memory(), queue(false));
    offer_all(&memory, &[100, 100, 100, 100]);

    let (mut room, refused) = gather(&memory, &mut queue, 250);

    assert_eq!((room.bytes(), room.is_full(), refused.len()), (300, false, 0));
    let counts = [0, 1, 100, 101, 300].map(|bytes| room.count(bytes));
    assert_eq!(counts, [0, 1, 1, 2, 3]);
    assert_eq!(room.take(101), [(0, 100), (1, 1)]);
    assert_eq!((room.bytes(), room.slices().len()), (100, 1));
    assert_eq!(room.take(0), [(2, 0)], "a request that was dropped takes its first buffer along");
    assert!(room.is_empty());
}

#[test]
fn bytes_are_written_across_chains_and_not_past_the_last() {
    let (memory, mut queue) = (memory(), queue(false));
    offer_all(&memory, &[4, 1, 8]);
    let (room, _) = gather(&memory, &mut queue, 13);

    room.write(3, b"abc").unwrap();

    for (at, byte) in [(DATA + 3, b'a'), (DATA + 0x1000, b'b'), (DATA + 0x2000, b'c')] {
        assert_eq!(memory.read_obj::<u8>(GuestAddress(at)).unwrap(), byte);
    }
    assert_eq!((room.write(12, b"xy"), room.write(13, b"")), (Err(Malformed::Short), Ok(())));
}

#[test]
fn room_is_full_when_the_driver_can_have_no_more() {
    let (memory, mut queue) = (memory(), queue(false));
    offer_all(&memory, &[10; 8]);

    let (mut room, _) = gather(&memory, &mut queue, 1000);
    assert!(room.is_full());
    room.take(1);
    assert!(!room.is_full());
    assert_eq!(room.gather((&memory, &mut queue), 1000, &mut Vec::new()).unwrap(), 0);
}

#[test]
fn chains_that_make_no_sense_are_refused_and_the_others_taken() {
    let (memory, mut queue) = (memory(), queue(false));
    offer_all(&memory, &[10, 0, 10, 10]);
    // For the device to read; and outside of the RAM.
    describe(&memory, (TABLE, 2), (DATA, 10), (0, 0));
    describe(&memory, (TABLE, 3), (1 << 40, 10), (WRITE, 0));

    let (room, refused) = gather(&memory, &mut queue, 1000);

    assert_eq!((room.bytes(), refused), (10, vec![(1, 0), (2, 0), (3, 0)]));
}

#[test]
fn more_slices_than_one_call_takes_stay_in_the_queue() {
    const LARGE: u16 = 1024;
    let memory = memory();
    let mut queue = Queue::new(LARGE).unwrap();
    let low = |address| Some(u32::try_from(address).unwrap());
    queue.set_desc_table_address(low(0x2_0000_u64), None);
    queue.set_avail_ring_address(low(AVAILABLE), None);
    queue.set_used_ring_address(low(0x4_0000_u64), None);
    queue.set_ready(true);
    for index in 0..LARGE {
        describe(&memory, (0x2_0000, index), (DATA, 1), (WRITE, 0));
        offer(&memory, index, index + 1, LARGE);
    }

    let (mut room, _) = gather(&memory, &mut queue, 5000);

    assert_eq!((room.bytes(), room.is_full()), (1023, true));
    room.take(1);
    assert_eq!(room.gather((&memory, &mut queue), 5000, &mut Vec::new()).unwrap(), 1);
}

#[test]
fn head_past_the_queue_is_an_error_not_a_chain() {
    let (memory, mut queue) = (memory(), queue(false));
    offer(&memory, SIZE, 1, SIZE);

    let mut room = Room::default();
    assert!(room.gather((&memory, &mut queue), 10, &mut Vec::new()).is_err());
}

#[test]
fn used_chains_appear_together_and_wrap_around() {
    let (memory, mut queue) = (memory(), queue(false));
    queue.set_next_used(u16::MAX);

    assert!(publish(&mut queue, &memory, &[(3, 30), (4, 40)]).unwrap());

    assert_eq!((used(&memory), queue.next_used()), (1, 1));
    assert_eq!((used_entry(&memory, 7), used_entry(&memory, 0)), ((3, 30), (4, 40)));
}

#[test]
fn driver_is_told_when_its_event_is_among_those_that_were_used() {
    let memory = memory();
    let event = GuestAddress(AVAILABLE + 4 + 2 * u64::from(SIZE));
    for (old, count, wanted, told) in [
        (0, 1, 0, true),
        (0, 1, 1, false),
        (3, 3, 2, false),
        (3, 3, 3, true),
        (3, 3, 5, true),
        (3, 3, 6, false),
        (u16::MAX, 2, 0, true),
    ] {
        let mut queue = queue(true);
        queue.set_next_used(old);
        memory.write_obj(wanted, event).unwrap();
        let used: Vec<Used> = vec![(0, 1); count];
        let said = publish(&mut queue, &memory, &used).unwrap();
        assert_eq!(said, told, "event {wanted}, {count} from {old} on");
    }
}
