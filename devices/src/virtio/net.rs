//! A network card (virtio 1.2, 5.1): packets between a guest's driver and a tap of the host.
//!
//! Both directions go straight between the tap and guest memory. A packet for the guest is in one
//! buffer, or in as many as it takes if the driver can put it together. What does not fit, or
//! what the other side does not take, is dropped and counted, as on a wire.
//!
//! ```text
//! queue 0, 1      receive, send: pair 0, the tap's first queue      with several pairs: one
//!       2, 3      ...            pair 1, its second                 more queue, the last, for
//!                                                                   the driver's commands
//! ```

mod address;
mod carried;
mod control;
mod count;
mod offloads;
mod pair;
mod sys;
mod tap;

pub use address::Mac;
pub use carried::{VHOST_NODE, VhostError};
pub use offloads::Offloads;
pub use tap::{TAP_NAME, TapError, open, take};

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use self::carried::Carried;
use self::count::Count;
use self::pair::Pair;
use crate::virtio::chain::Buffers;
use crate::virtio::room::Room;
use crate::virtio::{Backend, Device, Identity, MOST_QUEUES, Memory, Served};

/// Device type 1, an Ethernet controller.
const IDENTITY: Identity = Identity { kind: 1, class: 0x02_0000 };

/// Most pairs of queues: one more queue is for commands.
pub const MOST_PAIRS: u16 = (MOST_QUEUES - 1) / 2;

/// Bytes of the header before each packet (5.1.6).
const HEADER: u8 = 12;
/// Bytes at hand for one packet that the driver would have cut up, or checked, itself; and for others.
const LONG: u64 = 65_562;
const SHORT: u64 = 2_048;

/// What a card is to be.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// The guest's address.
    pub mac: Mac,
    /// What its driver may leave to the host.
    pub offloads: Offloads,
    /// Entries of each queue for packets, a power of two.
    pub entries: u16,
}

/// A network card.
pub struct Net {
    name: String,
    /// A queue of the tap each; there is one at least.
    pairs: Vec<Pair>,
    entries: Vec<u16>,
    features: u64,
    configuration: [u8; 10],
    received: Count,
    sent: Count,
    /// Commands that make no sense, or that the host has not done.
    refused: AtomicU64,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// What the guest receives (5.1.2).
    Receive(usize),
    /// What it sends.
    Send(usize),
    /// Its commands.
    Control,
}

impl Net {
    /// A card on a tap, a pair of queues for each of its queues `taps`, of which there are 1 to
    /// [`MOST_PAIRS`]; `name` is for the log.
    ///
    /// # Errors
    /// The host has no descriptor.
    pub fn new(taps: Vec<File>, name: String, card: Card) -> io::Result<Self> {
        let Card { mac, offloads, entries } = card;
        let pairs = u16::try_from(taps.len()).unwrap_or(MOST_PAIRS);
        let several = bit(VIRTIO_NET_F_MQ) | bit(VIRTIO_NET_F_CTRL_VQ);
        let always = bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS) | bit(VIRTIO_NET_F_MRG_RXBUF);
        let mut queues = vec![entries; 2 * usize::from(pairs)];
        queues.extend((pairs > 1).then_some(control::ENTRIES));
        let mut configuration = [0; 10];
        configuration[..6].copy_from_slice(&mac.0);
        configuration[6..8].copy_from_slice(&VIRTIO_NET_S_LINK_UP.to_le_bytes()[..2]);
        configuration[8..].copy_from_slice(&pairs.to_le_bytes());
        let pair = |(number, tap)| Pair::new(tap, number == 0);
        Ok(Self {
            name,
            pairs: taps.into_iter().enumerate().map(pair).collect::<io::Result<_>>()?,
            entries: queues,
            features: offloads.features() | always | if pairs > 1 { several } else { 0 },
            configuration,
            received: Count::default(),
            sent: Count::default(),
            refused: AtomicU64::new(0),
        })
    }

    /// The same, whose packets the host's kernel carries, for the guest whose RAM is `memory`.
    /// Commands stay with a thread of ours, and counters know of nothing else.
    ///
    /// # Errors
    /// The kernel does not.
    pub fn carried(mut self, memory: &Memory) -> Result<Self, VhostError> {
        let kernels = bit(VIRTIO_NET_F_MRG_RXBUF);
        let mut offered = kernels;
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            let tap = pair.tap().map_err(VhostError::Refused)?;
            let carried = Carried::open(number, tap, memory.clone())?;
            offered &= carried.features();
            pair.carry(carried);
        }
        self.features = self.features & !kernels | offered;
        Ok(self)
    }

    /// What `queue` is for, for a driver that has agreed to `features`: commands come after the
    /// pairs that it knows of.
    fn role(&self, queue: usize, features: u64) -> Option<Role> {
        let pairs = if features & bit(VIRTIO_NET_F_MQ) == 0 { 1 } else { self.pairs.len() };
        match queue.checked_sub(2 * pairs) {
            None if queue.is_multiple_of(2) => Some(Role::Receive(queue / 2)),
            None => Some(Role::Send(queue / 2)),
            Some(0) if features & bit(VIRTIO_NET_F_CTRL_VQ) != 0 => Some(Role::Control),
            Some(_) => None,
        }
    }

    /// Packets that the driver has not agreed to would reach it.
    fn agree(&self, features: u64) {
        let flags = offloads::flags(features);
        let set = self.pairs.first().map_or(Ok(()), |pair| pair.set_offload(flags));
        if let Err(error) = set {
            log::error!("{}: the tap does not take offloads {flags:#x}: {error}", self.name);
        }
    }

    /// A command of the driver's.
    fn command(&self, features: u64, request: &Buffers<'_>) -> Served {
        let most = u16::try_from(self.pairs.len()).unwrap_or(MOST_PAIRS);
        let several = features & bit(VIRTIO_NET_F_MQ) != 0;
        let asked = control::pairs(request, 1..=most).filter(|_| several);
        let done = asked.is_some_and(|pairs| self.use_pairs(pairs.into()));
        if !done {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        control::answer(request, done)
    }

    /// The tap puts packets into the first `count` queues from now on; whether it does.
    fn use_pairs(&self, count: usize) -> bool {
        let used = |(number, pair): (usize, &Pair)| pair.use_it(number < count);
        let done = self.pairs.iter().enumerate().try_for_each(used);
        done.inspect_err(|error| {
            // A driver can ask for it as often as it likes.
            if self.refused.load(Ordering::Relaxed).saturating_add(1).is_power_of_two() {
                log::error!("{}: the tap does not use {count} queues: {error}", self.name);
            }
        })
        .is_ok()
    }
}

