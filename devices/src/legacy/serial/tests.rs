//! A guest on one side, a peer on the other.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;
use crate::console::{BACKLOG, Backend, Console};

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_IDENTIFICATION: u64 = 2;
const LINE_STATUS: u64 = 5;
const DATA_READY: u8 = 1;
const RECEIVED: u8 = 1;
/// What the interrupt is, without the bits that tell of FIFOs.
const IDENTIFICATION: u8 = 0xf;
const NO_INTERRUPT: u8 = 1;
const RECEIVED_DATA: u8 = 4;

/// A port, its other side, and the guest's interrupt.
struct Scene {
    uart: Arc<Uart>,
    console: Console,
    interrupt: EventFd,
}

impl Scene {
    fn new(backend: Backend) -> Self {
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let uart = Arc::new(Uart::new(interrupt.try_clone().unwrap()).unwrap());
        let console = Console::new(backend, Arc::clone(&uart) as _).unwrap();
        Self { uart, console, interrupt }
    }

    /// A port that listens, and how to connect to it.
    fn listening() -> (Self, impl Fn() -> UnixStream) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("hotbay-serial-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let connect = move || {
            let client = UnixStream::connect_addr(&address).unwrap();
            client.set_nonblocking(true).unwrap();
            client
        };
        (Self::new(Backend::Socket(listener)), connect)
    }

    fn guest_says(&self, text: &[u8]) {
        text.iter().for_each(|byte| self.uart.write(DATA, &[*byte]));
    }

    fn register(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.uart.read(offset, &mut data);
        data[0]
    }

    fn identification(&self) -> u8 {
        self.register(INTERRUPT_IDENTIFICATION) & IDENTIFICATION
    }

    /// All that waits in the guest's FIFO.
    fn guest_hears(&self) -> Vec<u8> {
        let ready = || self.register(LINE_STATUS) & DATA_READY != 0;
        std::iter::from_fn(|| ready().then(|| self.register(DATA))).collect()
    }

    /// Serves the console until it wants nothing; fails if it never stops.
    fn settle(&mut self) {
        let poll = Epoll::new().unwrap();
        let interest = EpollEvent::new(EventSet::IN, 0);
        poll.ctl(ControlOperation::Add, self.console.as_raw_fd(), interest).unwrap();
        for _ in 0..1000 {
            if poll.wait(0, &mut [EpollEvent::default()]).unwrap() == 0 {
                return;
            }
            self.console.ready();
        }
        panic!("the console keeps the event loop busy");
    }
}

/// What a peer that does not block can read now.
fn received(peer: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    if let Err(error) = peer.read_to_end(&mut all) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    all
}

fn pipe() -> (PipeReader, File) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, File::from(OwnedFd::from(writer)))
}

