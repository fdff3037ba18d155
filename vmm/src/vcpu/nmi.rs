//! A non-maskable interrupt on its way to a processor. It is asked for by any thread
//! and delivered by the vCPU's own: a vCPU's ioctls wait for its `KVM_RUN` to end.

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::VcpuFd;

/// Whether one is wanted. Two before the first is delivered are one, as in hardware.
#[derive(Debug, Default)]
pub(super) struct Nmi(AtomicBool);

impl Nmi {
    /// Wants one. The vCPU's thread is to be kicked after this.
    pub(super) fn want(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// As after a reset.
    pub(super) fn forget(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Delivers the one that is wanted, on the vCPU's thread and outside of the guest.
    /// A processor that waits to be started takes none (Intel SDM 3A, 9.4.1), and the
    /// kernel would spin over it.
    pub(super) fn deliver(&self, vcpu: &VcpuFd) {
        if self.0.swap(false, Ordering::SeqCst)
            && let Err(error) = inject(vcpu)
        {
            log::warn!("a non-maskable interrupt was not delivered: {error}");
        }
    }
}

fn inject(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    match vcpu.get_mp_state()?.mp_state {
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Ok(()),
        _ => vcpu.nmi(),
    }
}
