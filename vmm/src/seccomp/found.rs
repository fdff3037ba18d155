//! What lists can only know when the process runs.
#![expect(unsafe_code, reason = "sigaltstack(2) and sysconf(3) have no safe form")]

use std::mem::MaybeUninit;
use std::ptr;

/// Number of this process, which its threads may send signals to.
pub(super) fn process() -> u64 {
    std::process::id().into()
}

/// Bytes that the standard library maps for a thread's signal stack, with the
/// page below it, and unmaps when the thread ends: the size depends on what the
/// processor saves. Zero if it makes none.
pub(super) fn signal_stack() -> u64 {
    let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: asks for the calling thread's, into a local.
    if unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: a plain structure; all zeros would do as well.
    let stack = unsafe { stack.assume_init() };
    if stack.ss_flags & libc::SS_DISABLE != 0 {
        return 0;
    }
    // SAFETY: takes a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    stack.ss_size as u64 + u64::try_from(page).unwrap_or_default()
}
