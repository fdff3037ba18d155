//! Descriptors as the kernel sees them: made not to block, waited for.
#![expect(unsafe_code, reason = "descriptor flags and poll(2) have no safe form")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Writing to it does not block from here on.
pub(super) fn unblocked(file: File) -> io::Result<File> {
    // SAFETY: reads flags; no memory is involved.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    set(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)?;
    Ok(file)
}

/// Waits until `file` takes more, or `until` has been signalled: then it says no.
pub(super) fn has_room(file: &File, until: &impl AsRawFd) -> io::Result<bool> {
    let mut polls = [(file.as_raw_fd(), libc::POLLOUT), (until.as_raw_fd(), libc::POLLIN)]
        .map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
    // SAFETY: two structures, which outlive the call.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) };
    match io::Error::last_os_error() {
        error if ready < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(polls[1].revents == 0),
    }
}

fn set(fd: RawFd, command: libc::c_int, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: sets flags; no memory is involved.
    let answer = unsafe { libc::fcntl(fd, command, flags) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
