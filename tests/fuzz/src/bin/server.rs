//! A hostile vfio-user server: answers cut short or too long, of other requests, not asked for, none; regions, interrupts and
//! capabilities of any kind; descriptors with what wants none; reads and writes of any memory.
//!
//! Held to: it is refused, or its function can be used and given back without harm. Nobody waits for long, no RAM but what is lent
//! is served, and no descriptor stays.

#![no_main]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use devices::memory::{Backing, Window, Windows};
use devices::pci::Function;
use devices::pci::bar::Apertures;
use devices::pci::config::{BAR0, CAPABILITIES, COMMAND, STATUS};
use devices::space::Space;
use devices::vfio::bars::GuestSpaces;
use devices::vfio::function::Opened;
use devices::vfio::interrupts::Choices;
use devices::vfio::user::{Connection, Server};
use fuzz::draw::Draw;
use fuzz::kernel::{Kernel, Said};
use fuzz::machine::{Machine, Pin};
use libfuzzer_sys::fuzz_target;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// How long a server is waited for; one run has few requests that are.
const PATIENCE: Duration = Duration::from_millis(20);
/// More than all of them together, on a machine that has other things to do.
const LONGEST: Duration = Duration::from_secs(5);
const RAM: usize = 1 << 20;
const LOW: u64 = 0xc000_0000;
/// Where BARs are put, one after the other.
const BAR_SHIFT: u32 = 24;

const HEADER: usize = 16;
const REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;
/// Number of the server's own requests, and its commands.
const OWN: u16 = 0xd3a;
const DMA_READ: u16 = 11;
/// Its one capability.
const MSIX: usize = 0x40;

fuzz_target!(|input: &[u8]| {
    static PIPES: Once = Once::new();
    PIPES.call_once(|| {
        // SAFETY: a signal's number, and what every program of Rust's does with it; this one starts in another way.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    });
    let (memory, before, begun) = (ram(), descriptors(), Instant::now());
    play(input, memory);
    assert!(begun.elapsed() < LONGEST, "it was waited for");
    let after = descriptors();
    if after != before {
        // The machine's eventfds are made once in a process.
        play(input, memory);
        assert_eq!(descriptors(), after, "descriptors of a server that is gone");
    }
});

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("our own descriptors").count()
}

/// The same RAM for all runs, and the file of the server's regions.
fn ram() -> &'static GuestMemoryMmap<()> {
    static MEMORY: OnceLock<GuestMemoryMmap<()>> = OnceLock::new();
    bar_file();
    MEMORY.get_or_init(|| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(RAM as u64).expect("a size");
        let range = (GuestAddress(0), RAM, Some(FileOffset::new(file, 0)));
        GuestMemoryMmap::from_ranges_with_files([range]).expect("memory")
    })
}

fn bar_file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"bar".as_ptr(), libc::MFD_ALLOW_SEALING) };
        assert!(fd >= 0, "a file of memory");
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(0x1_0000).expect("a size");
        file
    })
}