#[test]
fn file_receives_what_the_guest_says() {
    let (mut reader, writer) = pipe();
    let scene = Scene::new(Backend::File(writer));
    scene.guest_says(b"hello");
    drop(scene);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn file_whose_reader_vanished_does_not_stop_the_guest() {
    let (reader, writer) = pipe();
    let mut scene = Scene::new(Backend::File(writer));
    drop(reader);
    scene.guest_says(b"nobody listens");
    scene.settle();
}

#[test]
fn null_drops_output() {
    let mut scene = Scene::new(Backend::Null);
    scene.guest_says(b"void");
    scene.settle();
    let mut owes = true;
    scene.uart.with_output(&mut |output| owes = output.owes());
    assert!(!owes);
}

#[test]
fn late_client_sees_early_output() {
    let (mut scene, connect) = Scene::listening();
    scene.guest_says(b"early ");
    let mut client = connect();
    scene.settle();
    scene.guest_says(b"late");
    assert_eq!(received(&mut client), b"early late");
}

#[test]
fn backlog_keeps_the_newest_output_only() {
    let (mut scene, connect) = Scene::listening();
    scene.guest_says(&[b'o'; 100]);
    scene.guest_says(&vec![b'n'; BACKLOG]);
    let mut client = connect();
    scene.settle();
    let mut all = received(&mut client);
    scene.settle();
    all.extend(received(&mut client));
    assert_eq!(all, vec![b'n'; BACKLOG]);
}

#[test]
fn client_that_does_not_read_does_not_stop_the_guest() {
    let (mut scene, connect) = Scene::listening();
    let mut client = connect();
    scene.settle();
    scene.guest_says(&vec![b'x'; 1 << 20]);
    scene.guest_says(b"the end");
    scene.settle();
    let mut all = Vec::new();
    while !all.ends_with(b"the end") {
        all.extend(received(&mut client));
        scene.settle();
    }
    assert!(all.len() >= BACKLOG);
}

#[test]
fn input_raises_the_interrupt_and_long_input_follows_as_the_guest_reads() {
    let (mut scene, connect) = Scene::listening();
    scene.uart.write(INTERRUPT_ENABLE, &[RECEIVED]);
    let mut client = connect();
    scene.settle();
    let typed: Vec<u8> = (0..=255).cycle().take(1000).collect();
    client.write_all(&typed).unwrap();
    scene.settle();
    assert!(scene.interrupt.read().is_ok());
    let mut heard = Vec::new();
    while heard.len() < typed.len() {
        let more = scene.guest_hears();
        assert!(!more.is_empty(), "input stopped after {} bytes", heard.len());
        heard.extend(more);
        scene.settle();
    }
    assert_eq!(heard, typed);
}

#[test]
fn interrupt_is_identified_until_the_last_byte_is_read() {
    let scene = Scene::new(Backend::Null);
    scene.uart.write(INTERRUPT_ENABLE, &[RECEIVED]);
    scene.uart.receive(b"abc");

    for byte in *b"abc" {
        assert_eq!([scene.identification(), scene.identification()], [RECEIVED_DATA; 2]);
        assert_eq!(scene.register(DATA), byte);
    }
    assert_eq!(scene.identification(), NO_INTERRUPT);
}

#[test]
fn input_whose_interrupt_is_disabled_is_not_identified() {
    let scene = Scene::new(Backend::Null);
    scene.uart.receive(b"abc");

    assert_eq!(scene.identification(), NO_INTERRUPT);
}

#[test]
fn divisor_is_not_taken_for_what_is_enabled() {
    const LINE_CONTROL: u64 = 3;
    const DIVISOR: u8 = 1 << 7;
    let scene = Scene::new(Backend::Null);
    scene.uart.receive(b"abc");
    scene.uart.write(LINE_CONTROL, &[DIVISOR]);
    scene.uart.write(INTERRUPT_ENABLE, &[RECEIVED]);

    assert_eq!(scene.identification(), NO_INTERRUPT);
}

/// What Linux does (`serial8250_rx_chars`): it reads 256 bytes at most, and again if the port says that there is more.
#[test]
fn driver_that_reads_so_much_at_a_time_hears_all() {
    const AT_MOST: usize = 256;
    // So that it ends in the middle of what the FIFO holds.
    const FEW: usize = 30;
    let (mut scene, connect) = Scene::listening();
    let text: Vec<u8> = (0..=u8::MAX).cycle().take(4 * AT_MOST + 30).collect();
    scene.uart.write(INTERRUPT_ENABLE, &[RECEIVED]);
    let (first, rest) = text.split_at(FEW);
    let mut client = connect();
    client.write_all(first).unwrap();
    scene.settle();
    client.write_all(rest).unwrap();

    let mut heard = Vec::new();
    while scene.interrupt.read().is_ok() {
        while scene.identification() != NO_INTERRUPT {
            for _ in 0..AT_MOST {
                if scene.register(LINE_STATUS) & DATA_READY == 0 {
                    break;
                }
                heard.push(scene.register(DATA));
                // The host is as fast as the guest.
                scene.settle();
            }
        }
    }
    assert_eq!(heard.len(), text.len());
    assert_eq!(heard, text);
}

#[test]
fn last_words_of_a_client_that_hung_up_arrive() {
    let (mut scene, connect) = Scene::listening();
    let mut client = connect();
    client.write_all(&[b'y'; 100]).unwrap();
    drop(client);
    scene.settle();
    let mut heard = scene.guest_hears();
    scene.settle();
    heard.extend(scene.guest_hears());
    assert_eq!(heard, [b'y'; 100]);
    scene.settle();
    assert!(!scene.console.listens());
}

#[test]
fn output_while_nobody_is_connected_waits_for_the_next_client() {
    let (mut scene, connect) = Scene::listening();
    drop(connect());
    scene.settle();
    scene.guest_says(b"for the next");
    let mut next = connect();
    scene.settle();
    assert_eq!(received(&mut next), b"for the next");
}

#[test]
fn client_that_only_stopped_typing_still_sees_output() {
    let (mut scene, connect) = Scene::listening();
    let mut client = connect();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    scene.settle();
    scene.guest_says(b"still here");
    scene.settle();
    assert_eq!(received(&mut client), b"still here");
}

#[test]
fn newcomer_takes_over() {
    let (mut scene, connect) = Scene::listening();
    let mut old = connect();
    scene.settle();
    let mut new = connect();
    scene.settle();
    scene.guest_says(b"hi");
    new.write_all(b"yo").unwrap();
    scene.settle();
    assert_eq!((received(&mut new), scene.guest_hears()), (b"hi".to_vec(), b"yo".to_vec()));
    assert_eq!(old.read(&mut [0]).unwrap(), 0, "the old client sees the end");
}

#[test]
fn pty_carries_both_ways_without_echo() {
    let mut scene = Scene::new(Backend::Pty);
    let path = scene.console.pty().unwrap().to_owned();
    scene.guest_says(b"login: ");
    scene.settle();
    let mut peer = File::options().read(true).write(true).open(path).unwrap();
    let mut prompt = [0; 7];
    peer.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"login: ");
    peer.write_all(b"root\n").unwrap();
    drop(peer);
    scene.settle();
    assert_eq!(scene.guest_hears(), b"root\n");
}

#[test]
fn standard_input_that_is_a_plain_file_is_read_to_its_end() {
    let mut scene = Scene::new(Backend::Null);
    let text: Vec<u8> = (0..200).collect();
    scene.console.receive_from(plain_file(&text)).unwrap();
    scene.settle();
    let mut heard = Vec::new();
    while scene.console.listens() {
        heard.extend(scene.guest_hears());
        scene.settle();
    }
    heard.extend(scene.guest_hears());
    assert_eq!(heard, text);
}

#[test]
fn reset_forgets_input_and_keeps_the_connection() {
    let (mut scene, connect) = Scene::listening();
    let mut client = connect();
    client.write_all(b"old").unwrap();
    scene.settle();
    scene.uart.reset().unwrap();
    assert_eq!(scene.guest_hears(), b"");
    scene.guest_says(b"again");
    assert_eq!(received(&mut client), b"again");
}

#[test]
fn wide_accesses_touch_one_register_a_byte_and_never_more() {
    let scene = Scene::new(Backend::Null);
    scene.uart.write(7, &[0x5a, 0xff]);
    scene.uart.write(u64::MAX, &[1, 2]);
    let mut data = [0; 4];
    scene.uart.read(6, &mut data);
    assert_eq!(data[1..], [0x5a, 0xff, 0xff]);
}

/// A nameless file with `text` in it, at its beginning.
fn plain_file(text: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!("hotbay-serial-{}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}
