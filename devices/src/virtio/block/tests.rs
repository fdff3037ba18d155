use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tempfile::TempDir;
use virtio_bindings::virtio_blk::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Memory;
use crate::virtio::testing::*;

const SIZE: u16 = 8;
const IMAGE: u64 = 64 << 10;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Where a request's parts are in the guest.
const HEAD: u64 = 0x5000;
const DATA: u64 = 0x6000;
const STATUS: u64 = 0x9000;

/// A disk on an image whose every sector is full of its own number.
struct Scene {
    disk: Disk,
    image: File,
    memory: Memory,
    _folder: TempDir,
}

fn image() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut file = File::create(&path).unwrap();
    for sector in 0..u8::try_from(IMAGE / SECTOR).unwrap() {
        file.write_all(&[sector; 512]).unwrap();
    }
    (folder, path)
}

fn scene(access: Access) -> Scene {
    let (folder, path) = image();
    let store = Disk::open(&path, access).unwrap();
    let disk = Disk::new(store, "_disk0".to_owned(), "serial-0123456789-and-more", &[SIZE]);
    let image = File::options().read(true).write(true).open(path).unwrap();
    Scene { disk, image, memory: memory(), _folder: folder }
}

impl Scene {
    /// Has the disk do a request: its status, and how many bytes were filled.
    fn ask(&self, kind: u32, sector: u64, data: (u32, u16)) -> (u8, u32) {
        self.ask_with(FLUSH, kind, sector, data)
    }

    fn ask_with(&self, features: u64, kind: u32, sector: u64, data: (u32, u16)) -> (u8, u32) {
        let head = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.memory.write_slice(&head, GuestAddress(HEAD)).unwrap();
        let (length, flags) = data;
        let pieces = [(HEAD, 16, 0), (DATA, length, flags), (STATUS, 1, WRITE)];
        self.chain(features, &pieces)
    }

    /// Has the disk serve a chain of these buffers: address, length, flags.
    fn chain(&self, features: u64, pieces: &[(u64, u32, u16)]) -> (u8, u32) {
        let memory = &self.memory;
        memory.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        for (index, &(address, length, flags)) in (0..).zip(pieces) {
            let next = if usize::from(index) + 1 < pieces.len() { NEXT } else { 0 };
            describe(memory, (TABLE, index), (address, length), (flags | next, index + 1));
        }
        offer(memory, 0, 1, SIZE);
        let low = |address| Some(u32::try_from(address).unwrap());
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(low(TABLE), None);
        queue.set_avail_ring_address(low(AVAILABLE), None);
        queue.set_used_ring_address(low(USED), None);
        queue.set_ready(true);
        let chain = queue.iter(memory).unwrap().next().unwrap();
        let request = Buffers::collect(memory, chain, SIZE).unwrap();
        let filled = self.disk.fulfil(features, &request);
        (memory.read_obj(GuestAddress(STATUS)).unwrap(), filled)
    }

    fn data<const N: usize>(&self) -> [u8; N] {
        let mut data = [0; N];
        self.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    fn put(&self, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(DATA)).unwrap();
    }

    fn sector(&self, sector: u64) -> [u8; 512] {
        let mut data = [0; 512];
        self.image.read_exact_at(&mut data, sector * SECTOR).unwrap();
        data
    }

    fn count(&self, name: &str) -> u64 {
        self.disk.counters().iter().find(|(of, _)| *of == name).unwrap().1
    }

    /// A range to erase, as the driver writes it.
    fn put_range(&self, sector: u64, sectors: u32, flags: u32) {
        let range =
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        self.put(&range);
    }
}

fn writable() -> Scene {
    scene(Access::default())
}

#[test]
fn sectors_are_read_and_written() {
    let scene = writable();
    assert_eq!(scene.ask(VIRTIO_BLK_T_IN, 3, (1024, WRITE)), (OK, 1025));
    assert_eq!(scene.data::<1024>()[..512], [3; 512]);
    assert_eq!(scene.data::<1024>()[512..], [4; 512]);

    scene.put(&[0x5a; 512]);
    assert_eq!(scene.ask(VIRTIO_BLK_T_OUT, 7, (512, 0)), (OK, 1));

    assert_eq!(
        [scene.sector(6), scene.sector(7), scene.sector(8)],
        [[6; 512], [0x5a; 512], [8; 512]]
    );
    assert_eq!((scene.count("read_bytes"), scene.count("write_bytes")), (1024, 512));
}

#[test]
fn buffers_of_any_shape_do_as_long_as_they_are_sectors_together() {
    let scene = writable();
    let head = [&VIRTIO_BLK_T_IN.to_le_bytes()[..], &[0; 4], &2_u64.to_le_bytes()].concat();
    scene.memory.write_slice(&head, GuestAddress(HEAD)).unwrap();
    // The head in two pieces; the data in two, of which one has the status as well.
    let pieces = [(HEAD, 5, 0), (HEAD + 5, 11, 0), (DATA, 100, WRITE), (STATUS - 412, 413, WRITE)];

    assert_eq!(scene.chain(FLUSH, &pieces), (OK, 513));

    assert_eq!(scene.data::<100>(), [2; 100]);
}

