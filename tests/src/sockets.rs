//! Sockets between a guest and its host (`AF_VSOCK`), which std does not know. A stream of them behaves as one of
//! `AF_UNIX` does, so that is what they are handed out as.
#![expect(unsafe_code, reason = "nix hands an accepted socket out as a number")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getsockname,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The host, as a guest calls it.
pub const HOST: u32 = 2;

/// Seconds that a listener waits for a connection.
const PATIENCE: i64 = 120;

/// Whoever has this address and whichever port is free.
const ANY: u32 = u32::MAX;

/// Waits for connections.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// At `port`, or at one that is free.
    ///
    /// # Errors
    /// The kernel has no such sockets, or another has the port.
    pub fn new(port: Option<u32>) -> io::Result<Self> {
        let listener = stream()?;
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port.unwrap_or(ANY)))?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(Self(listener))
    }

    /// Where it waits.
    ///
    /// # Errors
    /// None of a listener's.
    pub fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<VsockAddr>(self.0.as_raw_fd())?.port())
    }

    /// The next connection.
    ///
    /// # Errors
    /// `WouldBlock` when none has come for two minutes.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let number = accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: it has just been opened, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) }.into())
    }
}

/// Connects to a guest, or to the [`HOST`].
///
/// # Errors
/// Nobody listens there.
pub fn connection(cid: u32, port: u32) -> io::Result<UnixStream> {
    let stream = stream()?;
    connect(stream.as_raw_fd(), &VsockAddr::new(cid, port))?;
    Ok(stream.into())
}

fn stream() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}
