use super::memory_map::{Kind, map};
use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn memory(size: u64) -> Memory {
    let pieces = crate::memory::ram::pieces(size).into_iter();
    let pieces = pieces.map(|(base, size)| (GuestAddress(base), usize::try_from(size).unwrap()));
    Memory::from_ranges(&pieces.collect::<Vec<_>>()).unwrap()
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// A bzImage of nothing but a header: protocol 2.15, 64-bit entry, unpacks to
/// `init_size` bytes at 16 MiB.
fn bzimage(init_size: u32) -> Vec<u8> {
    let mut image = vec![0; 2048];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &(16 * MIB).to_le_bytes());
    put(0x260, &init_size.to_le_bytes());
    image
}

fn payload(kernel: &Path, initramfs: Option<&Path>) -> Payload {
    let cmdline = "console=ttyS0".to_owned();
    Payload { kernel: kernel.to_owned(), initramfs: initramfs.map(Path::to_owned), cmdline }
}

fn message(memory: &Memory, payload: &Payload) -> String {
    load(memory, payload, None).unwrap_err().to_string()
}

#[test]
fn memory_map_leaves_out_the_firmwares_part_and_the_hole() {
    let ram = |start, size| (start, size, Kind::Ram);
    let reserved = |start, size| (start, size, Kind::Reserved);

    let map = map(&memory(5 * GIB)).into_iter().map(|p| (p.start, p.size, p.kind));

    assert_eq!(
        map.collect::<Vec<_>>(),
        [
            ram(0, 0x9_fc00),
            reserved(0x9_fc00, 0x6_0400),
            ram(MIB, 3 * GIB - MIB),
            reserved(0xe000_0000, 16 * MIB),
            ram(4 * GIB, 2 * GIB),
        ]
    );
}

#[test]
fn bzimage_gets_its_initramfs_at_the_top_and_its_command_line() {
    let memory = memory(64 * MIB);
    let kernel = file(&bzimage(0x100_0000));
    let initramfs = file(&[7; 5000]);

    let entry = load(&memory, &payload(kernel.path(), Some(initramfs.path())), Some(0xe_0000));

    assert_eq!(entry.unwrap(), Entry::Long { start: 0x10_0200, zero_page: 0x7000 });
    let long = |at| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    let placed = 64 * MIB - 8192;
    assert_eq!(u64::from(long(0x7000 + 0x218)), placed);
    assert_eq!(long(0x7000 + 0x21c), 5000);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(placed + 4999)).unwrap(), 7);
    assert_eq!(long(0x7000 + 0x70), 0xe_0000);
    let mut line = [0; 14];
    memory.read_slice(&mut line, GuestAddress(u64::from(long(0x7000 + 0x228)))).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
}

#[test]
fn kernel_that_unpacks_past_the_memory_is_refused() {
    let kernel = file(&bzimage(60 << 20));

    let message = message(&memory(64 * MIB), &payload(kernel.path(), None));

    assert!(message.ends_with("needs 76 MiB, there are 64 MiB below 3 GiB"), "{message}");
}

#[test]
fn initramfs_that_would_lie_over_the_kernel_is_refused() {
    let kernel = file(&bzimage(40 << 20));
    let initramfs = file(&vec![0; 9 << 20]);

    let message = message(&memory(64 * MIB), &payload(kernel.path(), Some(initramfs.path())));

    assert!(message.ends_with("needs 65 MiB, there are 64 MiB below 3 GiB"), "{message}");
}

#[test]
fn what_is_no_kernel_is_named() {
    let memory = memory(64 * MIB);
    for content in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF", &[0; 4096]] {
        let kernel = file(content);
        let message = message(&memory, &payload(kernel.path(), None));
        assert!(message.contains("is not a kernel that can boot here"), "{message}");
    }
    let missing = message(&memory, &payload(Path::new("/none/vmlinuz"), None));
    assert_eq!(missing, "cannot read kernel /none/vmlinuz");
    let folder = message(&memory, &payload(Path::new("/"), None));
    assert_eq!(folder, "cannot read kernel /");
}

#[test]
fn overlong_command_line_is_refused() {
    let kernel = file(&bzimage(0x100_0000));
    let cmdline = "x".repeat(2048);
    let payload = Payload { cmdline, ..payload(kernel.path(), None) };

    let message = message(&memory(64 * MIB), &payload);

    assert_eq!(message, "the kernel command line is not 0 to 2047 bytes without NUL");
}

#[test]
fn reset_vector_pulls_the_reset_line() {
    let memory = memory(64 * MIB);
    let kernel = file(&bzimage(0x100_0000));

    load(&memory, &payload(kernel.path(), None), None).unwrap();

    let mut code = [0; 7];
    memory.read_slice(&mut code, GuestAddress(0xf_fff0)).unwrap();
    // mov al, 0xfe; out 0x64, al; hlt; jmp back to the hlt
    assert_eq!(code, [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd]);
}

/// An ELF file of two segments and a PVH note; the second segment ends at `end`.
fn elf(end: u64) -> Vec<u8> {
    let mut image = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(24, &(16 * MIB).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &3_u16.to_le_bytes());
    let mut segment = |index: usize, kind: u32, [offset, start, in_file, in_memory]: [u64; 4]| {
        let at = 64 + 56 * index;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &start.to_le_bytes());
        put(at + 32, &in_file.to_le_bytes());
        put(at + 40, &in_memory.to_le_bytes());
    };
    segment(0, 1, [256, 16 * MIB, 64, 64]);
    segment(1, 1, [320, 20 * MIB, 64, end - 20 * MIB]);
    segment(2, 4, [384, 0, 20, 20]);
    put(384, b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x34\x12\0\x01");
    image
}

#[test]
fn elf_kernel_is_entered_at_its_pvh_note_with_a_start_info() {
    let memory = memory(64 * MIB);
    let kernel = file(&elf(24 * MIB));
    let initramfs = file(&[7; 5000]);

    let entry = load(&memory, &payload(kernel.path(), Some(initramfs.path())), Some(0xe_0000));

    assert_eq!(entry.unwrap(), Entry::Pvh { start: 0x100_1234, start_info: 0x6000 });
    let word = |at| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    assert_eq!([word(0x6000), word(0x6004), word(0x600c)], [0x336e_c578, 1, 1]);
    assert_eq!([word(0x6010), word(0x6018), word(0x6020)], [0x6040, 0x2_0000, 0xe_0000]);
    assert_eq!([u64::from(word(0x6040)), u64::from(word(0x6048))], [64 * MIB - 8192, 5000]);
    // The third of the memory map's four entries: RAM from 1 MiB.
    assert_eq!([word(0x6030), word(0x6080 + 48), word(0x6080 + 64)], [4, 0x10_0000, 1]);
}

#[test]
fn elf_kernel_that_ends_past_the_memory_is_refused() {
    let kernel = file(&elf(70 * MIB));

    let message = message(&memory(64 * MIB), &payload(kernel.path(), None));

    assert!(message.ends_with("needs 70 MiB, there are 64 MiB below 3 GiB"), "{message}");
}

#[test]
fn elf_kernel_with_an_entry_outside_of_its_segments_is_refused() {
    let mut image = elf(24 * MIB);
    image[400..404].copy_from_slice(&0x180_0000_u32.to_le_bytes());
    let kernel = file(&image);

    let message = message(&memory(64 * MIB), &payload(kernel.path(), None));

    assert!(message.ends_with("its PVH entry 0x1800000 lies outside of its segments"), "{message}");
}
