//! A hostile driver of our own devices: descriptors that loop, overlap, lead out of the RAM or over the rings
//! themselves, rings that claim what is not there, requests of any kind and length.
//!
//! A card's tap has a packet of any length for it, and its control queue commands of any kind; somebody has typed at the console.
//!
//! Held to: serving ends, no more requests are answered than were made, a read-only disk keeps its content and any disk its
//! length, only whole pages of RAM go back to the host, and what was typed is with the guest or still waits for it.

#![no_main]

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use devices::console::Port;
use devices::irq::testing::NoVectors;
use devices::memory::Surplus;
use devices::virtio::balloon::{Balloon, Choices, PAGE};
use devices::virtio::block::{Access, Disk};
use devices::virtio::console::Console;
use devices::virtio::net::{Card, Mac, Net, Offloads};
use devices::virtio::rng::Rng;
use devices::virtio::{Device, Memory, Worker};
use fuzz::draw::Draw;
use libfuzzer_sys::fuzz_target;
use tempfile::NamedTempFile;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// RAM in two pieces of this size, with a hole as large in between.
const PIECE: u64 = 0x1_0000;
const SECOND: u64 = 2 * PIECE;
/// Where the parts of the queue are, and where requests begin.
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const REQUESTS: u64 = 0x4000;
const MOST: u16 = 16;
const DISK: u64 = 0x8000;
const FILLER: u8 = 0xa5;

/// Devices, and the image behind the disks: they are opened once.
struct Shelf {
    all: Vec<Arc<dyn Device>>,
    image: NamedTempFile,
    memory: Memory,
    /// Where the card's taps lead to.
    wires: [UnixDatagram; 2],
    console: Arc<Console>,
}

thread_local! {
    static SHELF: OnceCell<Shelf> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| SHELF.with(|shelf| play(shelf.get_or_init(shelf_of_devices), input)));

fn play(shelf: &Shelf, input: &[u8]) {
    let mut draw = Draw::new(input);
    let number = usize::from(draw.byte()) % shelf.all.len();
    let device = Arc::clone(&shelf.all[number]);
    let index = usize::from(draw.byte()) % device.queues().len();
    let memory = &shelf.memory;
    let zeros = vec![0; usize::try_from(PIECE).expect("small")];
    for piece in [0, SECOND] {
        memory.write_slice(&zeros, GuestAddress(piece)).expect("RAM");
    }
    let size = 1 << (draw.byte() % 5);
    let features = device.features() & draw.qword() | 1 << 32;
    let made = fill(memory, size, &mut draw);
    if number == CARD {
        command(memory, &mut draw);
        let packet = vec![FILLER; usize::from(draw.word())];
        for wire in &shelf.wires {
            while wire.recv(&mut [0]).is_ok() {}
            let _ = wire.send(&packet);
        }
    }

    let waiting = if number == CONSOLE { type_anew(&shelf.console, &mut draw) } else { 0 };
    let taken = taken(&shelf.console);

    let mut queue = Queue::new(MOST).expect("a power of two");
    queue.try_set_size(size).expect("less than most");
    queue.try_set_desc_table_address(GuestAddress(TABLE)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
    queue.set_event_idx(draw.flag());
    queue.set_ready(true);
    // The device may have written over it: its own word counts, where it has one.
    let before = image(shelf);
    let sane = Worker::once(device, index, (memory.clone(), queue, features), Box::new(NoVectors))
        .expect("a descriptor");

    let taken = self::taken(&shelf.console) - taken;
    let left = shelf.console.room() as u64;
    shelf.console.forget();
    assert_eq!(
        shelf.console.room() as u64 - left + taken,
        waiting,
        "typed, but neither taken nor waiting"
    );
    let after = image(shelf);
    assert_eq!(after.len() as u64, DISK, "the image has another length");
    if number == READ_ONLY {
        assert!(after == before, "a read-only disk was written");
    }
    assert!(!sane || made <= size, "a ring of {size} with {made} requests was served");
}

/// Somebody types, after a reset; how much.
fn type_anew(console: &Console, draw: &mut Draw<'_>) -> u64 {
    console.forget();
    let typed = vec![FILLER; usize::from(draw.word()).min(console.room())];
    console.receive(&typed);
    typed.len() as u64
}

/// Input that guests have taken so far.
fn taken(console: &Console) -> u64 {
    let counters = console.counters();
    counters.iter().find(|(name, _)| *name == "read_bytes").expect("counted").1
}

/// Puts what the input says into RAM; how many requests the ring claims to have.
fn fill(memory: &Memory, size: u16, draw: &mut Draw<'_>) -> u16 {
    let place = |draw: &mut Draw<'_>| match draw.byte() % 8 {
        0 => draw.qword(),
        1 => SECOND + PIECE - u64::from(draw.byte()),
        2 => PIECE - u64::from(draw.byte()),
        3 => TABLE + u64::from(draw.word()) % 0x3000,
        near => REQUESTS + u64::from(near) * 0x400 + u64::from(draw.byte()),
    };
    for at in 0..u64::from(draw.byte()) % 24 {
        let (address, length) = (place(draw), u32::from(draw.word()));
        let length = if draw.byte() % 16 == 0 { length << 16 } else { length };
        let (flags, next) = (u16::from(draw.byte() % 8), u16::from(draw.byte() % 24));
        let descriptor = [
            &address.to_le_bytes()[..],
            &length.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        let _ = memory.write_slice(&descriptor.concat(), GuestAddress(TABLE + 16 * at));
    }
    for near in 3..8 {
        let (kind, sector) = (u32::from(draw.byte() % 16), u64::from(draw.byte()));
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), draw.bytes(8)];
        let at = GuestAddress(REQUESTS + near * 0x400);
        let _ = memory.write_slice(&header.concat(), at);
    }
    let made = u16::from(draw.byte() % 20);
    for entry in 0..made.min(size) {
        let slot = GuestAddress(AVAILABLE + 4 + 2 * u64::from(entry));
        let _ = memory.write_obj(u16::from(draw.byte() % 24), slot);
    }
    let _ = memory.write_obj(made, GuestAddress(AVAILABLE + 2));
    made
}

