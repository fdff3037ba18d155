//! A guest on one side, whoever types and reads on the other.

use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::console::{Backend, Console as Peer};
use crate::virtio::Memory;
use crate::virtio::testing::*;

const TRANSMIT: usize = 1;
const DATA: u64 = 0x5000;

/// Has `console` serve one buffer of queue `queue`.
fn serve(console: &Console, memory: &Memory, queue: usize, buffer: (u64, u32)) -> Served {
    let flags = if queue == RECEIVE { WRITE } else { 0 };
    describe(memory, (TABLE, 0), buffer, (flags, 0));
    offer(memory, 0, 1, 8);
    let low = |address| Some(u32::try_from(address).unwrap());
    let mut ring = Queue::new(8).unwrap();
    ring.set_desc_table_address(low(TABLE), None);
    ring.set_avail_ring_address(low(AVAILABLE), None);
    ring.set_ready(true);
    let chain = ring.iter(memory).unwrap().next().unwrap();
    console.serve(queue, 0, &Buffers::collect(memory, chain, 8).unwrap())
}

/// The guest gives a buffer of this length; what it hears.
fn hears(console: &Console, length: u32) -> Option<Vec<u8>> {
    let memory = memory();
    let Served::Filled(count) = serve(console, &memory, RECEIVE, (DATA, length)) else {
        return None;
    };
    let mut bytes = vec![0; usize::try_from(count).unwrap()];
    memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    Some(bytes)
}

fn says(console: &Console, text: &[u8]) {
    let memory = memory();
    memory.write_slice(text, GuestAddress(DATA)).unwrap();
    let length = u32::try_from(text.len()).unwrap();
    assert_eq!(serve(console, &memory, TRANSMIT, (DATA, length)), Served::Filled(0));
}

/// Whether the worker of the receive queue would wake up.
fn has_arrived(console: &Console) -> bool {
    let source = console.source(RECEIVE).unwrap();
    crate::virtio::poll::any([&source, &always()]).unwrap()[0]
}

/// A descriptor that is always readable, so that nobody waits.
fn always() -> File {
    File::open("/dev/zero").unwrap()
}

fn file() -> (PipeReader, File) {
    let (reader, writer) = pipe().unwrap();
    (reader, File::from(OwnedFd::from(writer)))
}

#[test]
fn output_of_any_length_arrives_in_order_and_the_longest_is_refused() {
    let console = Arc::new(Console::new().unwrap());
    let (mut reader, writer) = file();
    let peer = Peer::new(Backend::File(writer), console.clone()).unwrap();
    let text: Vec<u8> = (0..=u8::MAX).cycle().take(2 * PIECE + 7).collect();

    says(&console, b"hello ");
    says(&console, b"");
    says(&console, &text);
    let too_long = u32::try_from(MOST).unwrap() + 1;
    assert_eq!(serve(&console, &memory(), TRANSMIT, (0, too_long)), Served::Filled(0));
    assert_eq!(serve(&console, &memory(), TRANSMIT, (HALF, 16)), Served::Filled(0));

    drop((peer, console));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, [b"hello ", &text[..]].concat());
}

#[test]
fn input_waits_for_a_buffer_and_wakes_the_worker_as_long_as_there_is_some() {
    let console = Console::new().unwrap();
    assert_eq!((hears(&console, 16), has_arrived(&console)), (None, false));

    console.receive(b"who");
    console.receive(b"ami\n");

    assert!(has_arrived(&console) && console.drained.read().is_err());
    assert_eq!(hears(&console, 4), Some(b"whoa".to_vec()));
    assert!(has_arrived(&console) && console.drained.read().is_err());
    assert_eq!(hears(&console, 16), Some(b"mi\n".to_vec()));
    assert!(!has_arrived(&console) && console.drained.read().is_ok());
    assert_eq!(hears(&console, 16), None);
}

#[test]
fn buffer_of_no_bytes_or_no_ram_loses_no_input() {
    let console = Console::new().unwrap();
    console.receive(b"x");

    assert_eq!(hears(&console, 0), Some(Vec::new()));
    assert_eq!(serve(&console, &memory(), RECEIVE, (HALF, 16)), Served::Filled(0));

    assert_eq!(hears(&console, 16), Some(b"x".to_vec()));
    assert_eq!(console.counters()[2], ("refused_requests", 2));
}

#[test]
fn more_is_typed_than_the_guest_takes_and_none_is_lost() {
    let console = Arc::new(Console::new().unwrap());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let text: Vec<u8> = (0..=u8::MAX).cycle().take(3 * INPUT).collect();
    let mut peer = Peer::new(Backend::Null, console.clone()).unwrap();
    theirs.set_nonblocking(true).unwrap();
    peer.receive_from(File::from(OwnedFd::from(theirs))).unwrap();
    (&ours).write_all(&text).unwrap();

    let mut heard = Vec::new();
    for _ in 0..2 * text.len() {
        peer.ready();
        assert!(console.input().bytes.len() <= INPUT);
        // A guest that takes less than is typed.
        if console.room() == 0 || heard.len() + INPUT > text.len() {
            heard.extend(hears(&console, 1000).unwrap_or_default());
        }
    }
    assert_eq!(heard, text);
}

#[test]
fn reset_forgets_input_and_asks_for_more() {
    let console = Console::new().unwrap();
    console.receive(b"old");

    console.forget();
    console.forget();

    assert!(!has_arrived(&console) && console.drained.read().is_ok());
    console.receive(b"new");
    assert_eq!(hears(&console, 16), Some(b"new".to_vec()));
}
