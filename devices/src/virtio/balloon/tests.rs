use std::io;
use std::sync::Mutex;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Memory;
use crate::virtio::testing::*;

const LIST: u64 = 0x5000;
const BOTH: Choices = Choices { deflate_on_oom: true, reporting: true };

/// Notes what is given back; keeps it while a device has RAM mapped.
#[derive(Default)]
struct Given {
    ranges: Mutex<Vec<(u64, u64)>>,
    mapped: bool,
}

impl Surplus for Given {
    fn give_back(&self, guest: u64, size: u64) -> io::Result<bool> {
        if guest + size > SECOND + HALF {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.ranges.lock().unwrap().push((guest, size));
        Ok(!self.mapped)
    }
}

fn balloon(given: &Arc<Given>, choices: Choices) -> Balloon {
    Balloon::new(Arc::clone(given) as _, choices, 7, "_balloon0".to_owned())
}

/// Has `queue` served with one buffer, which the device may write or not.
fn serve(balloon: &Balloon, memory: &Memory, queue: usize, (buffer, flags): ((u64, u32), u16)) {
    describe(memory, (TABLE, 0), buffer, (flags, 0));
    offer(memory, 0, 1, 8);
    let low = |address| Some(u32::try_from(address).unwrap());
    let mut there = Queue::new(8).unwrap();
    there.set_desc_table_address(low(TABLE), None);
    there.set_avail_ring_address(low(AVAILABLE), None);
    there.set_ready(true);
    let chain = there.iter(memory).unwrap().next().unwrap();
    let request = Buffers::collect(memory, chain, 8).unwrap();
    assert_eq!(balloon.serve(queue, 0, &request), Served::Filled(0));
}

/// Puts pages of these numbers in.
fn inflate(balloon: &Balloon, memory: &Memory, pages: &[u32]) {
    let list: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    memory.write_slice(&list, GuestAddress(LIST)).unwrap();
    serve(balloon, memory, INFLATE, ((LIST, u32::try_from(list.len()).unwrap()), 0));
}

fn counter(balloon: &Balloon, name: &str) -> u64 {
    balloon.counters().into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn pages_next_to_each_other_are_given_back_together() {
    let (given, memory) = (Arc::<Given>::default(), memory());
    let balloon = balloon(&given, BOTH);

    inflate(&balloon, &memory, &[9, 0x10, 8, 0xa]);

    assert_eq!(*given.ranges.lock().unwrap(), [(0x8000, 0x3000), (0x1_0000, 0x1000)]);
    assert_eq!(counter(&balloon, "given_back_bytes"), 0x4000);
}

#[test]
fn pages_stay_while_a_device_has_ram_mapped_and_are_counted() {
    let (given, memory) = (Arc::new(Given { mapped: true, ..Given::default() }), memory());
    let balloon = balloon(&given, BOTH);

    inflate(&balloon, &memory, &[1, 2]);

    assert_eq!(
        (counter(&balloon, "given_back_bytes"), counter(&balloon, "kept_bytes")),
        (0, 0x2000)
    );
}

#[test]
fn pages_that_are_no_ram_twice_the_same_and_lists_that_are_none_are_survived() {
    let (given, memory) = (Arc::<Given>::default(), memory());
    let balloon = balloon(&given, BOTH);

    inflate(&balloon, &memory, &[u32::MAX, 3, 3, u32::MAX]);
    serve(&balloon, &memory, INFLATE, ((1 << 40, 64), 0));
    serve(&balloon, &memory, INFLATE, ((LIST, 3), 0));
    serve(&balloon, &memory, INFLATE, ((LIST, u32::MAX), 0));

    assert_eq!(*given.ranges.lock().unwrap(), [(0x3000, 0x1000), (0x3000, 0x1000)]);
    assert_eq!(counter(&balloon, "refused_requests"), 4);
}

#[test]
fn ranges_that_are_reported_are_given_back_if_they_are_whole_pages() {
    let (given, memory) = (Arc::<Given>::default(), memory());
    let balloon = balloon(&given, BOTH);

    serve(&balloon, &memory, REPORT, ((0x1_0000, 0x8000), WRITE));
    serve(&balloon, &memory, REPORT, ((0x1_0010, 0x8000), WRITE));
    serve(&balloon, &memory, REPORT, ((0x1_0000, 0x10), WRITE));

    assert_eq!(*given.ranges.lock().unwrap(), [(0x1_0000, 0x8000)]);
    assert_eq!(counter(&balloon, "refused_requests"), 2);
}

#[test]
fn driver_reads_the_target_and_writes_what_it_has_come_to() {
    let balloon = balloon(&Arc::default(), BOTH);
    balloon.set_target(0x102);

    balloon.configure(4, &[5, 0, 0, 0]);
    balloon.configure(0, &[9, 9, 9, 9]);
    balloon.configure(4, &[9]);
    balloon.configure(u64::MAX, &[9; 8]);

    assert_eq!(*balloon.configuration(), [2, 1, 0, 0, 5, 0, 0, 0]);
    assert_eq!((balloon.target(), balloon.actual()), (0x102, 5));
    balloon.forget();
    assert_eq!(balloon.actual(), 0);
}

#[test]
fn queue_and_feature_of_reporting_come_together() {
    let neither = Choices { deflate_on_oom: false, reporting: false };
    let plain = balloon(&Arc::default(), neither);
    let both = balloon(&Arc::default(), BOTH);

    assert_eq!((plain.features(), plain.queues().len()), (0, 2));
    assert_eq!((both.features(), both.queues().len()), (1 << 2 | 1 << 5, 3));
}