/// The first byte says how many are the guest's; the others are the server's.
fn play(input: &[u8], memory: &GuestMemoryMmap<()>) {
    let mut draw = Draw::new(input);
    let length = usize::from(draw.byte());
    let (guest, script) = (draw.bytes(length), draw.rest().to_vec());
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let (connection, carrier) =
        Connection::meet(ours, memory.clone(), PATIENCE).expect("an eventfd");
    let threads =
        [thread::spawn(move || carrier.run()), thread::spawn(move || serve(theirs, &script))];
    drive(&connection, Draw::new(guest));
    connection.end();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// What the VMM does with it, and what its guest does.
fn drive(connection: &Arc<Connection>, mut draw: Draw<'_>) {
    let Ok((server, lent)) = Server::greet(connection) else { return };
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor"));
    let Ok(opened) = Opened::served(server, lent, "/run/u.sock", bell) else { return };
    let machine = Machine::new(Kernel::new(Said::default()), opened.abilities().vectors(), vec![]);
    let memory = Arc::<Space>::default();
    let apertures = Apertures { io: 0..0, mem32: LOW..0xe000_0000, mem64: 0..0 };
    let spaces = GuestSpaces {
        memory: Arc::clone(&memory),
        io: Arc::default(),
        windows: Arc::new(Panes),
        apertures,
    };
    let line = opened.pin().map(|_| Box::new(Pin::new(&machine)) as Box<_>);
    let function = opened.finish(spaces, (Box::new(machine), line, Choices::default()), &[]);
    for bar in 0..6_u16 {
        let address = LOW + (u64::from(bar) << BAR_SHIFT);
        function.write_config(BAR0 + bar * 4, &(address as u32).to_le_bytes());
    }
    function.write_config(COMMAND, &[6, 0]);
    function.write_config(MSIX as u16 + 2, &[0, 0x80]);
    while !draw.is_empty() {
        let (what, register, value) = (draw.byte(), draw.word(), draw.dword().to_le_bytes());
        let data = &value[..[1, 2, 4][usize::from(what >> 4) % 3]];
        let at = LOW + (u64::from(what >> 4 & 7) << BAR_SHIFT) + u64::from(register);
        let mut back = [0; 4];
        match what % 5 {
            0 => function.write_config(register % 256 & !3, data),
            1 => function.read_config(register % 256 & !3, &mut back[..data.len()]),
            2 => drop(memory.write(at, data)),
            3 => drop(memory.read(at, &mut back[..data.len()])),
            _ => drop(function.interrupts().fire(register % 64)),
        }
    }
}

/// Windows onto what it lets us map; nobody looks through them.
struct Panes;

struct Pane;

impl Window for Pane {}

impl Windows for Panes {
    fn open(&self, _guest: u64, backing: Backing) -> io::Result<Box<dyn Window>> {
        assert!(backing.size.is_multiple_of(4096) && backing.size > 0, "whole pages");
        Ok(Box::new(Pane))
    }
}

/// The server's side, until it or its client hangs up.
fn serve(mut socket: UnixStream, script: &[u8]) {
    let mut draw = Draw::new(script);
    let config = config(&mut draw);
    // A request of its own, of memory that it has not.
    let mut stolen = false;
    while let Some((header, body)) = receive(&mut socket) {
        if word(&header, 8) & REPLY != 0 {
            assert!(!stolen || word(&header, 8) & ERROR != 0, "memory that nobody has lent");
            stolen = false;
            continue;
        }
        let how = draw.byte();
        let mut answer = message(&header, REPLY, &honest(&header, &body, &config, &mut draw));
        match how % 16 {
            8 => answer[0] ^= draw.byte(),
            9 => answer[2] ^= draw.byte(),
            10 => answer = failure(&header, draw.dword()),
            11 => {
                answer.truncate(HEADER + usize::from(draw.byte()));
                resize(&mut answer);
            }
            12 => {
                answer.extend(draw.bytes(16));
                resize(&mut answer);
            }
            13 => answer = draw.bytes(32).to_vec(),
            14 if !stolen => {
                let request = steal(&mut draw, &mut stolen);
                answer = [request, answer].concat();
            }
            15 => answer.clear(),
            _ => {}
        }
        let files = if how & 0x80 != 0 { usize::from(draw.byte() % 10) + 1 } else { 0 };
        let region = word(&header, 0) >> 16 == 5 && how & 0x40 == 0;
        if send(&mut socket, &answer, files.max(region.into())).is_err() {
            return;
        }
    }
}

fn receive(socket: &mut UnixStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut header = vec![0; HEADER];
    socket.read_exact(&mut header).ok()?;
    let mut body = vec![0; usize::try_from(word(&header, 4)).ok()? - HEADER];
    socket.read_exact(&mut body).ok()?;
    Some((header, body))
}

fn send(socket: &mut UnixStream, bytes: &[u8], files: usize) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let files = vec![bar_file().as_raw_fd(); files];
    let sent = socket.send_with_fds(&[bytes], &files)?;
    socket.write_all(&bytes[sent..])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u32::from_ne_bytes(*word))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// An answer to what has this header.
fn message(header: &[u8], flags: u32, body: &[u8]) -> Vec<u8> {
    let mut message = [&header[..4], &words(&[0, flags, 0]), body].concat();
    resize(&mut message);
    message
}

