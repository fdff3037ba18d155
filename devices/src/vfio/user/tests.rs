//! Servers that answer, answer wrongly, or do not: each a script behind a socket pair.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vfio_bindings::bindings::vfio::{VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD};
use vm_memory::{Bytes, FileOffset, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::connection::meet;
use super::ram::{Memory, check_shared};
use super::wire::{Command, DMA_READ, DMA_WRITE, HEADER, Header, MOST_DATA, bytes, region_access};
use super::*;
use crate::irq::testing::NoVectors;
use crate::memory::{Backing, Window, Windows};
use crate::pci::Function;
use crate::pci::bar::{Apertures, Kind};
use crate::vfio::bars::GuestSpaces;
use crate::vfio::function::{Opened, Passthrough};
use crate::vfio::health::{Condition, Health, News};
use crate::vfio::interrupts::Choices;
use crate::vfio::resets::{Method, methods, steps};
use crate::vfio::sys::device::SET_IRQS;
use crate::vfio::sys::file::DeviceFile;
use crate::vfio::sys::socket::{Socket, wait};

mod descriptors;

/// How long those may take who answer: more than any machine needs.
const AGES: Duration = Duration::from_secs(60);
/// How long those are waited for who do not.
const MOMENT: Duration = Duration::from_millis(200);
/// Patience with a server that is slow, but not so slow on any machine.
const WHILE: Duration = Duration::from_millis(800);
const RAM: u64 = 1 << 20;

/// A message as a server gets it.
struct Got {
    header: Header,
    body: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The server's end.
struct Peer {
    socket: Socket,
    idle: EventFd,
}

impl Peer {
    /// The next message; nothing when we have hung up.
    fn next(&self) -> Option<Got> {
        let mut descriptors = Vec::new();
        let head = self.exactly(HEADER, &mut descriptors)?;
        let header = Header::parse(head.first_chunk().unwrap()).unwrap();
        let body = self.exactly(header.size - HEADER, &mut descriptors)?;
        Some(Got { header, body, descriptors })
    }

    fn exactly(&self, size: usize, descriptors: &mut Vec<OwnedFd>) -> Option<Vec<u8>> {
        let (mut data, mut filled) = (vec![0; size], 0);
        while filled < size {
            wait(&self.idle, &self.socket, (true, false)).unwrap();
            let (count, came) = self.socket.receive(&mut data[filled..], 64).ok()?;
            if count == 0 {
                return None;
            }
            filled += count;
            descriptors.extend(came);
        }
        Some(data)
    }

    fn send(&self, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            wait(&self.idle, &self.socket, (false, true)).unwrap();
            match self.socket.send(&bytes[sent..], &[]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // We have hung up.
                Err(_) => return,
            }
        }
    }
}

/// A connection, and a thread that plays the server until it has hung up or we have.
struct Scene {
    connection: Arc<Connection>,
    threads: Vec<JoinHandle<()>>,
}

impl Scene {
    fn new(patience: Duration, play: impl FnOnce(Peer) + Send + 'static) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::new(ours).unwrap();
        let (connection, carrier) = meet(socket, memory(), patience).unwrap();
        let peer = Peer { socket: Socket::new(theirs).unwrap(), idle: EventFd::new(0).unwrap() };
        let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(body).unwrap()
        };
        let carry = start("carrier", Box::new(move || carrier.run()));
        let threads = vec![carry, start("server", Box::new(move || play(peer)))];
        Self { connection, threads }
    }

    /// With a server that gives each message what `answer` says, header and all.
    fn answering(mut answer: impl FnMut(&Got) -> Vec<u8> + Send + 'static) -> Self {
        Self::new(AGES, move |peer| {
            while let Some(got) = peer.next() {
                peer.send(&answer(&got));
            }
        })
    }

    fn server(&self) -> Server {
        Server::greet(&self.connection).unwrap().0
    }

    /// What comes of a reset.
    fn reset(&self) -> io::Result<()> {
        let asked =
            connection::Question { command: Command::Reset, body: &[], most: 0, descriptors: &[] };
        self.connection.ask(asked, self.connection.limit()).map(drop)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.connection.end();
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn memory() -> Memory {
    let file = tempfile::tempfile().unwrap();
    file.set_len(RAM).unwrap();
    let size = usize::try_from(RAM).unwrap();
    let range = (GuestAddress(0), size, Some(FileOffset::new(file, 0)));
    Memory::from_ranges_with_files([range]).unwrap()
}

/// What a server with these capabilities answers to anything.
fn agreeable(got: &Got, capabilities: &str) -> Vec<u8> {
    let version = [&[0, 0, 1, 0], capabilities.as_bytes(), &[0]].concat();
    let body = if got.header.command == Command::Version as u16 { &version[..] } else { &[] };
    got.header.reply(body.len()).message(body)
}

#[test]
fn server_says_what_it_takes_and_gets_the_ram() {
    let (heard, hears) = channel();
    let scene = Scene::answering(move |got| {
        let from = got.descriptors.iter().map(|fd| File::from(fd.try_clone().unwrap()));
        let sizes = from.map(|file| file.metadata().unwrap().len()).collect::<Vec<_>>();
        heard.send((got.header.command, got.body.clone(), sizes)).unwrap();
        agreeable(got, r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":512}}"#)
    });

    let (server, lent) = Server::greet(&scene.connection).unwrap();
    assert_eq!((server.most_descriptors, server.most_data), (16, 512));
    drop(lent);

    let (version, map, unmap) = (next(&hears), next(&hears), next(&hears));
    assert_eq!((version.0, &version.1[..4]), (1, &[0, 0, 1, 0][..]));
    assert_eq!(version.1.last(), Some(&0));
    let size = RAM.to_ne_bytes();
    assert_eq!(map.0, 2);
    assert_eq!(map.1, [&bytes(&[32, 3])[..], &[0; 16], &size].concat());
    assert_eq!(map.2, [RAM], "its file came with it");
    assert_eq!((unmap.0, unmap.1), (3, [&bytes(&[24, 0])[..], &[0; 8], &size].concat()));
}

fn next<T>(hears: &Receiver<T>) -> T {
    hears.recv_timeout(AGES).unwrap()
}

#[test]
fn server_that_says_nothing_of_itself_takes_what_the_protocol_says() {
    let scene = Scene::answering(|got| agreeable(got, "{}"));

    let server = scene.server();

    assert_eq!((server.most_descriptors, server.most_data), (1, MOST_DATA));
}

#[test]
fn other_versions_are_refused() {
    let scene = Scene::answering(|got| got.header.reply(4).message(&[1, 0, 0, 0]));

    let refused = Server::greet(&scene.connection).unwrap_err();

    assert!(matches!(refused, ServerError::Greet(_)), "{refused}");
}

#[test]
fn private_ram_is_not_lent() {
    let size = usize::try_from(RAM).unwrap();
    let private = Memory::from_ranges(&[(GuestAddress(0), size)]).unwrap();

    assert!(check_shared(&private).unwrap_err().to_string().contains("shared=on"));
    assert!(check_shared(&memory()).is_ok());
}

#[test]
fn refusal_is_the_caller_s_and_the_connection_stands() {
    let mut first = true;
    let scene = Scene::answering(move |got| match std::mem::take(&mut first) {
        true => got.header.refusal(libc::ENOSPC).message(&[]),
        false => got.header.reply(0).message(&[]),
    });

    assert_eq!(scene.reset().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert!(scene.reset().is_ok());
}

#[test]
fn answer_that_does_not_come_loses_the_connection_for_all_and_is_told() {
    let scene = Scene::new(MOMENT, |peer| while peer.next().is_some() {});
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let health = Arc::new(Health::new(bell));
    scene.connection.tell(&health);

    let late = scene.reset().unwrap_err();
    let begun = Instant::now();
    let at_once = scene.reset().unwrap_err();

    assert!(begun.elapsed() < MOMENT, "nobody is asked any more");
    let why = "its vfio-user server: it has not answered DEVICE_RESET within 200ms";
    assert_eq!(health.take_news(), [News::AccessFailed(why.to_owned())]);
    assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(at_once.to_string(), late.to_string());
}

#[test]
fn server_that_goes_while_it_is_asked_or_is_not_is_noticed() {
    let asked = Scene::new(AGES, |peer| drop(peer.next()));
    assert_eq!(asked.reset().unwrap_err().to_string(), "it has closed the connection");

    let idle = Scene::new(AGES, drop);
    let bell = Arc::new(EventFd::new(0).unwrap());
    let health = Arc::new(Health::new(Arc::clone(&bell)));
    idle.connection.tell(&health);
    // Blocks until it rings.
    bell.read().unwrap();
    let failure = health.condition().failure.unwrap();
    assert!(failure.contains("closed the connection"), "{failure}");
}

#[test]
fn what_the_protocol_does_not_allow_loses_the_connection() {
    type Spoil = fn(&Got) -> Vec<u8>;
    let scripts: [(&str, Spoil); 5] = [
        ("what it was not asked", |got| Header { id: 99, ..got.header }.reply(0).message(&[])),
        ("what it was not asked", |got| Header { command: 9, ..got.header }.reply(0).message(&[])),
        ("too long", |got| got.header.reply(64).message(&[0; 64])),
        ("no message", |_| vec![0xff; 32]),
        ("no message", |_| vec![0; 16]),
    ];
    for (expected, script) in scripts {
        let scene = Scene::answering(script);

        let error = scene.reset().unwrap_err();

        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn second_answer_loses_the_connection() {
    let scene = Scene::answering(|got| got.header.reply(0).message(&[]).repeat(2));
    let bell = Arc::new(EventFd::new(0).unwrap());
    scene.connection.tell(&Arc::new(Health::new(Arc::clone(&bell))));

    // The first is an answer, unless the second has come before it was looked at.
    let _ = scene.reset();
    bell.read().unwrap();

    assert!(scene.reset().unwrap_err().to_string().contains("what it was not asked"));
}

#[test]
fn read_that_is_answered_with_another_s_data_is_not_believed() {
    let scene = Scene::answering(|got| match got.header.command {
        9 => {
            let body = [&region_access(4, 0, 4)[..], &[1, 2, 3, 4]].concat();
            got.header.reply(body.len()).message(&body)
        }
        _ => agreeable(got, "{}"),
    });
    let remote = Remote::new(scene.server());

    let mut data = [0; 4];
    remote.read_at(4, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
    let error = remote.read_at(8, &mut data).unwrap_err();

    assert!(error.to_string().contains("something else"), "{error}");
    assert!(scene.reset().is_err());
}

#[test]
fn block_of_2048_vectors_goes_in_as_many_messages_as_it_needs() {
    let (heard, hears) = channel();
    let scene = Scene::answering(move |got| {
        if got.header.command == Command::SetIrqs as u16 {
            let words: Vec<u32> = wire::words(&got.body).collect();
            heard.send((words[3], words[4], got.descriptors.len())).unwrap();
        }
        agreeable(got, r#"{"max_msg_fds":16}"#)
    });
    let remote = Remote::new(scene.server());
    let event = EventFd::new(0).unwrap();
    let fd = event.as_raw_fd().cast_unsigned();
    let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;

    // An index without an enable bit, which would be asked for.
    let set = [&[0, flags, 0, 0, 2048][..], &[fd; 2048]].concat();
    remote.call(SET_IRQS, &mut set.clone()).unwrap();
    let messages: Vec<_> = hears.try_iter().collect();
    assert_eq!(messages.len(), 2048 / 16);
    assert!(messages.iter().all(|(_, count, fds)| (*count, *fds) == (16, 16)));
    let starts: BTreeSet<u32> = messages.iter().map(|(start, ..)| *start).collect();
    assert!(starts.into_iter().eq((0..2048).step_by(16)));

    let mut off = [0, flags, 0, 5, 2, u32::MAX, u32::MAX];
    remote.call(SET_IRQS, &mut off).unwrap();
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), [(5, 2, 0)]);
}

#[test]
fn server_reaches_ram_that_it_has_and_no_other() {
    let (heard, hears) = channel();
    let scene = Scene::new(AGES, move |peer| {
        for capabilities in ["{}", ""] {
            let got = peer.next().unwrap();
            peer.send(&agreeable(&got, capabilities));
        }
        let access =
            |address: u64, count: u64| [address.to_ne_bytes(), count.to_ne_bytes()].concat();
        let ask = |command: u16, body: &[u8]| {
            let header = Header { command, ..Header::command(7, Command::Reset, body.len()) };
            peer.send(&header.message(body));
            let got = peer.next().unwrap();
            (got.header.kind(), got.body)
        };
        let most = u64::try_from(MOST_DATA).unwrap();
        heard.send(ask(DMA_WRITE, &[access(0x100, 4), vec![1, 2, 3, 4]].concat())).unwrap();
        heard.send(ask(DMA_READ, &access(0x102, 2))).unwrap();
        heard.send(ask(DMA_READ, &access(0, most))).unwrap();
        for (command, body) in [
            (DMA_READ, access(RAM - 1, 2)),
            (DMA_READ, access(u64::MAX, 2)),
            (DMA_READ, access(0, most + 1)),
            (DMA_READ, access(0, u64::MAX)),
            (DMA_READ, vec![0; 15]),
            (DMA_WRITE, access(0, 4)),
            (DMA_WRITE, [access(RAM - 2, 4), vec![9; 4]].concat()),
            (12345, access(0, 0)),
        ] {
            heard.send(ask(command, &body)).unwrap();
        }
    });
    let (_server, _lent) = Server::greet(&scene.connection).unwrap();

    assert_eq!(next(&hears).0, wire::Kind::Reply(Ok(())));
    assert_eq!(next(&hears).1[16..], [3, 4]);
    assert_eq!(next(&hears).1.len(), 16 + MOST_DATA);
    let refused: Vec<_> = (0..8).map(|_| next(&hears)).collect();
    let errors = refused.iter().filter(|(kind, _)| matches!(kind, wire::Kind::Reply(Err(_))));
    assert_eq!(errors.count(), 8, "{refused:?}");
}

#[test]
fn ram_that_is_not_lent_any_more_is_not_served() {
    let ram = ram::Ram::new(memory());
    let body = [0_u64, 4].map(u64::to_ne_bytes).concat();

    assert_eq!(ram.serve(DMA_READ, &body), Err(libc::EFAULT));
    let written = memory().write_slice(&[1], GuestAddress(RAM - 1));
    assert!(written.is_ok(), "it is RAM all the same");
}

/// A server of a function that has only configuration space, and can be reset.
fn plain_function(got: &Got) -> Vec<u8> {
    let asked: Vec<u32> = wire::words(&got.body).collect();
    let body = match got.header.command {
        4 => bytes(&[16, 3, 9, 5]),
        5 => {
            let size = if asked[2] == 7 { 256 } else { 0 };
            bytes(&[32, 3, asked[2], 0, size, 0, 0, 0])
        }
        7 => bytes(&[16, 1, asked[2], 0]),
        9 => [&got.body[..], &vec![0x5a; usize::try_from(asked[3]).unwrap()]].concat(),
        10 => got.body[..16].to_vec(),
        _ => return agreeable(got, "{}"),
    };
    got.header.reply(body.len()).message(&body)
}

/// The function of a server, as a guest has it.
fn function(scene: &Scene) -> Arc<Passthrough> {
    let (server, lent) = Server::greet(&scene.connection).unwrap();
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let opened = Opened::served(server, lent, "/run/u.sock", bell).unwrap();
    let spaces = GuestSpaces {
        memory: Arc::default(),
        io: Arc::default(),
        windows: Arc::new(NoWindows),
        apertures: Apertures { io: 0..0, mem32: 0..0, mem64: 0..0 },
    };
    Arc::new(opened.finish(spaces, (Box::new(NoVectors), None, Choices::default()), &[]))
}

/// There is no BAR to map.
struct NoWindows;

impl Windows for NoWindows {
    fn open(&self, _guest: u64, _backing: Backing) -> io::Result<Box<dyn Window>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A register that is the device's own: behind the header, in no capability.
const OWN: u16 = 0x80;

#[test]
fn function_of_a_server_answers_and_is_reset_as_any_other() {
    let scene = Scene::answering(plain_function);
    let function = function(&scene);

    let mut read = [0; 4];
    function.read_config(OWN, &mut read);
    assert_eq!(read, [0x5a; 4]);
    assert_eq!(methods(&[&function]), [Method::Alone("vfio-user".to_owned())]);
    for step in steps(&[Arc::clone(&function)]) {
        step.quiesce().unwrap();
        step.reset().unwrap();
    }

    let fine = Condition { failure: None, last_reset: Some(Ok(())) };
    assert_eq!(function.health().condition(), fine);
}

#[test]
fn reset_of_a_function_whose_server_is_lost_fails_and_it_stays_broken() {
    let scene = Scene::answering(|got| match got.header.command {
        // What it should never say.
        13 => vec![0xff; 16],
        _ => plain_function(got),
    });
    let function = function(&scene);

    for _ in 0..2 {
        for step in steps(&[Arc::clone(&function)]) {
            assert!(step.reset().is_err());
        }
        let Condition { failure, last_reset } = function.health().condition();
        assert!(failure.is_some_and(|why| why.contains("no message")));
        assert!(last_reset.is_some_and(|last| last.is_err()));
    }
    let mut read = [0; 4];
    function.read_config(OWN, &mut read);
    assert_eq!(read, [0xff; 4]);
    function.write_config(OWN, &[0; 4]);
}

#[test]
fn function_says_how_much_room_it_needs_before_it_is_finished() {
    let scene = Scene::answering(|got| match (got.header.command, wire::words(&got.body).nth(2)) {
        (5, Some(0)) => got.header.reply(32).message(&bytes(&[32, 3, 0, 0, 0x1001, 1, 0, 0])),
        _ => plain_function(got),
    });
    let (server, lent) = Server::greet(&scene.connection).unwrap();
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let opened = Opened::served(server, lent, "/run/u.sock", bell).unwrap();

    // A BAR decodes a power of two, here 8 GiB; its register, 0x5a..., says which kind it is.
    assert_eq!(opened.needs(), [(Kind::Memory32 { prefetchable: true }, 2 << 32)]);
}

#[test]
fn regions_and_answers_that_make_no_sense_make_no_function() {
    type Spoil = fn(&Got) -> Option<Vec<u32>>;
    let scripts: [(&str, Spoil); 4] = [
        ("no PCI function", |got| (got.header.command == 4).then(|| vec![16, 0, 9, 5])),
        ("something else", |got| (got.header.command == 4).then(|| vec![16, 3])),
        ("something else", |got| (got.header.command == 5).then(|| vec![32, 3, 99, 0, 0, 0, 0, 0])),
        ("bytes", |got| {
            let size = [0, 1 << 9];
            (got.header.command == 5).then(|| [&[32, 3, 0, 0][..], &size, &[0, 0]].concat())
        }),
    ];
    for (expected, script) in scripts {
        let scene = Scene::answering(move |got| match script(got) {
            Some(words) => got.header.reply(words.len() * 4).message(&bytes(&words)),
            None => plain_function(got),
        });
        let (server, lent) = Server::greet(&scene.connection).unwrap();
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());

        let refused = Opened::served(server, lent, "/run/u.sock", bell).err().unwrap();

        assert!(refused.to_string().contains(expected), "{expected}: {refused}");
    }
}

#[test]
fn server_that_is_slow_again_and_again_is_not_waited_for_again_and_again() {
    const SLOW: Duration = Duration::from_millis(60);
    // Each answer comes in time: one byte of what is read.
    let scene = Scene::new(WHILE, |peer| {
        let mut pace = Duration::ZERO;
        while let Some(got) = peer.next() {
            thread::sleep(pace);
            match got.header.command {
                9 => {
                    let body = [&got.body[..], &[0]].concat();
                    peer.send(&got.header.reply(body.len()).message(&body));
                    pace = SLOW;
                }
                _ => peer.send(&agreeable(&got, r#"{"max_data_xfer_size":1}"#)),
            }
        }
    });
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    scene.connection.tell(&Arc::new(Health::new(bell)));
    let remote = Remote::new(scene.server());
    let begun = Instant::now();

    let error = remote.read_at(0, &mut [0; 256]).unwrap_err();

    assert!(error.to_string().contains("too slow: REGION_READ"), "{error}");
    assert!(begun.elapsed() < SLOW * 128, "one by one they would have taken long");
}

#[test]
fn device_that_takes_long_to_open_step_by_step_is_given_up() {
    let scene = Scene::new(WHILE, |peer| {
        while let Some(got) = peer.next() {
            thread::sleep(WHILE / 8);
            peer.send(&got.header.reply(0).message(&[]));
        }
    });
    let steps = (0..100).take_while(|_| scene.reset().is_ok()).count();

    assert!((1..40).contains(&steps), "{steps}");
    assert!(scene.reset().unwrap_err().to_string().contains("too slow"));
}
