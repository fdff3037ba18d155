use std::borrow::Cow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::io::Doorbell;
use crate::memory::{Backing, Windows};
use crate::pci::Function as _;
use crate::pci::bar::Apertures;
use crate::space::Space;
use crate::virtio::Identity;
use crate::virtio::Served;
use crate::virtio::chain::Buffers;
use crate::virtio::testing::*;

const BASE: u64 = 0xe000_0000;
const SIZE: u16 = 8;
const VERSION_1: u64 = 1 << 32;

/// Answers a request with one byte, when the test lets it.
struct Echo {
    begun: Mutex<Sender<()>>,
    may_end: Mutex<Receiver<()>>,
}

impl Device for Echo {
    fn identity(&self) -> Identity {
        Identity { kind: 4, class: 0xff_0000 }
    }

    fn features(&self) -> u64 {
        1 << 3
    }

    fn queues(&self) -> &[u16] {
        &[SIZE]
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[7, 8, 9])
    }

    fn serve(&self, _queue: usize, _features: u64, request: &Buffers<'_>) -> Served {
        self.begun.lock().unwrap().send(()).unwrap();
        self.may_end.lock().unwrap().recv().unwrap();
        request.writable.write(b"!").unwrap();
        Served::Filled(1)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

struct NoWindows;
impl Windows for NoWindows {
    fn open(&self, _: u64, _: Backing) -> io::Result<Box<dyn crate::memory::Window>> {
        unreachable!("a virtio BAR shows no memory")
    }
}

#[derive(Default, Clone)]
struct Bells(Arc<Mutex<Vec<u64>>>);
struct Placed(Bells, u64);
impl Doorbell for Placed {}
impl Doorbells for Bells {
    fn place(&self, address: u64, _: &Arc<EventFd>) -> io::Result<Box<dyn Doorbell>> {
        self.0.lock().unwrap().push(address);
        Ok(Box::new(Placed(self.clone(), address)))
    }
}
impl Drop for Placed {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().retain(|address| *address != self.1);
    }
}

/// A function, its worker on a thread, and the test's ends of everything.
struct Scene {
    function: Function,
    worker: JoinHandle<()>,
    memory: Memory,
    space: Arc<Space>,
    bells: Bells,
    vectors: Notes,
    begun: Receiver<()>,
    may_end: Sender<()>,
}

fn scene() -> Scene {
    let (begun_here, begun) = channel();
    let (may_end, may_end_there) = channel();
    let device = Echo { begun: Mutex::new(begun_here), may_end: Mutex::new(may_end_there) };
    let (memory, space, bells) = (memory(), Arc::<Space>::default(), Bells::default());
    let vectors = Notes::new(Function::vectors(&device));
    let apertures = Apertures { io: 0..0, mem32: BASE..BASE + 0x100_0000, mem64: 1 << 40..1 << 41 };
    let spaces = GuestSpaces {
        memory: Arc::clone(&space),
        io: Arc::default(),
        windows: Arc::new(NoWindows),
        apertures,
    };
    let machine = Machine {
        vectors: Box::new(vectors.clone()),
        memory: memory.clone(),
        spaces,
        doorbells: Arc::new(bells.clone()),
    };
    let (function, mut workers) = Function::new(Arc::new(device), machine).unwrap();
    let worker = workers.pop().unwrap();
    let builder = thread::Builder::new().name("queue0".to_owned());
    let worker = builder.spawn(move || worker.run()).unwrap();
    Scene { function, worker, memory, space, bells, vectors, begun, may_end }
}

