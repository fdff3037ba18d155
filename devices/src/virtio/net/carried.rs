//! A pair of queues that the host's kernel serves (vhost-net): packets go between the tap and guest
//! memory without a thread of ours. Interrupts do not: who watches the queue signals them.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_net::{VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::{bit, offloads, sys};
use crate::virtio::vhost::{self, Vhost};
use crate::virtio::{Backend, Events, Memory};

/// Where the host has its end.
pub const VHOST_NODE: &str = "/dev/vhost-net";

/// Queues of a pair.
const SIDES: usize = 2;

/// Why the kernel does not serve a card.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// It has no such thing.
    #[error(
        "this host has no {VHOST_NODE}; load the module for it (modprobe vhost_net), or leave x_vhost off"
    )]
    Absent(#[source] io::Error),
    /// Not this user.
    #[error(
        "this user may not use {VHOST_NODE}: make it a member of the group that owns it, or leave \
         x_vhost off"
    )]
    Denied(#[source] io::Error),
    /// Another reason why it is not opened.
    #[error("cannot open {VHOST_NODE}")]
    Open(#[source] io::Error),
    /// The kernel's reason.
    #[error("the host's vhost does not take this card")]
    Refused(#[source] io::Error),
}

impl VhostError {
    fn open(error: io::Error) -> Self {
        match error.raw_os_error() {
            // The node may be there without the module behind it.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::Absent(error),
            Some(libc::EACCES | libc::EPERM) => Self::Denied(error),
            _ => Self::Open(error),
        }
    }
}

/// The pair.
pub(super) struct Carried {
    /// Which of the card's it is.
    number: usize,
    tap: File,
    vhost: Vhost,
    events: [Events; SIDES],
    state: Mutex<State>,
}

/// Which queues have a driver, and whether the tap puts packets into this pair: the kernel serves
/// a queue when both is so.
struct State {
    ready: [bool; SIDES],
    used: bool,
}

impl Carried {
    /// Pair `number` on `tap`, for the guest whose RAM is `memory`. The tap uses its first queue
    /// only, until [`Self::use_it`] says otherwise.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(number: usize, tap: File, memory: Memory) -> Result<Self, VhostError> {
        let node = OpenOptions::new().read(true).write(true).open(VHOST_NODE);
        Self::with(node.map_err(VhostError::open)?, (number, tap), memory)
    }

    fn with(node: File, (number, tap): (usize, File), memory: Memory) -> Result<Self, VhostError> {
        let vhost = Vhost::new(node, memory).map_err(VhostError::Refused)?;
        let events = || Events::new().map_err(VhostError::Refused);
        let state = State { ready: [false; SIDES], used: number == 0 };
        let events = [events()?, events()?];
        Ok(Self { number, tap, vhost, events, state: Mutex::new(state) })
    }

    /// Those of its features that depend on who serves the queues.
    pub(super) fn features(&self) -> u64 {
        self.vhost.features(bit(VIRTIO_NET_F_MRG_RXBUF))
    }

    /// The tap puts packets into this pair from now on, or will not soon.
    pub(super) fn use_it(&self, used: bool) -> io::Result<()> {
        let mut state = self.lock();
        state.used = used;
        let ready = (0..SIDES).filter(|side| state.ready[*side]);
        ready.into_iter().try_for_each(|side| self.serve(side, used))
    }

    /// Has the kernel serve a queue, or not: then it touches it no more when this returns.
    fn serve(&self, side: usize, on: bool) -> io::Result<()> {
        vhost::set_backend(&self.vhost.file, side, on.then_some(&self.tap))?;
        // The kernel has not listened to what came before.
        if on { self.events[side].kick.write(1) } else { Ok(()) }
    }

    fn set_up(&self, side: usize, rings: &Queue, features: u64) -> io::Result<()> {
        if self.number > 0 && features & bit(VIRTIO_NET_F_MQ) == 0 {
            // A driver of one pair has commands here, or nothing.
            return Err(io::ErrorKind::Unsupported.into());
        }
        if (self.number, side) == (0, 0) {
            sys::set_offload(&self.tap, offloads::flags(features))?;
        }
        self.vhost.agree(features)?;
        self.vhost.set_up(side, rings, &self.events[side])
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Carried {
    fn events(&self, queue: usize) -> &Events {
        &self.events[queue % SIDES]
    }

    fn start(&self, queue: usize, rings: &Queue, features: u64) -> io::Result<()> {
        let (side, mut state) = (queue % SIDES, self.lock());
        self.set_up(side, rings, features)?;
        if state.used {
            self.serve(side, true)?;
        }
        state.ready[side] = true;
        Ok(())
    }

    fn tell(&self, queue: usize, call: &EventFd) -> io::Result<()> {
        self.vhost.tell(queue % SIDES, call)
    }

    fn stop(&self, queue: usize) {
        let (side, mut state) = (queue % SIDES, self.lock());
        let served = std::mem::take(&mut state.ready[side]) && state.used;
        if served && let Err(error) = self.serve(side, false) {
            // Not for a device that this process owns, which it has known since it made it.
            log::error!("net: the host's kernel does not let go of a queue: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::memory;

    #[test]
    fn host_without_vhost_and_user_without_rights_are_told_what_to_do() {
        let because = |errno| VhostError::open(io::Error::from_raw_os_error(errno)).to_string();

        for errno in [libc::ENOENT, libc::ENODEV, libc::ENXIO] {
            assert!(because(errno).contains("modprobe vhost_net"), "{errno}");
        }
        assert!(because(libc::EACCES).contains("group"));
        assert!(because(libc::EMFILE).starts_with("cannot open"));
    }

    #[test]
    fn what_is_no_node_of_vhost_is_refused() {
        let file = || tempfile::tempfile().unwrap();

        let refused = Carried::with(file(), (0, file()), memory());

        assert!(matches!(refused, Err(VhostError::Refused(_))));
    }
}
