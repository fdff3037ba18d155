use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Memory;
use crate::virtio::testing::*;

const SIZE: u16 = 8;
const DATA: u64 = 0x5000;
const ALL: Offloads = Offloads { csum: true, tso: true, ufo: true };
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A card whose tap is one end of a pair of sockets that keep packets apart, as a tap does.
fn scene() -> (Net, UnixDatagram, Memory) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let tap = File::from(OwnedFd::from(ours));
    (Net::new(tap, "net0".to_owned(), MAC, ALL, SIZE), theirs, memory())
}

/// Has the card serve a buffer in two pieces.
fn serve(net: &Net, memory: &Memory, queue: usize, length: u32) -> Served {
    let flags = if queue == RECEIVE { WRITE } else { 0 };
    let rest = length.saturating_sub(8);
    describe(memory, (TABLE, 0), (DATA, length.min(8)), (flags | NEXT, 1));
    describe(memory, (TABLE, 1), (DATA + 0x1000, rest), (flags, 0));
    offer(memory, 0, 1, SIZE);
    let low = |address| Some(u32::try_from(address).unwrap());
    let mut ring = Queue::new(SIZE).unwrap();
    ring.set_desc_table_address(low(TABLE), None);
    ring.set_avail_ring_address(low(AVAILABLE), None);
    ring.set_used_ring_address(low(USED), None);
    ring.set_ready(true);
    let chain = ring.iter(memory).unwrap().next().unwrap();
    net.serve(queue, 0, &Buffers::collect(memory, chain, SIZE).unwrap())
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
    net.tap = File::open("/").unwrap();
    assert!(net.source(RECEIVE).is_some() && net.source(1).is_none());

    assert_eq!(serve(&net, &memory, RECEIVE, 1526), Served::Later);

    assert!(net.source(RECEIVE).is_none());
}

#[test]
fn features_follow_the_offloads() {
    let checks = bit(VIRTIO_NET_F_CSUM) | bit(VIRTIO_NET_F_GUEST_CSUM);
    let cuts = bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6);
    let none = Offloads { csum: false, tso: true, ufo: true };

    assert_eq!(ALL.features() & (checks | cuts), checks | cuts);
    assert_eq!(none.features(), bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS));
    let only = Offloads { tso: false, ufo: false, ..ALL };
    assert_eq!(only.features() & (checks | cuts), checks);
}

#[test]
fn address_is_read_and_written_and_never_a_group_s() {
    assert_eq!(Mac::parse("02:00:00:00:00:01"), Some(MAC));
    assert_eq!(MAC.to_string(), "02:00:00:00:00:01");
    for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "01:00:00:00:00:00"]
    {
        assert_eq!(Mac::parse(wrong), None, "{wrong}");
    }
    assert_eq!(Mac::parse("02:00:00:00:00:+1"), None);
    assert_eq!(Mac::parse("00:00:00:00:00:00"), None);
    assert_eq!(Mac::local(u64::MAX).0[0], 0xfe);
    assert_eq!(Mac::local(0).to_string(), "02:00:00:00:00:00");
}
