//! The listening socket, and what it does when the house is full.
//!
//! When the process has no file descriptor left, a client would wait in the
//! kernel's queue and never hear why. A few descriptors are kept aside: with
//! one of them the client is let in, told "503, later", and shown out.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;

use super::stream::{Stream, accept};

/// Clients that can be shown out at the same time.
pub(super) const SPARES: usize = 8;

/// Who stands at the door.
pub(super) enum Visitor {
    /// A client.
    Guest(Stream),
    /// A client that took a spare descriptor: it cannot stay.
    Surplus(Stream),
    /// Nobody.
    Nobody,
    /// Perhaps somebody; there is not even a spare descriptor left.
    Unknown,
}

/// The listening socket and the spare descriptors.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    spares: Vec<UnixListener>,
}

impl Door {
    /// # Errors
    /// When there are not enough descriptors to begin with.
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        let spares = (0..SPARES).map(|_| listener.try_clone()).collect::<io::Result<_>>()?;
        Ok(Self { listener, spares })
    }

    /// Opens to the next visitor.
    pub(super) fn open(&mut self) -> Visitor {
        match self.accept() {
            Ok(visitor) => visitor,
            Err(_) => {
                if self.spares.pop().is_none() {
                    return Visitor::Unknown;
                }
                match self.accept() {
                    Ok(Visitor::Guest(stream)) => Visitor::Surplus(stream),
                    Ok(visitor) => visitor,
                    Err(_) => Visitor::Unknown,
                }
            }
        }
    }

    /// Puts descriptors aside again, as many as there should be.
    pub(super) fn restock(&mut self, wanted: usize) {
        while self.spares.len() < wanted.min(SPARES) {
            match self.listener.try_clone() {
                Ok(spare) => self.spares.push(spare),
                Err(_) => return,
            }
        }
    }

    /// Fails only for want of resources.
    fn accept(&self) -> io::Result<Visitor> {
        loop {
            match accept(&self.listener) {
                Ok(stream) => return Ok(Visitor::Guest(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Visitor::Nobody),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        return Err(error);
                    }
                    // A client that came and went, or a signal.
                    Some(libc::ECONNABORTED | libc::EINTR) => {}
                    _ => return Ok(Visitor::Nobody),
                },
            }
        }
    }
}

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}
