//! Waiting for one of several descriptors.
#![expect(unsafe_code, reason = "poll(2) has no safe form in the libraries we use")]

use std::io;
use std::os::fd::AsRawFd;

/// Waits until one of `sources` is readable, or has failed; which of them.
///
/// # Errors
/// The kernel's, but for signals.
pub(super) fn any<const N: usize>(sources: [&dyn AsRawFd; N]) -> io::Result<[bool; N]> {
    const { assert!(N <= 8, "a worker waits for a few") };
    let mut polls = sources.map(|source| libc::pollfd {
        fd: source.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let count = libc::nfds_t::try_from(N).map_err(io::Error::other)?;
    loop {
        // SAFETY: the array has so many entries, and lives as long as the call.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, -1) };
        if ready >= 0 {
            return Ok(polls.map(|poll| poll.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
