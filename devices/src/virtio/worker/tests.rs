use std::borrow::Cow;
use std::sync::Mutex;
use std::thread;

use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::*;
use crate::virtio::Identity;
use crate::virtio::testing::*;

const SIZE: u16 = 32;
/// Bytes of a request that takes long.
const LONG: u64 = 2;

/// Notes at each request how often its driver has been told of something since the one before.
struct Noting {
    vectors: Notes,
    told: Mutex<Vec<u64>>,
}

impl Device for Noting {
    fn identity(&self) -> Identity {
        Identity { kind: 4, class: 0xff_0000 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &[SIZE]
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn takes_long(&self, request: &Buffers<'_>) -> bool {
        request.writable.len() == LONG
    }

    fn serve(&self, _queue: usize, _features: u64, _request: &Buffers<'_>) -> Served {
        self.told.lock().unwrap().push(self.vectors.taken(1));
        Served::Filled(0)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Serves requests of so many bytes; how often the driver was told before each, and after the last.
fn told(requests: &[u32]) -> (Vec<u64>, u64) {
    let (memory, vectors) = (memory(), Notes::new(2));
    for (head, length) in (0..).zip(requests) {
        describe(&memory, (TABLE, head), (0x8000, *length), (WRITE, 0));
        offer(&memory, head, head + 1, SIZE);
    }
    let mut queue = Queue::new(SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(TABLE)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_ready(true);
    let interrupts = Arc::new(Interrupts::new(Box::new(vectors.clone()), 1));
    interrupts.map(Source::Queue(0), 1);
    interrupts.write_control(1 << 15);
    let device = Arc::new(Noting { vectors: vectors.clone(), told: Mutex::default() });
    let desk = Arc::new(Desk::new(None).unwrap());
    let shared: Arc<dyn Device> = Arc::<Noting>::clone(&device);
    let trouble = Arc::default();
    let (ours, here) = (Arc::clone(&desk), memory.clone());
    let worker = Worker { device: shared, index: 0, desk, interrupts, trouble, memory };
    ours.serve(Ready { queue, features: 0 });

    let thread = thread::Builder::new().name("queue0".to_owned());
    let thread = thread.spawn(move || worker.run()).unwrap();

    while usize::from(used(&here)) < requests.len() {
        thread::yield_now();
    }
    ours.end();
    thread.join().unwrap();
    let told = device.told.lock().unwrap().clone();
    (told, vectors.taken(1))
}

#[test]
fn driver_is_told_of_what_is_done_before_a_request_that_takes_long() {
    let (told, _) = told(&[1, 2]);
    assert_eq!(told, [0, 1]);
}

#[test]
fn driver_is_told_of_the_last_request_and_nothing_twice() {
    let (before, after) = told(&[2, 2, 2]);
    assert_eq!((before, after), (vec![0, 1, 1], 1));
}

#[test]
fn quick_requests_that_are_there_are_told_of_together() {
    let (before, after) = told(&[1; 5]);
    assert_eq!((before, after), (vec![0; 5], 1));
}
