//! A listening socket that whoever started us has passed on (`fd=N`).

#![expect(unsafe_code, reason = "reading an option of a socket has no safe form")]

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;

use crate::descriptors;

/// Takes over descriptor `fd`, if it is a listening Unix stream socket.
pub(super) fn listener(fd: RawFd) -> io::Result<UnixListener> {
    let wanted = [
        (libc::SO_DOMAIN, libc::AF_UNIX, "it is no Unix socket"),
        (libc::SO_TYPE, libc::SOCK_STREAM, "it is no stream socket"),
        (libc::SO_ACCEPTCONN, 1, "it does not listen"),
    ];
    for (option, value, otherwise) in wanted {
        if socket_option(fd, option)? != value {
            return Err(io::Error::new(ErrorKind::InvalidInput, otherwise));
        }
    }
    descriptors::inherited(fd).map(UnixListener::from)
}

fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length: libc::socklen_t = 4;
    let (to, size) = ((&raw mut value).cast(), &raw mut length);
    // SAFETY: both pointers are to locals, and `length` is the size of `value`.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, to, size) })?;
    Ok(value)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
