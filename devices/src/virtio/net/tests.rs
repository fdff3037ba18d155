use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Memory;
use crate::virtio::testing::*;

const SIZE: u16 = 8;
const RECEIVE: usize = 0;
const DATA: u64 = 0x5000;
const ALL: Offloads = Offloads { csum: true, tso: true, ufo: true };
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A card whose tap is one end of a pair of sockets that keep packets apart, as a tap does.
fn scene() -> (Net, UnixDatagram, Memory) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let tap = File::from(OwnedFd::from(ours));
    (card(vec![tap]), theirs, memory())
}

fn card(taps: Vec<File>) -> Net {
    let card = Card { mac: MAC, offloads: ALL, entries: SIZE };
    Net::new(taps, "net0".to_owned(), card).unwrap()
}

/// The queue that drivers of tests have.
fn ring() -> Queue {
    let low = |address| Some(u32::try_from(address).unwrap());
    let mut ring = Queue::new(SIZE).unwrap();
    ring.set_desc_table_address(low(TABLE), None);
    ring.set_avail_ring_address(low(AVAILABLE), None);
    ring.set_used_ring_address(low(USED), None);
    ring.set_ready(true);
    ring
}

/// Has the card serve a buffer in two pieces.
fn serve(net: &Net, memory: &Memory, queue: usize, length: u32) -> Served {
    let flags = if queue.is_multiple_of(2) { WRITE } else { 0 };
    let rest = length.saturating_sub(8);
    describe(memory, (TABLE, 0), (DATA, length.min(8)), (flags | NEXT, 1));
    describe(memory, (TABLE, 1), (DATA + 0x1000, rest), (flags, 0));
    offer(memory, 0, 1, SIZE);
    let mut ring = ring();
    let chain = ring.iter(memory).unwrap().next().unwrap();
    net.serve(queue, net.features(), &Buffers::collect(memory, chain, SIZE).unwrap())
}

/// A queue to receive from, with buffers of these lengths.
fn buffers(memory: &Memory, lengths: &[u32]) -> Queue {
    for (index, length) in (0..).zip(lengths) {
        let address = DATA + 0x1000 * u64::from(index);
        describe(memory, (TABLE, index), (address, *length), (WRITE, 0));
        offer(memory, index, index + 1, SIZE);
    }
    ring()
}

/// Has the card fill what is in the room, and what comes from the queue.
fn fill<'m>(net: &Net, (memory, ring): (&'m Memory, &mut Queue), room: &mut Room<'m>) -> Served {
    room.gather((memory, ring), LONG, &mut Vec::new()).unwrap();
    net.fill(RECEIVE, net.features(), room)
}

/// What is in the first buffers, of 100 bytes each.
fn received(memory: &Memory, length: usize) -> Vec<u8> {
    let mut found = vec![0; length];
    for (index, part) in (0..).zip(found.chunks_mut(100)) {
        memory.read_slice(part, GuestAddress(DATA + 0x1000 * index)).unwrap();
    }
    found
}

fn count(net: &Net, name: &str) -> u64 {
    net.counters().into_iter().find(|(counter, _)| *counter == name).unwrap().1
}

/// A header of zeros and a packet of these bytes.
fn packet(length: usize) -> Vec<u8> {
    let bytes = (0..length).map(|index| u8::try_from(index % 251).unwrap());
    std::iter::repeat_n(0, HEADER.into()).chain(bytes).collect()
}

#[test]
fn packet_reaches_the_guest_with_the_number_of_its_buffers() {
    let (net, host, memory) = scene();
    assert_eq!(serve(&net, &memory, RECEIVE, 1526), Served::Later);
    host.send(&packet(100)).unwrap();

    assert_eq!(serve(&net, &memory, RECEIVE, 1526), Served::Filled(112));

    let mut found = [0; 112];
    memory.read_slice(&mut found[..8], GuestAddress(DATA)).unwrap();
    memory.read_slice(&mut found[8..], GuestAddress(DATA + 0x1000)).unwrap();
    let mut expected = packet(100);
    expected[10] = 1;
    assert_eq!(found[..], expected[..]);
    assert_eq!((count(&net, "rx_frames"), count(&net, "rx_bytes")), (1, 100));
}

#[test]
fn packet_reaches_the_host_as_the_guest_wrote_it() {
    let (net, host, memory) = scene();
    let sent = packet(60);
    memory.write_slice(&sent[..8], GuestAddress(DATA)).unwrap();
    memory.write_slice(&sent[8..], GuestAddress(DATA + 0x1000)).unwrap();

    assert_eq!(serve(&net, &memory, 1, 72), Served::Filled(0));

    let mut found = [0; 128];
    let length = host.recv(&mut found).unwrap();
    assert_eq!(found[..length], sent[..]);
    assert_eq!((count(&net, "tx_frames"), count(&net, "tx_bytes")), (1, 60));
}

