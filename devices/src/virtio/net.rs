//! A network card (virtio 1.2, 5.1): packets between a guest's driver and a tap of the host.
//!
//! Both directions go straight between the tap and guest memory, one packet a buffer. What
//! does not fit, or what the other side does not take, is dropped and counted, as on a wire.

mod sys;

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use crate::virtio::chain::Buffers;
use crate::virtio::{Device, Identity, Served};

/// Device type 1, an Ethernet controller.
const IDENTITY: Identity = Identity { kind: 1, class: 0x02_0000 };

/// Number of the queue for what the guest receives; the other one is for what it sends (5.1.2).
const RECEIVE: usize = 0;
/// Bytes of the header before each packet (5.1.6), and where in it the number of buffers is.
const HEADER: u8 = 12;
const NUM_BUFFERS: u64 = 10;
/// The header and the shortest packet: two addresses and a type.
const SHORTEST: u64 = HEADER as u64 + 14;
/// Packets that do not fit in a row, before the worker looks up.
const PATIENCE: usize = 64;

/// What the host's kernel calls the features of a reader (`linux/if_tun.h`).
const OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, 0x01),
    (VIRTIO_NET_F_GUEST_TSO4, 0x02),
    (VIRTIO_NET_F_GUEST_TSO6, 0x04),
    (VIRTIO_NET_F_GUEST_UFO, 0x10),
];

/// Most bytes of a tap's name.
pub const TAP_NAME: usize = sys::NAME - 1;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

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
    tap: File,
    name: String,
    queues: [u16; 2],
    features: u64,
    configuration: [u8; 8],
    /// The tap answers with errors: the interface has been deleted, say.
    broken: AtomicBool,
    received: Count,
    sent: Count,
}

/// What has gone in one direction.
#[derive(Default)]
struct Count {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
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
            tap,
            name,
            queues: [entries; 2],
            features: offloads.features(),
            configuration,
            broken: AtomicBool::new(false),
            received: Count::default(),
            sent: Count::default(),
        }
    }

    /// One packet from the tap into the buffer. One that does not fit leaves room for the next.
    fn receive(&self, request: &Buffers<'_>) -> Served {
        let Ok(slices) = request.writable.slices() else { return self.received.drop_one() };
        let room = request.writable.len();
        if room < SHORTEST || slices.len() > sys::MOST_SLICES {
            return self.received.drop_one();
        }
        for _ in 0..PATIENCE {
            match sys::read(&self.tap, &slices) {
                Ok(0) => return self.fails(&io::ErrorKind::UnexpectedEof.into()),
                Ok(count) if u64::try_from(count).is_ok_and(|count| count > room) => {
                    self.received.loses_one();
                }
                Ok(count) => {
                    // One packet is in one buffer: features that would allow more are not offered.
                    let number = request.writable.part(NUM_BUFFERS, HEADER.into());
                    let written = number.and_then(|at| at.write(&1_u16.to_le_bytes()));
                    return match written {
                        Ok(()) => self.received.passes(count, Served::Filled),
                        Err(_) => self.received.drop_one(),
                    };
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Served::Later,
                    Some(libc::EINTR) => {}
                    _ => return self.fails(&error),
                },
            }
        }
        Served::Later
    }

    /// The buffer to the tap, as one packet.
    fn send(&self, request: &Buffers<'_>) -> Served {
        let Ok(slices) = request.readable.slices() else { return self.sent.drop_one() };
        if request.readable.len() < SHORTEST {
            return self.sent.drop_one();
        }
        match sys::write(&self.tap, &slices) {
            Ok(count) => self.sent.passes(count, |_| Served::Filled(0)),
            // The interface is down, its queue is full, or the packet makes no sense.
            Err(error) => {
                log::debug!("{}: a packet is dropped: {error}", self.name);
                self.sent.drop_one()
            }
        }
    }

    /// Nothing comes from the tap any more: it is said once, for it stays so.
    fn fails(&self, error: &io::Error) -> Served {
        if !self.broken.swap(true, Ordering::Relaxed) {
            log::error!("{}: its tap has failed, nothing is received any more: {error}", self.name);
        }
        Served::Later
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
        let agreed = OFFLOADS.iter().filter(|(feature, _)| features & bit(*feature) != 0);
        let flags = agreed.fold(0, |flags, (_, flag)| flags | flag);
        // Packets that the driver has not agreed to would reach it.
        if let Err(error) = sys::set_offload(&self.tap, flags) {
            log::error!("{}: the tap does not take offloads {flags:#x}: {error}", self.name);
        }
    }

    fn source(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        let works = queue == RECEIVE && !self.broken.load(Ordering::Relaxed);
        works.then(|| self.tap.as_fd())
    }

    fn serve(&self, queue: usize, _features: u64, request: &Buffers<'_>) -> Served {
        if queue == RECEIVE { self.receive(request) } else { self.send(request) }
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

impl Count {
    /// A packet of `count` bytes, its header among them, has gone.
    fn passes(&self, count: usize, served: impl FnOnce(u32) -> Served) -> Served {
        let count = u32::try_from(count).unwrap_or(0);
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(count.saturating_sub(HEADER.into()).into(), Ordering::Relaxed);
        served(count)
    }

    /// A packet is lost.
    fn loses_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet is lost, and its buffer with it.
    fn drop_one(&self) -> Served {
        self.loses_one();
        Served::Filled(0)
    }
}

impl Offloads {
    fn features(self) -> u64 {
        let mut features = bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS);
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

impl Mac {
    /// `02:00:00:00:00:01`; none if it is something else, or the address of a group.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits)?;
        }
        let single = bytes[0] & 1 == 0 && bytes != [0; 6];
        (parts.next().is_none() && single).then_some(Self(bytes))
    }

    /// A local one (its second bit says so) of these bits.
    pub fn local(bits: u64) -> Self {
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        let mut mac = bytes;
        mac[0] = mac[0] & !1 | 2;
        Self(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests;
