//! How important a thread is beside the others of this host.

use std::io;

/// Makes the calling thread less important, until it ends: it may not take that back.
/// Not the least: it may be inside the kernel with something that others wait for.
#[expect(unsafe_code, reason = "setpriority(2) has no safe form")]
pub fn step_back() {
    const NICE: i32 = 10;
    // SAFETY: numbers only; on Linux, 0 means the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        let error = io::Error::last_os_error();
        log::warn!("a thread in the background is as important as all others: {error}");
    }
}