impl Device for Net {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &[u16] {
        &self.entries
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.configuration)
    }

    fn begin(&self, queue: usize, features: u64) {
        match self.role(queue, features) {
            Some(Role::Receive(pair)) => {
                self.pairs[pair].begin();
                if pair == 0 {
                    self.agree(features);
                }
            }
            // Before its first command a driver uses one pair (5.1.6.5.5.1).
            Some(Role::Control) => drop(self.use_pairs(1)),
            Some(Role::Send(_)) | None => {}
        }
    }

    fn source(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.pairs.get(queue / 2).filter(|_| queue.is_multiple_of(2))?.source()
    }

    fn backend(&self, queue: usize) -> Option<&dyn Backend> {
        self.pairs.get(queue / 2)?.carried().map(|carried| carried as &dyn Backend)
    }

    fn serve(&self, queue: usize, features: u64, request: &Buffers<'_>) -> Served {
        match self.role(queue, features) {
            Some(Role::Receive(pair)) => {
                self.pairs[pair].receive(request, &self.received, &self.name)
            }
            Some(Role::Send(pair)) => self.pairs[pair].send(request, &self.sent, &self.name),
            Some(Role::Control) => self.command(features, request),
            None => Served::Filled(0),
        }
    }

    fn merges(&self, queue: usize, features: u64) -> Option<u64> {
        let receives = matches!(self.role(queue, features), Some(Role::Receive(_)));
        let merges = receives && features & bit(VIRTIO_NET_F_MRG_RXBUF) != 0;
        merges.then_some(if offloads::are_long(features) { LONG } else { SHORT })
    }

    fn fill(&self, queue: usize, _features: u64, room: &Room<'_>) -> Served {
        self.pairs[queue / 2].receive_merged(room, &self.received, &self.name)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let packets = [
            ("rx_frames", &self.received.frames),
            ("rx_bytes", &self.received.bytes),
            ("rx_dropped", &self.received.dropped),
            ("tx_frames", &self.sent.frames),
            ("tx_bytes", &self.sent.bytes),
            ("tx_dropped", &self.sent.dropped),
        ];
        // Where the kernel carries them, it counts them too: they are the tap's.
        let own = self.pairs.iter().all(|pair| pair.carried().is_none());
        let all = packets.into_iter().filter(|_| own).chain([("refused_commands", &self.refused)]);
        all.map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

fn bit(feature: u32) -> u64 {
    1 << feature
}

#[cfg(test)]
mod tests;
