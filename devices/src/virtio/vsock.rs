//! A socket device (virtio 1.2, 5.10) that the host's kernel serves: its programs and the
//! guest's reach each other by `AF_VSOCK`, the guest under its context identifier (CID).
//!
//! What they send goes between the kernel and guest memory; nothing of it passes here. The third
//! queue is for events, of which there is one: the guest has moved to another host. It never
//! does, so buffers stay there.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::chain::Buffers;
use crate::virtio::vhost::{self, Vhost};
use crate::virtio::{Backend, Device, Events, Identity, Memory, Served};

/// Device type 19, a communication controller of no particular kind.
const IDENTITY: Identity = Identity { kind: 19, class: 0x07_8000 };
/// Entries of its queues: for what the guest receives, what it sends, and events (5.10.2).
const ENTRIES: &[u16] = &[128; 3];
/// How many of them the kernel serves, the first ones.
const SERVED: usize = 2;
/// Sockets that keep messages apart (5.10.3).
const SEQPACKET: u64 = 1 << 1;

/// Where the host has its end.
pub const NODE: &str = "/dev/vhost-vsock";

/// CIDs that a guest can have: 0 to 2 are the hypervisor's, one's own and the host's, and the
/// last one means any.
pub const CIDS: RangeInclusive<u32> = 3..=u32::MAX - 1;

/// Why the kernel does not serve a guest.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// It has no such thing.
    #[error("this host has no {NODE}; load the module for it: modprobe vhost_vsock")]
    Absent(#[source] io::Error),
    /// Not this user.
    #[error("this user may not use {NODE}: make it a member of the group that owns it")]
    Denied(#[source] io::Error),
    /// Another reason why it is not opened.
    #[error("cannot open {NODE}")]
    Open(#[source] io::Error),
    /// Another guest has the address.
    #[error("another guest of this host has CID {0}; give this one another cid")]
    Taken(u32),
    /// The kernel's reason.
    #[error("the host's vhost does not take this guest")]
    Refused(#[source] io::Error),
}

impl VsockError {
    fn open(error: io::Error) -> Self {
        match error.raw_os_error() {
            // The node may be there without the module behind it.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::Absent(error),
            Some(libc::EACCES | libc::EPERM) => Self::Denied(error),
            _ => Self::Open(error),
        }
    }
}

/// The device.
pub struct Vsock {
    vhost: Vhost,
    events: [Events; SERVED],
    configuration: [u8; 8],
    started: Mutex<Started>,
}

/// Which queues have a driver. The kernel serves both or neither.
#[derive(Default)]
struct Started {
    ready: [bool; SERVED],
    running: bool,
}

impl Vsock {
    /// Takes `cid`, one of [`CIDS`], for the guest whose RAM is `memory`. It is free again when
    /// this is dropped.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn open(cid: u32, memory: Memory) -> Result<Self, VsockError> {
        let node = OpenOptions::new().read(true).write(true).open(NODE);
        Self::with(node.map_err(VsockError::open)?, cid, memory)
    }

    fn with(node: File, cid: u32, memory: Memory) -> Result<Self, VsockError> {
        let vhost = Vhost::new(node, memory).map_err(VsockError::Refused)?;
        vhost::set_guest_cid(&vhost.file, cid.into()).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EADDRINUSE) => VsockError::Taken(cid),
                _ => VsockError::Refused(error),
            }
        })?;
        let events = || Events::new().map_err(VsockError::Refused);
        Ok(Self {
            vhost,
            events: [events()?, events()?],
            configuration: u64::from(cid).to_le_bytes(),
            started: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Vsock {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        self.vhost.features(SEQPACKET)
    }

    fn queues(&self) -> &[u16] {
        ENTRIES
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.configuration)
    }

    fn backend(&self, queue: usize) -> Option<&dyn Backend> {
        (queue < SERVED).then_some(self)
    }

    fn serve(&self, _queue: usize, _features: u64, _request: &Buffers<'_>) -> Served {
        Served::Later
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Backend for Vsock {
    fn events(&self, queue: usize) -> &Events {
        &self.events[queue]
    }

    fn start(&self, queue: usize, rings: &Queue, features: u64) -> io::Result<()> {
        let mut started = self.lock();
        self.vhost.agree(features)?;
        self.vhost.set_up(queue, rings, &self.events[queue])?;
        started.ready[queue] = true;
        if started.ready != [true; SERVED] {
            return Ok(());
        }
        vhost::set_running(&self.vhost.file, true)?;
        started.running = true;
        // The kernel has not listened to what came before.
        self.events.iter().try_for_each(|events| events.kick.write(1))
    }

    fn tell(&self, queue: usize, call: &EventFd) -> io::Result<()> {
        self.vhost.tell(queue, call)
    }

    fn stop(&self, queue: usize) {
        let mut started = self.lock();
        started.ready[queue] = false;
        if std::mem::take(&mut started.running)
            && let Err(error) = vhost::set_running(&self.vhost.file, false)
        {
            // Not for a device that this process owns, which it has known since it made it.
            log::error!("vsock: the host's kernel does not let go of the queues: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
