use std::borrow::Cow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use virtio_queue::QueueT;

use super::*;
use crate::pci::msix;
use crate::virtio::chain::Buffers;
use crate::virtio::desk::Desk;
use crate::virtio::interrupts::{Interrupts, NO_VECTOR};
use crate::virtio::testing::{Notes, memory};
use crate::virtio::worker::Trouble;
use crate::virtio::{Device, Identity, Served};

/// What was asked of the backend.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Start(u16, u64),
    /// Tell somebody else: the eventfd's number.
    Tell(RawFd),
    Stop,
}

/// A device whose one queue somebody else serves, and refuses to if it has more than 8 entries.
struct Elsewhere {
    events: Events,
    asked: Mutex<Sender<Asked>>,
}

impl Elsewhere {
    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap().send(asked).unwrap();
    }
}

impl Device for Elsewhere {
    fn identity(&self) -> Identity {
        Identity { kind: 19, class: 0x07_8000 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &[16]
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn backend(&self, _queue: usize) -> Option<&dyn Backend> {
        Some(self)
    }

    fn serve(&self, _queue: usize, _features: u64, _request: &Buffers<'_>) -> Served {
        unreachable!("a queue that somebody else serves")
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Backend for Elsewhere {
    fn events(&self, _queue: usize) -> &Events {
        &self.events
    }

    fn start(&self, _queue: usize, rings: &Queue, features: u64) -> io::Result<()> {
        self.note(Asked::Start(rings.size(), features));
        if rings.size() > 8 { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(()) }
    }

    fn tell(&self, _queue: usize, call: &EventFd) -> io::Result<()> {
        self.note(Asked::Tell(call.as_raw_fd()));
        Ok(())
    }

    fn stop(&self, _queue: usize) {
        self.note(Asked::Stop);
    }
}

/// The queue's worker on a thread, and all around it.
struct Scene {
    device: Arc<Elsewhere>,
    desk: Arc<Desk>,
    interrupts: Arc<Interrupts>,
    trouble: Arc<Trouble>,
    vectors: Notes,
    asked: Receiver<Asked>,
    worker: JoinHandle<()>,
}

/// Vector 0 tells of the configuration, 1 of the queue.
fn scene() -> Scene {
    let (sender, asked) = channel();
    let events = Events::new().unwrap();
    let device = Arc::new(Elsewhere { events, asked: Mutex::new(sender) });
    let desk = Arc::new(Desk::new(Some(Arc::clone(&device.events.kick))).unwrap());
    let vectors = Notes::new(2);
    let interrupts = Arc::new(Interrupts::new(Box::new(vectors.clone()), 1));
    interrupts.map(Source::Configuration, 0);
    interrupts.map(Source::Queue(0), 1);
    interrupts.write_control(msix::ENABLE);
    let trouble = Arc::<Trouble>::default();
    let worker = Worker {
        device: Arc::clone(&device) as _,
        index: 0,
        desk: Arc::clone(&desk),
        interrupts: Arc::clone(&interrupts),
        trouble: Arc::clone(&trouble),
        memory: memory(),
    };
    let worker = thread::Builder::new().name("vsock".to_owned()).spawn(|| worker.run()).unwrap();
    Scene { device, desk, interrupts, trouble, vectors, asked, worker }
}

impl Scene {
    fn serve(&self, entries: u16) {
        let queue = Queue::new(entries).unwrap();
        self.desk.serve(Ready { queue, features: 5 });
        assert_eq!(self.asked.recv(), Ok(Asked::Start(entries, 5)));
        if entries <= 8 {
            self.tells(&self.vectors.events[1]);
        }
    }

    /// Who serves the queue is asked to signal `event`.
    fn tells(&self, event: &EventFd) {
        assert_eq!(self.asked.recv(), Ok(Asked::Tell(event.as_raw_fd())));
    }

    /// The driver writes MSI-X message control.
    fn control(&self, control: u16) {
        self.interrupts.write_control(control);
        self.desk.listens_elsewhere();
    }

    /// Waits for an event of `vector`.
    fn hears(&self, vector: usize) {
        until(|| Some(self.vectors.taken(vector)).filter(|events| *events > 0));
    }

    fn end(self) {
        self.desk.end();
        self.worker.join().unwrap();
        assert_eq!(self.asked.recv(), Ok(Asked::Stop));
    }
}

/// Waits for what `look` finds.
fn until<T>(look: impl Fn() -> Option<T>) -> T {
    loop {
        match look() {
            Some(found) => return found,
            None => thread::yield_now(),
        }
    }
}

#[test]
fn notifications_and_calls_go_past_the_worker() {
    let scene = scene();
    scene.serve(8);

    scene.desk.notify();
    assert_eq!(scene.device.events.kick.read().unwrap(), 1);
    // A call from before it was told of the vector.
    scene.device.events.call.write(1).unwrap();
    scene.hears(1);

    scene.end();
}

#[test]
fn calls_go_where_the_driver_wants_to_hear_of_them() {
    let scene = scene();
    scene.serve(8);

    scene.interrupts.map(Source::Queue(0), 0);
    scene.desk.listens_elsewhere();
    scene.tells(&scene.vectors.events[0]);
    scene.interrupts.map(Source::Queue(0), NO_VECTOR);
    scene.desk.listens_elsewhere();
    scene.tells(&scene.device.events.call);
    scene.device.events.call.write(1).unwrap();
    scene.interrupts.map(Source::Queue(0), 1);
    scene.desk.listens_elsewhere();
    scene.tells(&scene.vectors.events[1]);

    scene.end();
}

#[test]
fn calls_without_msix_are_in_the_isr_status_those_on_their_way_too() {
    let scene = scene();
    scene.serve(8);

    scene.interrupts.write_control(0);
    scene.vectors.events[1].write(1).unwrap();
    scene.desk.listens_elsewhere();
    scene.tells(&scene.device.events.call);
    let isr = || until(|| Some(scene.interrupts.take_isr()).filter(|isr| *isr != 0));
    assert_eq!((isr(), scene.vectors.taken(1)), (1, 0));
    scene.device.events.call.write(1).unwrap();
    assert_eq!(isr(), 1);
    scene.control(msix::ENABLE);
    scene.tells(&scene.vectors.events[1]);

    scene.end();
}

#[test]
fn driver_that_has_reset_wants_to_hear_nothing() {
    let scene = scene();
    scene.serve(8);
    scene.desk.stop();
    scene.desk.wait_until_quiet();
    assert_eq!(scene.asked.recv(), Ok(Asked::Stop));

    scene.control(0);
    scene.control(msix::ENABLE);

    scene.end();
}

#[test]
fn queue_is_let_go_before_its_desk_is_quiet_and_can_be_served_again() {
    let scene = scene();
    scene.serve(8);

    scene.desk.stop();
    scene.desk.wait_until_quiet();

    assert_eq!(scene.asked.try_recv(), Ok(Asked::Stop));
    scene.serve(4);
    scene.end();
}

#[test]
fn rings_that_make_no_sense_at_once_or_later_break_the_device() {
    let scene = scene();
    scene.serve(16);
    scene.hears(0);
    scene.desk.stop();
    scene.desk.wait_until_quiet();
    assert_eq!(scene.asked.recv(), Ok(Asked::Stop));

    scene.serve(8);
    scene.device.events.error.write(1).unwrap();
    assert_eq!(scene.asked.recv(), Ok(Asked::Stop));
    scene.hears(0);

    assert_eq!(scene.trouble.breaks.load(std::sync::atomic::Ordering::SeqCst), 2);
    scene.end();
}