impl Scene {
    fn config<const N: usize>(&self, at: u16) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_config(at, &mut data);
        data
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(self.space.read(BASE + at, &mut data));
        data
    }

    fn write(&self, at: u64, data: &[u8]) {
        assert!(self.space.write(BASE + at, data));
    }

    fn place(&self) {
        self.function.write_config(0x10, &0xe000_0000_u32.to_le_bytes());
        self.function.write_config(4, &[6, 0]);
    }

    fn status(&self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    /// As a driver does it, the queue at `table`; MSI-X on, vector 1 for the queue.
    fn bring_up(&self, table: u64) {
        self.function.write_config(MSIX_AT + 2, &msix::ENABLE.to_le_bytes());
        self.write(0x14, &[1]);
        self.write(0x14, &[3]);
        for (select, half) in [(0_u32, 1_u32 << 3), (1, 1)] {
            self.write(8, &select.to_le_bytes());
            self.write(12, &half.to_le_bytes());
        }
        self.write(0x14, &[0xb]);
        assert_eq!(self.status(), 0xb, "the features will do");
        self.write(0x1a, &1_u16.to_le_bytes());
        for (at, address) in [(0x20, table), (0x28, AVAILABLE), (0x30, USED)] {
            let bytes = address.to_le_bytes();
            self.write(at, &bytes[..4]);
            self.write(at + 4, &bytes[4..]);
        }
        self.write(0x1c, &[1, 0]);
        self.write(0x14, &[0xf]);
    }

    /// Offers a chain of one writable buffer, and notifies through the BAR.
    fn request(&self, count: u16) {
        describe(&self.memory, (TABLE, 0), (0x5000, 4), (WRITE, 0));
        offer(&self.memory, 0, count, SIZE);
        self.write(Part::Notify.place().0, &[0, 0]);
    }

    /// Waits until the status reads as this.
    fn status_becomes(&self, status: u8) {
        while self.status() != status {
            thread::yield_now();
        }
    }

    fn end(self) {
        self.function.end();
        self.worker.join().unwrap();
    }
}

#[test]
fn request_is_served_and_signalled() {
    let scene = scene();
    scene.place();
    scene.bring_up(TABLE);
    assert_eq!(scene.status(), 0xf);

    scene.may_end.send(()).unwrap();
    scene.request(1);

    while used(&scene.memory) == 0 {
        thread::yield_now();
    }
    assert_eq!(used_entry(&scene.memory, 0), (0, 1));
    assert_eq!(scene.memory.read_obj::<u8>(GuestAddress(0x5000)).unwrap(), b'!');
    // The signal comes after the entry in the ring; when the driver has the device back, it has come.
    scene.function.end();
    scene.worker.join().unwrap();
    assert_eq!(scene.vectors.taken(1), 1);
}

#[test]
fn reset_while_a_request_is_under_way_is_done_when_that_is() {
    let scene = scene();
    scene.place();
    scene.bring_up(TABLE);
    scene.request(1);
    scene.begun.recv().unwrap();

    scene.write(0x14, &[0]);

    assert_eq!(scene.status(), 0xf, "the driver waits; no vCPU does");
    scene.may_end.send(()).unwrap();
    scene.status_becomes(0);
    assert_eq!(scene.read::<2>(0x1a), [0xff; 2], "the vector is unmapped");

    scene.memory.write_obj(0_u16, GuestAddress(AVAILABLE + 2)).unwrap();
    scene.memory.write_obj(0_u16, GuestAddress(USED + 2)).unwrap();
    scene.bring_up(TABLE);
    scene.may_end.send(()).unwrap();
    scene.request(1);
    scene.begun.recv().unwrap();
    scene.end();
}

#[test]
fn reset_from_outside_waits_and_takes_the_bar_away() {
    let scene = scene();
    scene.place();
    scene.bring_up(TABLE);
    scene.request(1);
    scene.begun.recv().unwrap();
    scene.may_end.send(()).unwrap();

    scene.function.reset();

    assert!(!scene.space.read(BASE, &mut [0; 4]));
    assert_eq!((scene.config::<2>(4), scene.config::<2>(MSIX_AT + 2)), ([0; 2], [1, 0]));
    scene.place();
    assert_eq!(scene.status(), 0);
    scene.end();
}

