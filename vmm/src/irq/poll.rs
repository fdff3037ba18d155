//! Whether an eventfd has been written, without taking its count.
#![expect(unsafe_code, reason = "poll(2) has no safe form in the libraries we use")]

use std::os::fd::AsRawFd;

use vmm_sys_util::eventfd::EventFd;

/// True if `event` has a count. Only meaningful while no irqfd is attached to
/// it: an attached one takes the count by itself, a moment later.
pub(super) fn is_signalled(event: &EventFd) -> bool {
    let mut poll = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, which outlives the call; a timeout of 0 never blocks.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLIN != 0
}