fn resize(message: &mut [u8]) {
    let size = message.len() as u32;
    message[4..8].copy_from_slice(&size.to_ne_bytes());
}

fn failure(header: &[u8], errno: u32) -> Vec<u8> {
    let mut message = message(header, REPLY | ERROR, &[]);
    message[12..].copy_from_slice(&errno.to_ne_bytes());
    message
}

/// A request for RAM; `stolen` says that it is not to be answered.
fn steal(draw: &mut Draw<'_>, stolen: &mut bool) -> Vec<u8> {
    let command = DMA_READ + u16::from(draw.flag());
    let (address, count) = (u64::from(draw.dword()) << (draw.byte() % 40), draw.word());
    let data = if draw.flag() { vec![0x5a; usize::from(count)] } else { Vec::new() };
    let lent = address.checked_add(count.into()).is_some_and(|end| end <= RAM as u64);
    let right = data.is_empty() == (command == DMA_READ) || count == 0;
    *stolen = !lent || !right;
    let access = [address, count.into()].map(u64::to_ne_bytes).concat();
    let header = [&OWN.to_ne_bytes()[..], &command.to_ne_bytes(), &[0; 12]].concat();
    message(&header, 0, &[access, data].concat())
}

/// Configuration space with one capability in good order, but for what is drawn.
fn config(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut space = vec![0; 256];
    space[usize::from(STATUS)] = 0x10;
    space[usize::from(CAPABILITIES)] = MSIX as u8;
    for bar in space[usize::from(BAR0)..].chunks_mut(4).take(6) {
        bar[0] = draw.byte() & 0xf;
    }
    space[0x3d] = draw.byte() % 3;
    space[MSIX] = 0x11;
    space[MSIX + 2] = draw.byte() % 64;
    space[MSIX + 4..MSIX + 6].copy_from_slice(&draw.word().to_le_bytes());
    space[MSIX + 8..MSIX + 10].copy_from_slice(&draw.word().to_le_bytes());
    space
}

/// What a server answers that means well, of a function of which everything is drawn.
fn honest(header: &[u8], body: &[u8], config: &[u8], draw: &mut Draw<'_>) -> Vec<u8> {
    match word(header, 0) >> 16 {
        1 => {
            let most = [0, 1, 7, 64, u32::MAX][usize::from(draw.byte() % 5)];
            let text = format!("{{\"max_msg_fds\":{most},\"max_data_xfer_size\":{most}}}\0");
            [&[0, 0, 1, 0], text.as_bytes()].concat()
        }
        3 => body.to_vec(),
        4 => words(&[16, 3, 9, 5]),
        5 => region(word(body, 0), word(body, 8), draw),
        7 => words(&[16, draw.byte().into(), word(body, 8), u32::from(draw.byte()) * 8]),
        9 => {
            let (at, count) = (word(body, 0) as usize, word(body, 12) as usize);
            let piece = config.iter().skip(at).copied().chain(std::iter::repeat(0)).take(count);
            body.iter().copied().chain(piece).collect()
        }
        10 => body[..16].to_vec(),
        _ => Vec::new(),
    }
}

fn region(argsz: u32, index: u32, draw: &mut Draw<'_>) -> Vec<u8> {
    const MAPPABLE: u32 = 4;
    const WITH_AREAS: u32 = 8;
    if index == 7 {
        return words(&[32, 3, index, 0, 256, 0, 0, 0]);
    }
    let (flags, size) = (u32::from(draw.byte() % 16), 1_u32 << (draw.byte() % 32));
    let areas = if flags & WITH_AREAS != 0 { draw.byte() % 4 } else { 0 };
    let list = flags & (MAPPABLE | WITH_AREAS) == MAPPABLE | WITH_AREAS;
    let bytes = if list { 48 + u32::from(areas) * 16 } else { 32 };
    let offset = u32::from(draw.byte() % 4) << 10;
    let mut all = vec![bytes, flags, index, 32, size, 0, offset, 0];
    if list && argsz >= bytes {
        all.extend([1 | 1 << 16, 0, areas.into(), 0]);
        for _ in 0..areas {
            all.extend([u32::from(draw.byte()) << 10, 0, u32::from(draw.byte()) << 10, 0]);
        }
    }
    words(&all)
}
