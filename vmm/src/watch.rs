//! What a machine waits for, on one descriptor that never changes.
//!
//! Machines come and go while the event loop stays. Their descriptors hang on
//! an epoll set of their own, which forgets what is closed; the loop's manager
//! knows only that set, and would panic over events of what it no longer knows.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// A set of a machine's descriptors. Readable when one of them is.
#[derive(Debug)]
pub struct Watch(Epoll);

/// What can become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Source {
    /// The host's half of the serial port.
    Console,
    /// The hot-plug registers: the guest let go of a slot.
    Slots,
    /// Something in the bay waits for time to pass.
    Timer,
    /// The host, or a function itself, has something to say of a device.
    Devices,
}

impl Source {
    const ALL: [Self; 4] = [Self::Console, Self::Slots, Self::Timer, Self::Devices];
}

impl Watch {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Epoll::new().map(Self)
    }

    /// Watches `fd` until it is closed.
    pub fn add(&self, fd: &impl AsRawFd, source: Source) -> io::Result<()> {
        let interest = EpollEvent::new(EventSet::IN, source as u64);
        self.0.ctl(ControlOperation::Add, fd.as_raw_fd(), interest)
    }

    /// Watches `fd`, an eventfd, until it is closed: ready once after it has been
    /// written, whether it is read or not.
    pub fn add_edges(&self, fd: &impl AsRawFd, source: Source) -> io::Result<()> {
        let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, source as u64);
        self.0.ctl(ControlOperation::Add, fd.as_raw_fd(), interest)
    }

    /// Watches `fd` no more; it is about to be closed elsewhere.
    pub fn remove(&self, fd: RawFd) {
        if let Err(error) = self.0.ctl(ControlOperation::Delete, fd, EpollEvent::default()) {
            log::warn!("a descriptor is watched until it is closed: {error}");
        }
    }

    /// What is ready now. A source of a machine that has gone may be among it.
    pub fn ready(&self) -> Vec<Source> {
        let mut events = [EpollEvent::default(); Source::ALL.len()];
        // Fails only when interrupted; what is ready stays ready.
        let count = self.0.wait(0, &mut events).unwrap_or(0);
        let ready =
            |source: &Source| events[..count].iter().any(|event| event.data() == *source as u64);
        Source::ALL.into_iter().filter(ready).collect()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
