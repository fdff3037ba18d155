use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use imago::FormatCreateBuilder;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::virtio::Memory;
use crate::virtio::block::{Disk, Format, OpenError, Store};
use crate::virtio::testing::memory;

const SIZE: u64 = 1 << 20;
const QCOW2: Access = Access { readonly: false, direct: false, format: Format::Qcow2 };

/// An empty image of [`SIZE`] bytes, on that backing file if one is named.
fn image(backing: Option<&str>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let options = StorageOpenOptions::new().write(true);
    let file = imago::file::File::from_open_file(file, options).unwrap();
    let builder = Qcow2::<imago::file::File>::create_builder(file).size(SIZE);
    match backing {
        Some(backing) => builder.backing(backing.to_owned(), "raw".to_owned()).create().unwrap(),
        None => builder.create().unwrap(),
    }
    (folder, path)
}

fn put(store: &Store, memory: &Memory, at: u64, byte: u8, length: usize) {
    memory.write_slice(&vec![byte; length], GuestAddress(0)).unwrap();
    let slices = [memory.get_slice(GuestAddress(0), length).unwrap()];
    store.write(at, &slices).unwrap();
}

/// What is there, in two pieces.
fn get(store: &Store, memory: &Memory, at: u64, length: usize) -> Vec<u8> {
    let pieces = [(0, 100), (0x1000, length - 100)];
    let slices = pieces.map(|(at, size)| memory.get_slice(GuestAddress(at), size).unwrap());
    store.read(at, &slices).unwrap();
    let mut bytes = vec![1; length];
    memory.read_slice(&mut bytes[..100], GuestAddress(0)).unwrap();
    memory.read_slice(&mut bytes[100..], GuestAddress(0x1000)).unwrap();
    bytes
}

#[test]
fn what_was_written_and_flushed_is_there_for_who_opens_it_next() {
    let ((_folder, path), memory) = (image(None), memory());
    let store = Disk::open(&path, QCOW2).unwrap();
    assert_eq!(store.sectors(), SIZE / 512);
    assert_eq!(get(&store, &memory, 512, 1024), [0; 1024]);

    put(&store, &memory, 65_536 - 512, 7, 1024);
    store.flush().unwrap();

    // As it is on the medium, while the one that wrote it still has it.
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).unwrap();
    let other = Disk::open(&copy, QCOW2).unwrap();
    assert_eq!(get(&other, &memory, 65_536 - 512, 1024), [7; 1024]);
    assert_eq!(get(&other, &memory, 65_536 + 512, 1024), [0; 1024]);
}

#[test]
fn what_was_not_flushed_is_there_when_the_disk_has_gone_in_order() {
    let ((_folder, path), memory) = (image(None), memory());
    let store = Disk::open(&path, QCOW2).unwrap();
    put(&store, &memory, 0, 5, 512);
    drop(store);

    let store = Disk::open(&path, Access { readonly: true, ..QCOW2 }).unwrap();
    assert_eq!(get(&store, &memory, 0, 512), [5; 512]);
    let slices = [memory.get_slice(GuestAddress(0), 512).unwrap()];
    assert!(store.write(0, &slices).is_err(), "it was opened to be read");
}

#[test]
fn zeros_and_discards_are_those_of_the_disk() {
    let ((_folder, path), memory) = (image(None), memory());
    let store = Disk::open(&path, QCOW2).unwrap();
    put(&store, &memory, 0, 9, 4096);

    store.zero(512, 1024, false).unwrap();
    assert_eq!(get(&store, &memory, 0, 512), [9; 512]);
    assert_eq!(get(&store, &memory, 512, 1024), [0; 1024]);
    assert_eq!(get(&store, &memory, 1536, 512), [9; 512]);
    store.zero(0, SIZE, true).unwrap();
    assert_eq!(get(&store, &memory, 0, 4096), [0; 4096]);
    store.discard(0, SIZE).unwrap();
    put(&store, &memory, 0, 3, 512);
    assert_eq!(get(&store, &memory, 0, 512), [3; 512]);
}

#[test]
fn image_that_wants_another_file_is_refused_and_the_other_is_not_opened() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    secret.as_file().write_all_at(&[0x42; 4096], 0).unwrap();
    let (_folder, path) = image(Some(secret.path().to_str().unwrap()));

    let refused = Disk::open(&path, QCOW2).err().unwrap();

    assert!(matches!(refused, OpenError::Qcow2(_)), "{refused}");
    assert!(refused.to_string().contains("qemu-img convert"), "{refused}");
}

#[test]
fn image_is_what_its_user_says_and_not_what_its_guest_writes() {
    let (_folder, path) = image(None);

    let unsaid = Disk::open(&path, Access::default()).err().unwrap();
    let raw = Disk::open(&path, Access { format: Format::Raw, ..Access::default() }).unwrap();

    assert!(matches!(unsaid, OpenError::Unsaid), "{unsaid}");
    assert_eq!(raw.sectors(), fs::metadata(&path).unwrap().len() / 512);
    drop(raw);
    let plain = path.with_extension("raw");
    fs::write(&plain, [0; 4096]).unwrap();
    assert!(matches!(Disk::open(&plain, QCOW2), Err(OpenError::Qcow2(_))));
    assert!(Disk::open(&plain, Access::default()).is_ok());
}

/// A linear congruential generator: the same images each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

#[test]
fn broken_images_are_refused_or_fail_and_nothing_panics() {
    let ((_folder, path), memory) = (image(None), memory());
    let store = Disk::open(&path, QCOW2).unwrap();
    put(&store, &memory, 0, 1, 4096);
    drop(store);
    let whole = fs::read(&path).unwrap();
    let (mut numbers, mut opened) = (Numbers(1), 0);
    let broken = path.with_extension("broken");

    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=numbers.next(3) {
            // The header and the beginnings of its tables.
            let at = [0, 65_536, 131_072, 196_608][numbers.next(4)] + numbers.next(112);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = [0, 1, 0x7f, 0x80, 0xff][numbers.next(5)];
            }
        }
        fs::write(&broken, &bytes).unwrap();
        let diff: Vec<_> = (0..bytes.len()).filter(|i| bytes[*i] != whole[*i]).map(|i| (i, bytes[i])).collect();
        eprintln!("{diff:x?}");
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let Ok(store) = Disk::open(&broken, QCOW2) else { return false };
            let slices = [memory.get_slice(GuestAddress(0), 4096).unwrap()];
            // Whether they succeed is the image's.
            eprintln!("read {:?}", store.read(0, &slices)); eprintln!("write {:?}", store.write(SIZE - 4096, &slices));
            eprintln!("zero {:?}", store.zero(0, 8192, true)); eprintln!("flush {:?}", store.flush());
            true
        }));
        opened += usize::from(tried.expect("an image made it panic"));
    }
    assert!(opened > 20, "only {opened} were opened");
}
