//! The count of an eventfd that others have too.
#![expect(unsafe_code, reason = "preadv2(2) has no safe form in the libraries we use")]

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::eventfd::EventFd;

/// Takes what `event` has counted, if anything, and never waits. Whether a read of an
/// eventfd waits is a flag of what all its descriptors share: a process that was handed
/// one, a vfio-user server, can clear it under us. So each read says it for itself.
pub fn take(event: &EventFd) -> Option<u64> {
    let mut count = [0; 8];
    let base = count.as_mut_ptr().cast();
    let place = libc::iovec { iov_base: base, iov_len: count.len() };
    // SAFETY: one slice, which is ours, may hold any bytes and outlives the call.
    let read =
        unsafe { libc::preadv2(event.as_raw_fd(), &raw const place, 1, -1, libc::RWF_NOWAIT) };
    if read == 8 {
        return Some(u64::from_ne_bytes(count));
    }
    // Before Linux 5.8 a read cannot say it.
    let unknown = io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP);
    if unknown { event.read().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_taken_once() {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        event.write(3).unwrap();

        assert_eq!(take(&event), Some(3));
        assert_eq!(take(&event), None);
    }

    #[test]
    fn eventfd_that_somebody_has_made_wait_is_not_waited_for() {
        // As if a server had cleared the flag: it is one for all who have it.
        let event = EventFd::new(0).unwrap();

        assert_eq!(take(&event), None);
        event.write(2).unwrap();
        assert_eq!(take(&event), Some(2));
    }
}
