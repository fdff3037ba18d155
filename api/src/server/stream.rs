//! The socket of one client, as micro_http reads it.
//!
//! It takes connections without further system calls, and from each client no
//! more descriptors than one request needs. micro_http would collect up to 253
//! with every message; here the kernel closes those beyond before we see any.

#![expect(unsafe_code, reason = "accept4 and recvmsg with the flags we need have no safe form")]

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use libc::iovec;
use micro_http::ScmSocket;

use crate::descriptors;

/// Result of a read or a receive, as micro_http spells it.
type Received = Result<(usize, usize), micro_http::SysError>;

/// Takes the next waiting client, with a non-blocking socket that is closed on exec.
pub(super) fn accept(listener: &UnixListener) -> io::Result<Stream> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: null pointers say that we do not want the address.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), address, length, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else knows it.
    Ok(Stream::new(unsafe { UnixStream::from_raw_fd(fd) }))
}

/// A non-blocking socket with two owners on one thread: micro_http's
/// connection, which reads, and ours, which writes.
#[derive(Clone, Debug)]
pub(super) struct Stream(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: UnixStream,
    received: Cell<usize>,
    /// How many descriptors may still come with the request that is being read.
    room: Cell<usize>,
    /// What came last, as long as micro_http's buffer at most.
    latest: RefCell<Vec<u8>>,
}

impl Stream {
    /// Serves the client at the other end of `socket`, which must not block.
    pub(super) fn new(socket: UnixStream) -> Self {
        let (received, room) = (Cell::new(0), Cell::new(descriptors::MOST));
        Self(Rc::new(Inner { socket, received, room, latest: RefCell::default() }))
    }

    /// Bytes received since the start (modulo the word size).
    pub(super) fn received(&self) -> usize {
        self.0.received.get()
    }

    /// A request is whole: the next may bring descriptors again.
    pub(super) fn make_room(&self) {
        self.0.room.set(descriptors::MOST);
    }

    /// Gives `look` what was received last: micro_http keeps nothing of a request that it refuses.
    pub(super) fn with_latest<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.0.latest.borrow())
    }

    /// Receives and forgets at most `limit` bytes; 0 at the end.
    pub(super) fn discard(&self, limit: usize) -> io::Result<usize> {
        let mut scratch = [0; 4096];
        let length = limit.min(scratch.len());
        let mut slices = [iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: length }];
        // SAFETY: the slice lies within scratch, which outlives the call.
        let (count, _) = unsafe { self.receive(&mut slices, &mut []) }.map_err(io::Error::from)?;
        Ok(count)
    }

    /// # Safety
    /// The slices must be valid for writing.
    unsafe fn receive(&self, slices: &mut [iovec], fds: &mut [RawFd]) -> Received {
        // SAFETY: the caller's promise.
        let received = unsafe { ScmSocket::recv_with_fds(&self.0.socket, slices, fds) };
        if let Ok((count, _)) = received {
            self.0.received.set(self.received().wrapping_add(count));
        }
        received
    }
}

impl ScmSocket for Stream {
    fn socket_fd(&self) -> RawFd {
        self.as_raw_fd()
    }

    unsafe fn recv_with_fds(&self, slices: &mut [iovec], fds: &mut [RawFd]) -> Received {
        let room = self.0.room.get();
        let fds = fds.get_mut(..room).unwrap_or_default();
        // SAFETY: the caller's promise is the same.
        let received = unsafe { self.receive(slices, fds) };
        if let Ok((_, came)) = received {
            self.0.room.set(room.saturating_sub(came));
        }
        if let (Ok((count, _)), Some(slice)) = (received.as_ref(), slices.first()) {
            let (start, length) = (slice.iov_base.cast::<u8>().cast_const(), slice.iov_len);
            // SAFETY: the kernel has just written that much there, and not past the slice.
            let bytes = unsafe { std::slice::from_raw_parts(start, length.min(*count)) };
            let mut latest = self.0.latest.borrow_mut();
            latest.clear();
            latest.extend_from_slice(bytes);
        }
        received
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0.socket).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0.socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket.as_raw_fd()
    }
}