#[test]
fn buffer_too_short_for_any_packet_is_given_back_and_counted() {
    let (net, host, memory) = scene();
    host.send(&packet(100)).unwrap();

    assert_eq!(serve(&net, &memory, RECEIVE, 25), Served::Filled(0));
    assert_eq!(serve(&net, &memory, 1, 25), Served::Filled(0));

    assert_eq!((count(&net, "rx_dropped"), count(&net, "tx_dropped")), (1, 1));
    assert_eq!(count(&net, "rx_frames"), 0);
    assert_eq!(serve(&net, &memory, RECEIVE, 1526), Served::Filled(112), "the packet is there yet");
}

#[test]
fn packet_that_does_not_fit_is_dropped_and_the_next_one_takes_the_buffer() {
    let (net, host, memory) = scene();
    host.send(&packet(101)).unwrap();
    host.send(&packet(100)).unwrap();

    assert_eq!(serve(&net, &memory, RECEIVE, 112), Served::Filled(112));

    assert_eq!((count(&net, "rx_dropped"), count(&net, "rx_frames")), (1, 1));
    host.send(&packet(101)).unwrap();
    assert_eq!(serve(&net, &memory, RECEIVE, 112), Served::Later, "and nothing else comes");
}

#[test]
fn packet_that_the_host_does_not_take_is_dropped() {
    let (net, host, memory) = scene();
    drop(host);

    assert_eq!(serve(&net, &memory, 1, 72), Served::Filled(0));

    assert_eq!((count(&net, "tx_dropped"), count(&net, "tx_frames")), (1, 0));
}

#[test]
fn tap_that_has_failed_is_not_waited_for() {
    let (mut net, _host, memory) = scene();
    // Not readable as a packet: a directory.
    net.pairs = vec![Pair::new(File::open("/").unwrap(), true).unwrap()];
    assert!(net.source(RECEIVE).is_some() && net.source(1).is_none());

    assert_eq!(serve(&net, &memory, RECEIVE, 1526), Served::Later);

    assert!(net.source(RECEIVE).is_none());
}

#[test]
fn packet_for_a_driver_that_puts_it_together_is_in_as_many_buffers_as_it_takes() {
    let ((net, host, memory), mut room) = (scene(), Room::default());
    let mut ring = buffers(&memory, &[100; 4]);
    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::Later);
    host.send(&packet(228)).unwrap();

    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::Filled(240));

    let mut expected = packet(228);
    expected[10] = 3;
    assert_eq!(received(&memory, 240), expected);
    assert_eq!(room.take(240), [(0, 100), (1, 100), (2, 40)]);
    host.send(&packet(20)).unwrap();
    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::Filled(32));
    assert_eq!((count(&net, "rx_frames"), count(&net, "rx_bytes")), (2, 248));
}

#[test]
fn end_of_a_packet_waits_until_the_driver_has_room_for_it() {
    let ((net, host, memory), mut room) = (scene(), Room::default());
    let mut ring = buffers(&memory, &[100; 2]);
    host.send(&packet(228)).unwrap();

    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::More(240));
    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::More(240));
    buffers(&memory, &[100; 3]);
    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::Filled(240));

    let mut expected = packet(228);
    expected[10] = 3;
    assert_eq!(received(&memory, 240), expected);
    assert_eq!((count(&net, "rx_frames"), count(&net, "rx_dropped")), (1, 0));
}

#[test]
fn packet_that_will_never_fit_is_dropped_and_the_next_one_is_not() {
    let ((net, host, memory), mut room) = (scene(), Room::default());
    let mut ring = buffers(&memory, &[100; 8]);
    host.send(&packet(789)).unwrap();
    host.send(&packet(788)).unwrap();

    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::Filled(800));
    assert_eq!((count(&net, "rx_frames"), count(&net, "rx_dropped")), (1, 1));
}

#[test]
fn packet_of_the_driver_before_is_not_for_the_next() {
    let ((net, host, memory), mut room) = (scene(), Room::default());
    host.send(&packet(228)).unwrap();
    let mut ring = buffers(&memory, &[100; 2]);
    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::More(240));

    net.begin(RECEIVE, 0);

    let (mut ring, mut room) = (buffers(&memory, &[100; 4]), Room::default());
    assert_eq!(fill(&net, (&memory, &mut ring), &mut room), Served::Later);
}

#[test]
fn buffers_are_merged_for_drivers_that_agree_to_it_and_long_packets_take_more() {
    let (net, ..) = scene();
    let merges = bit(VIRTIO_NET_F_MRG_RXBUF);

    assert_eq!(net.merges(RECEIVE, net.features()), Some(LONG));
    assert_eq!(net.merges(RECEIVE, merges), Some(SHORT));
    assert_eq!((net.merges(RECEIVE, 0), net.merges(1, merges)), (None, None));
}

