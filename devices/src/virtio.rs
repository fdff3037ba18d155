//! Paravirtual devices (virtio 1.2) behind a PCI transport (section 4.1).
//!
//! ```text
//! vCPU      PciFunction: configuration space, one BAR
//!             Transport: Registers (pure), Interrupts (MSI-X), a Desk for each queue
//!                             | orders and the queue's bell (an eventfd)
//!                             v
//! worker    Worker: pops chains, has the Device serve them, signals
//! ```
//! A [`Device`] knows requests and nothing of PCI; the transport knows queues and
//! nothing of requests. No vCPU does I/O or waits for it: a notification is an
//! eventfd, and a reset that I/O keeps waiting is shown to the driver as under way
//! (2.4.1: it reads the status until that is 0).
//!
//! A queue may be served by somebody else, the host's kernel: then its notifications go there
//! without a worker, and its worker starts it, stops it, and signals for it ([`Backend`]).

mod backend;
pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
mod desk;
pub mod function;
mod interrupts;
mod layout;
pub mod net;
mod poll;
mod registers;
pub mod rng;
pub mod room;
#[cfg(test)]
mod testing;
mod transport;
mod vhost;
pub mod vsock;
mod worker;

pub use backend::{Backend, Events};
pub use worker::Worker;

use std::borrow::Cow;
use std::os::fd::BorrowedFd;

use chain::Buffers;
use room::Room;

/// RAM as queues and requests reach it.
pub type Memory = vm_memory::GuestMemoryMmap<()>;

/// Most queues of a device: each has a vector, and one more tells of configuration.
pub const MOST_QUEUES: u16 = 64;

/// One kind of device: what its driver finds, and what becomes of a request.
pub trait Device: Send + Sync {
    /// What a driver knows it by.
    fn identity(&self) -> Identity;

    /// Its own feature bits (2.2); the transport adds those of queues.
    fn features(&self) -> u64;

    /// Most entries of each queue, powers of two; 1 to [`MOST_QUEUES`] queues.
    fn queues(&self) -> &[u16];

    /// Its configuration (2.5), little-endian; what lies past its end reads as zeros.
    fn configuration(&self) -> Cow<'_, [u8]>;

    /// The driver writes `data` at `offset` of the configuration. On a vCPU.
    fn configure(&self, _offset: u64, _data: &[u8]) {}

    /// What its driver has told it counts no more: the device has been reset.
    fn forget(&self) {}

    /// Queue `queue` is served from now on, for a driver that has agreed to `features`. On
    /// its worker.
    fn begin(&self, _queue: usize, _features: u64) {}

    /// What `queue` waits for besides its driver: readable when it is time to try a
    /// request again that was to be served later.
    fn source(&self, _queue: usize) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Who serves `queue` in place of its worker, if somebody does: then neither
    /// [`Device::begin`] nor [`Device::serve`] is called for it.
    fn backend(&self, _queue: usize) -> Option<&dyn Backend> {
        None
    }

    /// Whether a request may keep the host busy for a while: the driver is told before of those that are done.
    fn takes_long(&self, _request: &Buffers<'_>) -> bool {
        false
    }

    /// Does one request, on the worker of its queue. `features` are those negotiated.
    /// Whatever is in the buffers, or wrong with them, is the driver's doing.
    fn serve(&self, queue: usize, features: u64, request: &Buffers<'_>) -> Served;

    /// If requests of `queue` may fill several chains of a driver that has agreed to `features`:
    /// how many bytes of them it wants at hand. Then [`Device::fill`] is called in place of
    /// [`Device::serve`].
    fn merges(&self, _queue: usize, _features: u64) -> Option<u64> {
        None
    }

    /// Does one request that fills the first bytes of `room`, which may be empty.
    fn fill(&self, _queue: usize, _features: u64, _room: &Room<'_>) -> Served {
        Served::Later
    }

    /// What it has done so far, by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is done; so many bytes of the writable buffers have been filled.
    Filled(u32),
    /// Not now: it stays in the queue until [`Device::source`] is readable, or the driver
    /// notifies.
    Later,
    /// Not before there are so many bytes in the room, or it is full; what has been written
    /// there stays.
    More(u64),
}

/// How a device appears on the bus (4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device type (section 5).
    pub kind: u16,
    /// PCI class, subclass and programming interface, as in 0x018000.
    pub class: u32,
}
