//! The control queue (virtio 1.2, 5.1.6.5): a driver's commands, of which there is one, how many
//! pairs of queues it uses (5.1.6.5.5).

use std::ops::RangeInclusive;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use crate::virtio::Served;
use crate::virtio::chain::Buffers;

/// Entries of its queue: a driver sends one command after the other.
pub(super) const ENTRIES: u16 = 64;

/// Class and command, then what belongs to it.
const CLASS: [u8; 2] = [byte(VIRTIO_NET_CTRL_MQ), byte(VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET)];

/// The class and numbers of the specification are bytes.
#[expect(clippy::cast_possible_truncation, reason = "checked in the line before, at compile time")]
const fn byte(number: u32) -> u8 {
    assert!(number <= u8::MAX as u32, "not a byte");
    number as u8
}

/// How many pairs the command asks for; none if it is another one, or asks for what there is not.
pub(super) fn pairs(request: &Buffers<'_>, offered: RangeInclusive<u16>) -> Option<u16> {
    let mut command = [0; 4];
    request.readable.read(&mut command).ok()?;
    let [class, number, low, high] = command;
    let pairs = u16::from_le_bytes([low, high]);
    ([class, number] == CLASS && offered.contains(&pairs)).then_some(pairs)
}

/// Tells the driver whether its command has been done.
pub(super) fn answer(request: &Buffers<'_>, done: bool) -> Served {
    let answer = if done { byte(VIRTIO_NET_OK) } else { byte(VIRTIO_NET_ERR) };
    let written = request.writable.write(&[answer]);
    Served::Filled(written.map_or(0, |()| 1))
}
