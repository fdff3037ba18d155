//! Against the real `/dev/kvm`, without a guest: what arrives is in the local
//! APIC's request register.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use devices::irq::{Change, Delivery, Message, Route, Vectors, Way};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::relay::Relay;
use super::routes::Routes;
use super::vector::Backend;
use super::vectors::Lent;
use crate::kvm::testing;
use crate::memory::layout::IOAPIC_PINS;
use crate::seccomp::{Filters, Mode};

mod delivery;
mod table;
mod threads;

/// Offsets in the local APIC's page (Intel SDM 3A, 12.4.1).
const SPURIOUS: usize = 0xf0;
const REQUESTS: usize = 0x200;
const SOFTWARE_ENABLE: u8 = 1;

/// A machine with one processor that is never run.
struct Scene {
    vm: Arc<VmFd>,
    vcpu: VcpuFd,
    routes: Arc<Routes>,
    relay: Relay,
}

/// `None` on a machine without a hypervisor.
fn scene() -> Option<Scene> {
    if !testing::has_hypervisor() {
        return None;
    }
    let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[SPURIOUS + 1] |= SOFTWARE_ENABLE.cast_signed();
    lapic.regs[SPURIOUS] = -1;
    vcpu.set_lapic(&lapic).unwrap();
    let routes = Arc::new(Routes::new(Arc::clone(&vm)));
    let filters = Arc::new(Filters::new(Mode::False).unwrap());
    let relay = Relay::start(Arc::clone(&routes), filters).unwrap();
    Some(Scene { vm, vcpu, routes, relay })
}

impl Scene {
    fn lend(&self, count: u16) -> Lent {
        self.relay.lend(count)
    }

    /// Waits until the kernel delivers for `vector`.
    fn await_route(&self, vectors: &Lent, vector: u16) {
        let routed = || matches!(vectors.snapshot(vector).unwrap().backend, Backend::Routed(_));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !routed() {
            assert!(Instant::now() < deadline, "vector {vector} is promoted");
            thread::yield_now();
        }
    }

    /// Vectors that the processor has been asked to take, and takes them all.
    fn take(&self) -> Vec<u32> {
        let mut lapic = self.vcpu.get_lapic().unwrap();
        let mut taken = Vec::new();
        for vector in 0..256_u32 {
            let byte = REQUESTS + usize::try_from(vector / 32 * 16 + vector % 32 / 8).unwrap();
            let bit = 1_i8.wrapping_shl(vector % 8);
            if lapic.regs[byte] & bit != 0 {
                lapic.regs[byte] &= !bit;
                taken.push(vector);
            }
        }
        // Writing the page back would undo what has arrived since it was read.
        if !taken.is_empty() {
            self.vcpu.set_lapic(&lapic).unwrap();
        }
        taken
    }

    /// Waits until something has arrived: injection through an irqfd is
    /// asynchronous.
    fn await_arrival(&self) -> Vec<u32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            assert!(Instant::now() < deadline, "an interrupt arrives");
            thread::yield_now();
        }
    }
}

fn to(vector: u16, data: u32) -> Change {
    Change { vector, route: Route::To(Message { address: 0xfee0_0000, data }) }
}

fn mask(vector: u16) -> Change {
    Change { vector, route: Route::Masked }
}

fn fire(vectors: &mut Lent, vector: u16) {
    vectors.trigger(vector).unwrap().write(1).unwrap();
}

/// Plays `play` twice with vector 0 live at 0x41: in the relay's hands, and in
/// the kernel's.
fn in_both_stages(play: impl Fn(&Scene, &mut Lent)) {
    for routed in [false, true] {
        let Some(scene) = scene() else { return };
        let mut vectors = scene.lend(4);
        vectors.apply(&[to(0, 0x41)]).unwrap();
        if routed {
            scene.await_route(&vectors, 0);
        }
        play(&scene, &mut vectors);
    }
}
