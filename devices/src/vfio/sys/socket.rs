//! A stream socket to another process of this host, which may not read, may not write,
//! and may send anything. Nothing here waits for it, but [`Socket::connect`] and
//! [`wait`], and those not for ever.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::check;

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(UnixStream);

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Somebody has rung.
    pub rung: bool,
    /// The other side has sent something, or is gone.
    pub readable: bool,
}

impl Socket {
    /// Connects to whoever listens at `path`, and waits for at most `limit` until there
    /// is room for one more to be accepted.
    pub fn connect(path: &Path, limit: Duration) -> io::Result<Self> {
        let (address, length) = address(path)?;
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: the arguments are numbers.
        let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let stream = unsafe { UnixStream::from_raw_fd(fd) };
        // Linux: how long a full backlog is waited for.
        stream.set_write_timeout(Some(limit))?;
        loop {
            let at = (&raw const address).cast();
            // SAFETY: the address outlives the call and is as long as we say.
            match check(unsafe { libc::connect(fd, at, length) }) {
                Ok(_) => return Self::new(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let what = "its server accepts no connection: is it busy with another client?";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes an end of a connection.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream))
    }

    /// Sends what the other side has room for, and with its first byte `descriptors`.
    ///
    /// # Errors
    /// `WouldBlock` if there is room for nothing: neither has been sent.
    pub fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
        Ok(self.0.send_with_fds(&[bytes], descriptors)?)
    }

    /// Fills `bytes` from its start with what has come; 0 bytes when the other side is
    /// gone. At most `most` descriptors have come with it.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has come; ENOBUFS if there were more descriptors, which
    /// are closed.
    pub fn receive(&self, bytes: &mut [u8], most: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut raw = vec![-1; most];
        let base = bytes.as_mut_ptr().cast();
        let mut slices = [libc::iovec { iov_base: base, iov_len: bytes.len() }];
        // SAFETY: the slice is what we have borrowed, and may hold any bytes.
        let received = unsafe { self.0.recv_with_fds(&mut slices, &mut raw) };
        let (count, came) = received?;
        // SAFETY: the kernel has just given these to us alone.
        let own = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
        Ok((count, raw.iter().take(came).map(own).collect()))
    }
}

/// Waits until `bell` is rung, or until the other side has something for us (if we
/// `listen`) or room for what we have (if we `speak`).
pub fn wait(bell: &EventFd, socket: &Socket, (listen, speak): (bool, bool)) -> io::Result<Ready> {
    let wanted = |wanted: bool, events: i16| if wanted { events } else { 0 };
    let events = wanted(listen, libc::POLLIN) | wanted(speak, libc::POLLOUT);
    let poll = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let mut polls = [poll(bell.as_raw_fd(), libc::POLLIN), poll(socket.0.as_raw_fd(), events)];
    loop {
        // SAFETY: the array has two entries, and lives as long as the call.
        match check(unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) }) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let readable = polls[1].revents & !libc::POLLOUT != 0;
    Ok(Ready { rung: polls[0].revents != 0, readable })
}

/// The address of `path`, and its bytes.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    let family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    let mut address = libc::sockaddr_un { sun_family: family, sun_path: [0; 108] };
    // A zero ends it.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let what = format!("{} is no path of a socket: 1 to 107 bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>());
    Ok((address, length.map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn listener_that_accepts_nobody_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: a listening socket, and a number.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let limit = Duration::from_millis(20);
        let _first = Socket::connect(&path, limit).unwrap();

        let refused = Socket::connect(&path, limit).unwrap_err();

        assert_eq!(refused.kind(), io::ErrorKind::TimedOut, "{refused}");
    }

    #[test]
    fn path_that_is_too_long_is_said_to_be() {
        let long = "x".repeat(108);
        let error = Socket::connect(Path::new(&long), Duration::ZERO).unwrap_err();

        assert!(error.to_string().contains("107 bytes"), "{error}");
        let missing = Socket::connect(Path::new("/nowhere"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn more_descriptors_than_there_is_room_for_are_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Socket::new(ours).unwrap(), Socket::new(theirs).unwrap());
        let event = EventFd::new(0).unwrap();
        let three = [event.as_raw_fd(); 3];
        theirs.send(&[1, 2], &three).unwrap();
        theirs.send(&[3], &three).unwrap();

        let (count, came) = ours.receive(&mut [0; 8], 4).unwrap();
        assert_eq!((count, came.len()), (2, 3), "bytes and descriptors of two messages stay apart");
        let error = ours.receive(&mut [0; 8], 1).unwrap_err();

        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
    }
}