#[test]
fn what_is_not_on_the_disk_is_an_error_and_changes_nothing() {
    let scene = writable();
    let end = IMAGE / SECTOR;
    for (sector, length) in [(end, 512), (end - 1, 1024), (u64::MAX, 512), (1 << 55, 512), (0, 511)]
    {
        assert_eq!(scene.ask(VIRTIO_BLK_T_IN, sector, (length, WRITE)), (IO_ERROR, 1));
        assert_eq!(scene.ask(VIRTIO_BLK_T_OUT, sector, (length, 0)), (IO_ERROR, 1));
    }
    assert_eq!(scene.image.metadata().unwrap().len(), IMAGE);
    assert_eq!((scene.count("refused_requests"), scene.count("io_errors")), (10, 0));
}

#[test]
fn data_outside_of_the_ram_is_an_error() {
    let scene = writable();
    let head = [&VIRTIO_BLK_T_IN.to_le_bytes()[..], &[0; 12]].concat();
    scene.memory.write_slice(&head, GuestAddress(HEAD)).unwrap();
    let pieces = [(HEAD, 16, 0), (HALF - 256, 512, WRITE), (STATUS, 1, WRITE)];

    assert_eq!(scene.chain(FLUSH, &pieces), (IO_ERROR, 1));
}

#[test]
fn request_without_a_head_or_a_place_for_its_status_is_given_back() {
    let scene = writable();
    assert_eq!(scene.chain(FLUSH, &[(HEAD, 15, 0), (STATUS, 1, WRITE)]), (IO_ERROR, 1));
    assert_eq!(scene.chain(FLUSH, &[(HEAD, 16, 0)]), (0xee, 0));
    assert_eq!(scene.chain(FLUSH, &[(HEAD, 16, 0), (1 << 40, 1, WRITE)]), (0xee, 0));
    assert_eq!(scene.chain(FLUSH, &[(HEAD, 16, 0), (STATUS, 0, WRITE)]), (0xee, 0));
}

#[test]
fn image_that_has_become_shorter_is_an_error_of_the_hosts() {
    let scene = writable();
    scene.image.set_len(1024).unwrap();

    assert_eq!(scene.ask(VIRTIO_BLK_T_IN, 1, (1024, WRITE)), (IO_ERROR, 1));

    assert_eq!(scene.count("io_errors"), 1);
    assert_eq!(scene.ask(VIRTIO_BLK_T_IN, 1, (512, WRITE)), (OK, 513), "the rest is still there");
}

#[test]
fn disk_that_is_read_only_says_so_and_is_not_written() {
    let scene = scene(Access { readonly: true, ..Access::default() });
    scene.put(&[0; 512]);
    assert_eq!(scene.ask(VIRTIO_BLK_T_OUT, 1, (512, 0)), (IO_ERROR, 1));
    scene.put_range(1, 1, 0);
    assert_eq!(scene.ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, (16, 0)), (IO_ERROR, 1));

    assert_eq!(scene.sector(1), [1; 512]);
    assert_eq!(scene.ask(VIRTIO_BLK_T_IN, 1, (512, WRITE)), (OK, 513));
    let features = scene.disk.features();
    assert_eq!(features >> VIRTIO_BLK_F_RO & 1, 1);
    assert_eq!(features >> VIRTIO_BLK_F_DISCARD & 1, 0);
}

#[test]
fn flush_is_done_when_asked_for_and_after_each_write_of_a_driver_that_does_not_know_it() {
    let scene = writable();
    scene.put(&[1; 512]);
    scene.ask(VIRTIO_BLK_T_OUT, 0, (512, 0));
    assert_eq!(scene.count("flushes"), 0);
    assert_eq!(scene.ask(VIRTIO_BLK_T_FLUSH, 0, (0, 0)), (OK, 1));
    assert_eq!(scene.count("flushes"), 1);

    assert_eq!(scene.ask_with(0, VIRTIO_BLK_T_OUT, 0, (512, 0)), (OK, 1));

    assert_eq!(scene.count("flushes"), 2);
}

#[test]
fn serial_number_is_cut_at_20_bytes() {
    let scene = writable();
    assert_eq!(scene.ask(VIRTIO_BLK_T_GET_ID, 0, (20, WRITE)), (OK, 21));
    assert_eq!(&scene.data::<20>(), b"serial-0123456789-an");
    assert_eq!(scene.ask(VIRTIO_BLK_T_GET_ID, 0, (4, WRITE)), (OK, 5), "as much as there is room");
}

