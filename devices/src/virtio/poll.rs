//! Waiting for one of two descriptors.
#![expect(unsafe_code, reason = "poll(2) has no safe form in the libraries we use")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// Waits until `bell` or `source` is readable, or has failed; whether `bell` is.
///
/// # Errors
/// The kernel's, but for signals.
pub(super) fn either(bell: &EventFd, source: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polls = [bell.as_raw_fd(), source.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: the array has two entries, and lives as long as the call.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) };
        if ready >= 0 {
            return Ok(polls[0].revents != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
