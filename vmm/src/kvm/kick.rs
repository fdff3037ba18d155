//! Makes a vCPU thread leave the guest, from any other thread, without a race.
//!
//! The `kvm_run` page is mapped once more: its `immediate_exit` byte is set
//! first, the signal sent second. A thread that is not yet inside `KVM_RUN` sees
//! the byte and comes straight back; one that is inside sees the signal.
#![expect(unsafe_code, reason = "maps a page of the vCPU, sends a signal to a thread")]

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Bytes of the second mapping; `immediate_exit` lies in the first page.
const PAGE: usize = 4096;

/// The `immediate_exit` byte of one vCPU, shared between its thread and those
/// that want its attention.
#[derive(Debug)]
pub struct Kick(NonNull<u8>);

// SAFETY: the pointer leads to a mapping that this value owns; it is only used
// for atomic accesses to one byte.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    /// Maps the byte of `vcpu`.
    pub fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(null_mut(), PAGE, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0)
        };
        NonNull::new(page.cast())
            .filter(|_| page != libc::MAP_FAILED)
            .map(Self)
            .ok_or_else(io::Error::last_os_error)
    }

    /// Makes the next or the current `KVM_RUN` of `thread`, which runs this
    /// vCPU, return.
    pub fn kick<T>(&self, thread: &JoinHandle<T>) {
        self.byte().store(1, Ordering::SeqCst);
        // SAFETY: a thread with a handle has not been joined; the signal has an
        // action (see `install_signal`). A thread that has ended needs no kick.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
    }

    /// The vCPU's thread has noticed: the next `KVM_RUN` may enter the guest.
    pub fn noticed(&self) {
        self.byte().store(0, Ordering::SeqCst);
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: the page is larger than the structure's offset of the byte.
        let byte = unsafe { self.0.add(offset_of!(kvm_run, immediate_exit)) };
        // SAFETY: the mapping lives as long as `self`, and this process accesses
        // the byte through atomics only.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

/// Lets the kick signal interrupt system calls instead of ending the process.
pub fn install_signal() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(Into::into)
}
