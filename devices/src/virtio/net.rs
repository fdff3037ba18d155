//! A network card (virtio 1.2, 5.1): packets between a guest's driver and a tap of the host.
//!
//! Both directions go straight between the tap and guest memory. A packet for the guest is in one
//! buffer, or in as many as it takes if the driver can put it together. What does not fit, or
//! what the other side does not take, is dropped and counted, as on a wire.

mod address;
mod count;
mod pair;
mod sys;

pub use address::Mac;

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use self::count::Count;
use self::pair::Pair;
use crate::virtio::chain::Buffers;
use crate::virtio::room::Room;
use crate::virtio::{Device, Identity, Served};

/// Device type 1, an Ethernet controller.
const IDENTITY: Identity = Identity { kind: 1, class: 0x02_0000 };

/// Number of the queue for what the guest receives; the other one is for what it sends (5.1.2).
const RECEIVE: usize = 0;
/// Bytes of the header before each packet (5.1.6).
const HEADER: u8 = 12;
/// Bytes at hand for one packet that the driver would have cut up, or checked, itself; and for others.
const LONG: u64 = 65_562;
const SHORT: u64 = 2_048;

/// What the host's kernel calls the features of a reader (`linux/if_tun.h`).
const OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, 0x01),
    (VIRTIO_NET_F_GUEST_TSO4, 0x02),
    (VIRTIO_NET_F_GUEST_TSO6, 0x04),
    (VIRTIO_NET_F_GUEST_UFO, 0x10),
];

/// Features of a reader that takes packets longer than a wire does.
const LONG_PACKETS: [u32; 3] =
    [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO];

/// Most bytes of a tap's name.
pub const TAP_NAME: usize = sys::NAME - 1;

/// What the guest may leave to the host, and the host to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums.
    pub csum: bool,
    /// Cutting TCP into packets; wants checksums.
    pub tso: bool,
    /// Cutting UDP into fragments; wants checksums.
    pub ufo: bool,
}

/// Why a tap cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Where taps are handed out.
    #[error("cannot open /dev/net/tun: has this host the module tun, and may this user use it?")]
    Open(#[source] io::Error),
    /// A process has it.
    #[error("another device or process has it; give another one")]
    Busy,
    /// An interface that is no such tap.
    #[error("it is no tap with one queue; make one with: ip tuntap add dev NAME mode tap")]
    Kind,
    /// It is not there, or somebody else's.
    #[error(
        "it is not there or not this user's, and hotbay may make none; make it with: ip tuntap add \
         dev NAME mode tap user USER"
    )]
    Denied,
    /// The kernel's reason.
    #[error("the host does not hand it out")]
    Attach(#[source] io::Error),
}

impl From<io::Error> for TapError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Self::Busy,
            Some(libc::EINVAL) => Self::Kind,
            Some(libc::EPERM) => Self::Denied,
            _ => Self::Attach(error),
        }
    }
}

/// A network card.
pub struct Net {
    pair: Pair,
    name: String,
    queues: [u16; 2],
    features: u64,
    configuration: [u8; 8],
    received: Count,
    sent: Count,
}

impl Net {
    /// The tap `name` of the host, which is made if there is none and the process may;
    /// it goes with the card then.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn open(name: &str) -> Result<File, TapError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let tap = options.open("/dev/net/tun").map_err(TapError::Open)?;
        sys::attach(&tap, name, HEADER.into())?;
        Ok(tap)
    }

    /// A card on `tap`, whose queues have so many entries; `name` is for the log.
    pub fn new(tap: File, name: String, mac: Mac, offloads: Offloads, entries: u16) -> Self {
        let mut configuration = [0; 8];
        configuration[..6].copy_from_slice(&mac.0);
        let status = VIRTIO_NET_S_LINK_UP.to_le_bytes();
        configuration[6..].copy_from_slice(&status[..2]);
        Self {
            pair: Pair::new(tap),
            name,
            queues: [entries; 2],
            features: offloads.features(),
            configuration,
            received: Count::default(),
            sent: Count::default(),
        }
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
        &self.queues
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.configuration)
    }

    fn begin(&self, queue: usize, features: u64) {
        if queue != RECEIVE {
            return;
        }
        self.pair.begin();
        let agreed = OFFLOADS.iter().filter(|(feature, _)| features & bit(*feature) != 0);
        let flags = agreed.fold(0, |flags, (_, flag)| flags | flag);
        // Packets that the driver has not agreed to would reach it.
        if let Err(error) = self.pair.set_offload(flags) {
            log::error!("{}: the tap does not take offloads {flags:#x}: {error}", self.name);
        }
    }

    fn source(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        if queue == RECEIVE { self.pair.source() } else { None }
    }

    fn serve(&self, queue: usize, _features: u64, request: &Buffers<'_>) -> Served {
        match queue {
            RECEIVE => self.pair.receive(request, &self.received, &self.name),
            _ => self.pair.send(request, &self.sent, &self.name),
        }
    }

    fn merges(&self, queue: usize, features: u64) -> Option<u64> {
        let merges = queue == RECEIVE && features & bit(VIRTIO_NET_F_MRG_RXBUF) != 0;
        let long = LONG_PACKETS.iter().any(|feature| features & bit(*feature) != 0);
        merges.then_some(if long { LONG } else { SHORT })
    }

    fn fill(&self, _queue: usize, _features: u64, room: &Room<'_>) -> Served {
        self.pair.receive_merged(room, &self.received, &self.name)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("rx_frames", &self.received.frames),
            ("rx_bytes", &self.received.bytes),
            ("rx_dropped", &self.received.dropped),
            ("tx_frames", &self.sent.frames),
            ("tx_bytes", &self.sent.bytes),
            ("tx_dropped", &self.sent.dropped),
        ];
        all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

impl Offloads {
    fn features(self) -> u64 {
        let mut features =
            bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS) | bit(VIRTIO_NET_F_MRG_RXBUF);
        if !self.csum {
            return features;
        }
        features |= bit(VIRTIO_NET_F_CSUM) | bit(VIRTIO_NET_F_GUEST_CSUM);
        if self.tso {
            features |= bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_HOST_TSO6);
            features |= bit(VIRTIO_NET_F_GUEST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6);
        }
        if self.ufo {
            features |= bit(VIRTIO_NET_F_HOST_UFO) | bit(VIRTIO_NET_F_GUEST_UFO);
        }
        features
    }
}

fn bit(feature: u32) -> u64 {
    1 << feature
}

#[cfg(test)]
mod tests;
