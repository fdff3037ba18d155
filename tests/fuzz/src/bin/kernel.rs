//! Kernel images: the headers of bzImage and ELF, which a client names and nobody vouches for.
//!
//! Held to: the image is refused with a reason, or boots into what the documents say: an entry inside
//! RAM, with the command line where the kernel looks for it.

#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};
use vmm::arch::x86_64::registers::Entry;
use vmm::boot::{Payload, load};
use vmm::memory::ram::Memory;

const RAM: usize = 16 << 20;
const WORDS: &str = "console=ttyS0";
const COMMAND_LINE: u64 = 0x2_0000;

struct Scene {
    memory: Memory,
    kernel: File,
}

thread_local! {
    static SCENE: RefCell<Scene> = RefCell::new(Scene {
        memory: Memory::from_ranges(&[(GuestAddress(0), RAM)]).expect("some RAM"),
        kernel: tempfile::tempfile_in("/dev/shm").expect("a file"),
    });
}

fuzz_target!(|input: &[u8]| SCENE.with_borrow(|scene| {
    scene.kernel.set_len(0).expect("an empty file");
    scene.kernel.write_all_at(input, 0).expect("a kernel");
    let kernel = format!("/proc/self/fd/{}", scene.kernel.as_raw_fd()).into();
    let payload = Payload { kernel, initramfs: None, cmdline: WORDS.to_owned() };
    match load(&scene.memory, &payload, Some(0xe_0000)) {
        Ok(entry) => assert_loaded(&scene.memory, &entry),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}));

fn assert_loaded(memory: &Memory, entry: &Entry) {
    let start = match *entry {
        Entry::Long { start, .. } | Entry::Pvh { start, .. } => start,
    };
    assert!(usize::try_from(start).is_ok_and(|start| start < RAM), "an entry at {start:#x}");
    let mut words = [0; WORDS.len() + 1];
    memory.read_slice(&mut words, GuestAddress(COMMAND_LINE)).expect("RAM");
    assert_eq!(&words[..WORDS.len()], WORDS.as_bytes(), "the command line");
}
