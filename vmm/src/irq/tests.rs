//! Against the real `/dev/kvm`, without a guest: what arrives is in the local
//! APIC's request register.

use std::sync::Arc;

use devices::irq::{Change, Message, Route, Vectors};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::routes::Routes;
use super::vectors::Lent;

/// Offsets in the local APIC's page (Intel SDM 3A, 12.4.1).
const SPURIOUS: usize = 0xf0;
const REQUESTS: usize = 0x200;
const SOFTWARE_ENABLE: u8 = 1;

/// A machine with one processor that is never run.
struct Scene {
    vm: Arc<VmFd>,
    vcpu: VcpuFd,
    routes: Arc<Routes>,
}

fn scene() -> Scene {
    let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[SPURIOUS + 1] |= SOFTWARE_ENABLE.cast_signed();
    lapic.regs[SPURIOUS] = -1;
    vcpu.set_lapic(&lapic).unwrap();
    let routes = Arc::new(Routes::new(Arc::clone(&vm)));
    Scene { vm, vcpu, routes }
}

impl Scene {
    fn lend(&self, count: u16) -> Lent {
        Lent::new(Arc::clone(&self.routes), count)
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
        std::iter::repeat_with(|| self.take())
            .take(1_000_000)
            .find(|taken| !taken.is_empty())
            .expect("an interrupt arrives")
    }
}

fn to(vector: u16, data: u32) -> Change {
    Change { vector, route: Route::To(Message { address: 0xfee0_0000, data }) }
}

fn mask(vector: u16) -> Change {
    Change { vector, route: Route::Masked }
}

#[test]
fn unmasked_vector_delivers_its_message() {
    let scene = scene();
    let mut vectors = scene.lend(4);

    vectors.apply(&[to(2, 0x41)]).unwrap();
    vectors.trigger(2).unwrap().write(1).unwrap();

    assert_eq!(scene.await_arrival(), [0x41]);
}

#[test]
fn masked_vector_is_pending_and_delivers_once_at_unmask() {
    let scene = scene();
    let mut vectors = scene.lend(4);
    vectors.apply(&[to(0, 0x42), to(1, 0x43)]).unwrap();
    vectors.apply(&[mask(0)]).unwrap();

    for _ in 0..3 {
        vectors.trigger(0).unwrap().write(1).unwrap();
    }
    assert!(scene.take().is_empty());
    assert!(vectors.pending(0) && !vectors.pending(1));

    vectors.apply(&[to(0, 0x42)]).unwrap();
    assert_eq!(scene.await_arrival(), [0x42]);
    vectors.apply(&[mask(0)]).unwrap();
    assert!(!vectors.pending(0), "delivered, so not pending");
    vectors.apply(&[to(0, 0x42)]).unwrap();
    vectors.apply(&[mask(0)]).unwrap();
    assert!(scene.take().is_empty(), "no cause, no interrupt");
}

#[test]
fn mask_and_unmask_with_the_same_message_commit_nothing() {
    let scene = scene();
    let mut vectors = scene.lend(4);
    vectors.apply(&[to(0, 0x42), to(1, 0x43), to(2, 0x44)]).unwrap();

    for _ in 0..10 {
        vectors.apply(&[mask(1)]).unwrap();
        vectors.apply(&[to(1, 0x43)]).unwrap();
    }

    assert_eq!(scene.routes.commits(), 1, "three vectors woken together: one commit");
}

#[test]
fn new_message_takes_effect_at_its_own_number() {
    let scene = scene();
    let mut vectors = scene.lend(1);
    vectors.apply(&[to(0, 0x42)]).unwrap();

    vectors.apply(&[to(0, 0x52)]).unwrap();
    vectors.trigger(0).unwrap().write(1).unwrap();

    assert_eq!(scene.await_arrival(), [0x52]);
    assert_eq!(scene.routes.len(), 1);
}

#[test]
fn reset_forgets_what_was_pending() {
    let scene = scene();
    let mut vectors = scene.lend(2);
    vectors.apply(&[to(0, 0x42)]).unwrap();
    vectors.apply(&[mask(0)]).unwrap();
    vectors.trigger(0).unwrap().write(1).unwrap();

    vectors.reset();
    assert!(!vectors.pending(0));
    vectors.apply(&[to(0, 0x42), to(1, 0x43)]).unwrap();
    vectors.trigger(1).unwrap().write(1).unwrap();

    assert_eq!(scene.await_arrival(), [0x43], "nothing stale with it");
}

#[test]
fn dropped_vectors_give_their_routes_back() {
    let scene = scene();
    let mut first = scene.lend(8);
    let mut second = scene.lend(8);
    first.apply(&[to(0, 0x42), to(7, 0x43)]).unwrap();
    second.apply(&[to(0, 0x44)]).unwrap();

    drop(first);

    assert_eq!(scene.routes.len(), 1);
    let mut third = scene.lend(8);
    third.apply(&[to(0, 0x45), to(1, 0x46)]).unwrap();
    second.trigger(0).unwrap().write(1).unwrap();
    assert_eq!(scene.await_arrival(), [0x44], "the others are undisturbed");
}

#[test]
fn routes_past_the_limit_are_refused_and_the_others_live() {
    let scene = scene();
    let mut vectors = scene.lend(2048);
    let mut more = scene.lend(2048);
    let all: Vec<Change> = (0..2048).map(|vector| to(vector, 0x60)).collect();
    vectors.apply(&all).unwrap();

    let error = more.apply(&all).unwrap_err();

    assert!(error.to_string().contains("4096"), "{error}");
    vectors.trigger(2047).unwrap().write(1).unwrap();
    assert_eq!(scene.await_arrival(), [0x60]);
    more.apply(&[to(5, 0x61)]).unwrap();
    more.trigger(5).unwrap().write(1).unwrap();
    assert_eq!(scene.await_arrival(), [0x61], "all or nothing left room for one");
}

#[test]
fn vector_that_was_not_lent_is_refused() {
    let mut vectors = scene().lend(2);

    assert!(vectors.apply(&[to(2, 0x42)]).is_err());
    assert!(vectors.trigger(2).is_err());
}

#[test]
fn pins_still_work_after_a_commit() {
    let scene = scene();
    let mut vectors = scene.lend(1);
    vectors.apply(&[to(0, 0x42)]).unwrap();

    let mut ioapic = kvm_bindings::kvm_irqchip {
        chip_id: kvm_bindings::KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    scene.vm.get_irqchip(&mut ioapic).unwrap();
    // Redirection entry of pin 5: vector 0x55, edge, physical destination 0.
    // SAFETY: the kernel filled the union in as an IOAPIC, and this is its field.
    #[expect(unsafe_code, reason = "the bindings have a union")]
    let chip = unsafe { &mut ioapic.chip.ioapic };
    chip.redirtbl[5].bits = 0x55;
    scene.vm.set_irqchip(&ioapic).unwrap();
    scene.vm.set_irq_line(5, true).unwrap();

    assert_eq!(scene.await_arrival(), [0x55]);
}