/// Makes each request a command of a card's driver: class, number and how many pairs of queues.
fn command(memory: &Memory, draw: &mut Draw<'_>) {
    for near in 3..8 {
        let (class, number) = (draw.byte() % 6, draw.byte() % 2);
        let pairs = u16::from(draw.byte() % 4) | u16::from(draw.flag()) << 8;
        let command = [&[class, number][..], &pairs.to_le_bytes()].concat();
        let _ = memory.write_slice(&command, GuestAddress(REQUESTS + near * 0x400));
    }
}

/// Where the read-only disk, the card and the console stand on the shelf.
const READ_ONLY: usize = 1;
const CARD: usize = 4;
const CONSOLE: usize = 5;

fn shelf_of_devices() -> Shelf {
    let image = NamedTempFile::new().expect("a file");
    image.as_file().write_all_at(&[FILLER; DISK as usize], 0).expect("room for it");
    let sizes = [MOST; 2];
    // Two opened images would be locked against each other.
    let copy = NamedTempFile::new().expect("a file");
    copy.as_file().write_all_at(&[FILLER; DISK as usize], 0).expect("room for it");
    let disk = |path: &Path, readonly| -> Arc<dyn Device> {
        let access = Access { readonly, ..Access::default() };
        let store = Disk::open(path, access).expect("an image");
        Arc::new(Disk::new(store, "disk".into(), "serial", &sizes))
    };
    let (writable, readonly) = (disk(copy.path(), false), disk(image.path(), true));
    let random = Rng::open(Path::new("/dev/zero"), "rng".into()).expect("zeros");
    let choices = Choices { deflate_on_oom: true, reporting: true };
    let balloon = Balloon::new(Arc::new(Pages), choices, 0, "balloon".into());
    let ends = [0; 2].map(|_| UnixDatagram::pair().expect("descriptors"));
    let (taps, wires): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    for end in taps.iter().chain(&wires) {
        end.set_nonblocking(true).expect("a socket");
    }
    let taps = taps.into_iter().map(|end| File::from(OwnedFd::from(end))).collect();
    let all = Offloads { csum: true, tso: true, ufo: true };
    let card = Card { mac: Mac([2, 0, 0, 0, 0, 1]), offloads: all, entries: MOST };
    let net = Net::new(taps, "net".into(), card).expect("descriptors");
    let console = Arc::new(Console::new().expect("descriptors"));
    let connected: Arc<dyn Device> = Arc::<Console>::clone(&console);
    let memory = [0, SECOND].map(|start| (GuestAddress(start), PIECE as usize));
    Shelf {
        all: vec![
            writable,
            readonly,
            Arc::new(random),
            Arc::new(balloon),
            Arc::new(net),
            connected,
        ],
        image,
        memory: Memory::from_ranges(&memory).expect("RAM"),
        wires: wires.try_into().expect("two of them"),
        console,
    }
}

fn image(shelf: &Shelf) -> Vec<u8> {
    let length = shelf.image.as_file().metadata().expect("a file").len();
    let mut content = vec![0; usize::try_from(length).expect("small")];
    shelf.image.as_file().read_exact_at(&mut content, 0).expect("all of it");
    content
}

/// The host, which takes whole pages of RAM.
struct Pages;

impl Surplus for Pages {
    fn give_back(&self, guest: u64, size: u64) -> io::Result<bool> {
        assert!(guest % PAGE == 0 && size % PAGE == 0 && size > 0, "{size} bytes at {guest:#x}");
        Ok(true)
    }
}