#[test]
fn queue_that_is_not_in_the_ram_breaks_the_device_until_it_is_reset() {
    for table in [0x1008, HALF - 16, SECOND + HALF, u64::MAX - 15] {
        let scene = scene();
        scene.place();

        scene.bring_up(table);

        assert_eq!(scene.status(), 0x4f, "{table:#x}");
        scene.write(0x14, &[0]);
        assert_eq!(scene.status(), 0);
        scene.end();
    }
}

#[test]
fn ring_that_makes_no_sense_breaks_the_device_and_the_driver_is_told() {
    let scene = scene();
    scene.place();
    scene.bring_up(TABLE);
    scene.write(0x10, &[0, 0]);
    describe(&scene.memory, (TABLE, 0), (0x5000, 4), (WRITE, 0));
    offer(&scene.memory, 0, SIZE + 1, SIZE);

    scene.write(Part::Notify.place().0, &[0, 0]);

    scene.status_becomes(0x4f);
    assert!(scene.function.counters().contains(&("broken_queues", 1)));
    scene.write(0x14, &[0]);
    scene.status_becomes(0);
    scene.end();
}

#[test]
fn bar_and_its_doorbells_go_where_the_guest_puts_them() {
    let scene = scene();
    assert_eq!(scene.config::<4>(0x10), [0; 4]);
    scene.function.write_config(0x10, &[0xff; 4]);
    assert_eq!(scene.config::<4>(0x10), (!0x7fff_u32).to_le_bytes(), "32 KiB");

    scene.place();

    assert_eq!(*scene.bells.0.lock().unwrap(), [BASE + 0x3000]);
    assert_eq!(scene.read::<4>(0x2000), [7, 8, 9, 0], "the device's own configuration");
    scene.function.write_config(4, &[0, 0]);
    assert!(scene.bells.0.lock().unwrap().is_empty());
    assert!(!scene.space.read(BASE, &mut [0; 4]));
    scene.end();
}

#[test]
fn window_in_configuration_space_reaches_the_bar_that_is_not_placed() {
    let scene = scene();
    for (at, value) in [(WINDOW_BAR, 0_u32), (WINDOW_OFFSET, 0x14), (WINDOW_LENGTH, 1)] {
        scene.function.write_config(at, &value.to_le_bytes());
    }
    scene.function.write_config(WINDOW_DATA, &[1, 0, 0, 0]);
    assert_eq!(scene.config::<1>(WINDOW_DATA), [1], "the status");

    scene.function.write_config(WINDOW_LENGTH, &3_u32.to_le_bytes());
    scene.function.write_config(WINDOW_DATA, &[3, 0, 0, 0]);
    assert_eq!(scene.config::<4>(WINDOW_DATA), [0; 4], "no such length");
    scene.end();
}

#[test]
fn every_access_of_any_size_and_place_is_survived() {
    let scene = scene();
    scene.place();
    for at in (0..BAR_SIZE).step_by(3).take(12_000) {
        for size in [1, 2, 4, 8] {
            scene.space.read(BASE + at, &mut vec![0; size]);
            if !(0x10..0x20).contains(&at) {
                scene.space.write(BASE + at, &vec![0xa5; size]);
            }
        }
    }
    for at in (0..256).step_by(4) {
        scene.function.write_config(at, &[0xff; 4]);
        scene.config::<4>(at);
    }
    scene.write_nothing();
    scene.end();
}

impl Scene {
    /// The command register's bits that do not exist stay clear.
    fn write_nothing(&self) {
        assert_eq!(self.config::<2>(4), 0x406_u16.to_le_bytes());
    }
}

#[test]
fn features_of_the_transport_are_offered() {
    let scene = scene();
    scene.place();
    assert_eq!(u32::from_le_bytes(scene.read(4)), 1 << 3 | 1 << 28 | 1 << 29);
    scene.write(0, &1_u32.to_le_bytes());
    assert_eq!(u64::from(u32::from_le_bytes(scene.read(4))) << 32, VERSION_1);
    scene.end();
}
