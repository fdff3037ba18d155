//! The C library's allocator, told to keep one heap for all threads.
//!
//! A heap of a thread's own is mapped, and before it first shrinks one the
//! library opens `/proc/sys/vm/overcommit_memory`: a call that no vCPU has any
//! business making, at a moment that nobody chooses. The one heap grows and
//! shrinks with `brk`. It also saves the memory of a heap for each thread; what
//! threads of ours allocate is little, and they hardly ever meet there.
//!
//! Nor does a large block get a mapping of its own, which the library would unmap
//! on whatever thread frees it: a vCPU may not.
#![expect(unsafe_code, reason = "mallopt(3) has no safe form")]

/// Call it before other threads exist.
pub fn keep_one_heap() {
    for (option, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0)] {
        // SAFETY: an option of the allocator's and a number.
        if unsafe { libc::mallopt(option, value) } != 1 {
            log::warn!("the C library does not keep one heap for all threads");
        }
    }
}