#[test]
fn ranges_are_filled_with_zeros_whether_or_not_their_blocks_are_given_up() {
    for flags in [0, 1] {
        let scene = writable();
        scene.put_range(8, 8, flags);

        assert_eq!(scene.ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, (16, 0)), (OK, 1));

        assert_eq!([scene.sector(7), scene.sector(8)], [[7; 512], [0; 512]]);
        assert_eq!([scene.sector(15), scene.sector(16)], [[0; 512], [16; 512]]);
        assert_eq!(scene.image.metadata().unwrap().len(), IMAGE);
    }
}

#[test]
fn range_is_discarded() {
    let scene = writable();
    scene.put_range(8, 8, 0);
    assert_eq!(scene.ask(VIRTIO_BLK_T_DISCARD, 0, (16, 0)), (OK, 1));
    assert_eq!([scene.sector(7), scene.sector(8)], [[7; 512], [0; 512]]);
}

#[test]
fn ranges_that_break_a_limit_are_refused_before_anything_is_erased() {
    let scene = writable();
    let discard = |length| scene.ask(VIRTIO_BLK_T_DISCARD, 0, (length, 0));
    assert_eq!([discard(0), discard(15), discard(16 * 33)], [(IO_ERROR, 1); 3]);
    scene.put_range(0, 1, 1);
    assert_eq!(discard(16), (UNSUPPORTED, 1), "a flag that discards do not have");
    scene.put_range(127, 2, 0);
    assert_eq!(discard(16), (IO_ERROR, 1), "past the end");
    scene.put_range(0, u32::MAX, 0);
    assert_eq!(discard(16), (IO_ERROR, 1), "longer than announced");

    // The first of two is right, the second is not.
    scene.put_range(0, 1, 0);
    scene.memory.write_slice(&u64::MAX.to_le_bytes(), GuestAddress(DATA + 16)).unwrap();
    scene.memory.write_obj(1_u64, GuestAddress(DATA + 24)).unwrap();
    assert_eq!(discard(32), (IO_ERROR, 1));

    scene.put(&[0; 16]);
    assert_eq!(scene.ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, (0, 0)), (IO_ERROR, 1));
    assert_eq!(scene.sector(1), [1; 512]);
}

#[test]
fn request_that_nobody_knows_is_unsupported() {
    let scene = writable();
    assert_eq!(scene.ask(VIRTIO_BLK_T_SCSI_CMD, 0, (512, WRITE)), (UNSUPPORTED, 1));
}

#[test]
fn configuration_is_that_of_the_image() {
    let scene = writable();
    let of = |at: usize| {
        let bytes: [u8; 4] = scene.disk.configuration()[at..at + 4].try_into().unwrap();
        u32::from_le_bytes(bytes)
    };
    assert_eq!((of(0), of(4)), (128, 0), "sectors");
    assert_eq!((of(12), of(20)), (u32::from(SIZE) - 2, 512), "segments, block size");
    assert_eq!(of(36), MOST_DISCARDED);
    assert_eq!([of(44), of(48), of(52), of(56)], [1, MOST_ZEROED, MOST_RANGES, 1]);
}

#[test]
fn image_is_one_disk_s_unless_all_only_read() {
    let (_folder, path) = image();
    let reader = Access { readonly: true, ..Access::default() };
    let first = Disk::open(&path, reader).unwrap();
    let second = Disk::open(&path, reader).unwrap();
    assert!(matches!(Disk::open(&path, Access::default()), Err(OpenError::Taken)));
    drop((first, second));

    let _writer = Disk::open(&path, Access::default()).unwrap();
    assert!(matches!(Disk::open(&path, reader), Err(OpenError::Taken)));
}

#[test]
fn qcow2_image_is_refused_unless_the_guest_is_to_have_its_bytes() {
    let (_folder, path) = image();
    File::options().write(true).open(&path).unwrap().write_all_at(b"QFI\xfb", 0).unwrap();
    let open = |format| Disk::open(&path, Access { format, ..Access::default() });

    let refused = open(Format::Unsaid).err().unwrap();
    let taken = open(Format::Raw).unwrap();

    assert!(matches!(refused, OpenError::Qcow2), "{refused}");
    assert_eq!(taken.sectors(), IMAGE / SECTOR);
}

#[test]
fn what_is_no_disk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Disk::open(path, Access { readonly: true, ..Access::default() });
    assert!(matches!(open(folder.path()), Err(OpenError::NoDisk)));
    assert!(matches!(open(Path::new("/dev/zero")), Err(OpenError::NoDisk)));
    assert!(matches!(open(&folder.path().join("none")), Err(OpenError::Open(_))));
    let short = folder.path().join("short");
    fs::write(&short, [0; 511]).unwrap();
    assert!(matches!(open(&short), Err(OpenError::Empty(511))));
}