/// A card of two pairs, whose taps are readable and take no orders, with the control queue's features.
fn several() -> (Net, UnixDatagram, u64) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let taps = [File::open("/dev/null").unwrap(), File::from(OwnedFd::from(ours))];
    let features = bit(VIRTIO_NET_F_MQ) | bit(VIRTIO_NET_F_CTRL_VQ);
    (card(taps.into()), theirs, features)
}

/// Has the card do a command; what it answers, 0xee if nothing.
fn command(net: &Net, features: u64, command: &[u8], room: u32) -> (Served, u8) {
    let memory = memory();
    let length = u32::try_from(command.len()).unwrap();
    memory.write_slice(command, GuestAddress(DATA)).unwrap();
    memory.write_obj(0xee_u8, GuestAddress(DATA + 0x1000)).unwrap();
    describe(&memory, (TABLE, 0), (DATA, length), (NEXT, 1));
    describe(&memory, (TABLE, 1), (DATA + 0x1000, room), (WRITE, 0));
    offer(&memory, 0, 1, SIZE);
    let mut ring = ring();
    let chain = ring.iter(&memory).unwrap().next().unwrap();
    let served = net.serve(4, features, &Buffers::collect(&memory, chain, SIZE).unwrap());
    (served, memory.read_obj(GuestAddress(DATA + 0x1000)).unwrap())
}

#[test]
fn queues_are_pairs_and_the_last_one_the_drivers_commands() {
    let (one, ..) = scene();
    let (net, _host, several) = several();

    assert_eq!((one.queues(), one.features() & several), (&[SIZE; 2][..], 0));
    assert_eq!(
        (net.queues(), net.features() & several),
        (&[SIZE, SIZE, SIZE, SIZE, 64][..], several)
    );
    let roles = |features| (0..5).map(|queue| net.role(queue, features)).collect::<Vec<_>>();
    let pair = |number| [Some(Role::Receive(number)), Some(Role::Send(number))];
    let commands = [Some(Role::Control)];
    assert_eq!(roles(several), [&pair(0)[..], &pair(1), &commands].concat());
    // A driver that knows commands, but not of several pairs, has them in its third queue.
    let only = roles(bit(VIRTIO_NET_F_CTRL_VQ));
    assert_eq!(only, [&pair(0)[..], &commands, &[None, None]].concat());
    assert_eq!(roles(0), [&pair(0)[..], &[None; 3]].concat());
    assert_eq!(net.configuration()[8..], [2, 0]);
}

#[test]
fn commands_that_make_no_sense_or_ask_for_too_much_are_refused_and_counted() {
    let (net, _host, several) = several();
    let refused = (Served::Filled(1), 1);

    assert_eq!(command(&net, several, &[4, 0, 1, 0], 1), (Served::Filled(1), 0));
    for wrong in [
        &[][..],
        &[4],
        &[4, 0, 1],
        &[4, 0, 0, 0],
        &[4, 0, 3, 0],
        &[4, 0, 0, 1],
        &[4, 1, 1, 0],
        &[0, 0, 1, 0],
    ] {
        assert_eq!(command(&net, several, wrong, 1), refused, "{wrong:?}");
    }
    // What is no tap has no queues to use.
    assert_eq!(command(&net, several, &[4, 0, 2, 0], 1), refused);
    assert_eq!(command(&net, bit(VIRTIO_NET_F_CTRL_VQ), &[4, 0, 1, 0], 1).0, Served::Filled(0));
    assert_eq!(command(&net, several, &[4, 0, 0, 0], 0), (Served::Filled(0), 0xee));
    assert_eq!(count(&net, "refused_commands"), 10);
}

#[test]
fn queue_that_the_tap_does_not_use_is_left_alone_until_it_does() {
    let (mut net, host, features) = several();
    let memory = memory();
    host.send(&packet(100)).unwrap();
    let mut ring = buffers(&memory, &[1526]);
    let mut room = Room::default();
    room.gather((&memory, &mut ring), LONG, &mut Vec::new()).unwrap();

    assert_eq!(serve(&net, &memory, 2, 1526), Served::Later);
    assert_eq!(net.fill(2, features, &room), Served::Later);
    let unused = net.source(2).unwrap().as_raw_fd();

    let tap = net.pairs.pop().unwrap().into_tap();
    let number = tap.as_raw_fd();
    net.pairs.push(Pair::new(tap, true).unwrap());

    assert!(number != unused && net.source(2).unwrap().as_raw_fd() == number);
    assert_eq!(net.fill(2, features, &room), Served::Filled(112));
}
