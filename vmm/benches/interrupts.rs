//! What interrupts cost on the real `/dev/kvm`, without a guest: bringing
//! vectors up as Linux does, one by one, against one commit for each; masking;
//! and how long an event takes to reach the local APIC, relayed and routed.
//!
//! Only ratios within one run mean something. `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use devices::irq::{Change, Message, Route, Vectors};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm::irq::relay::Relay;
use vmm::irq::routes::Routes;
use vmm::irq::vector::Backend;
use vmm::irq::vectors::Lent;
use vmm::seccomp::{Filters, Mode};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SIZES: [u16; 3] = [64, 512, 2048];
const MESSAGE: Message = Message { address: 0xfee0_0000, data: 0x41 };
/// Local APIC page: the request bit of vector 0x41, and the software enable bit.
const REQUEST: usize = 0x220;
const REQUEST_BIT: i8 = 1 << 1;
const SPURIOUS: usize = 0xf0;
/// Events whose way is timed.
const EVENTS: usize = 5000;

fn machine() -> (Arc<VmFd>, VcpuFd) {
    let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[SPURIOUS] = -1;
    lapic.regs[SPURIOUS + 1] |= 1;
    vcpu.set_lapic(&lapic).unwrap();
    (vm, vcpu)
}

fn relay(vm: &Arc<VmFd>) -> Relay {
    let routes = Arc::new(Routes::new(Arc::clone(vm)));
    Relay::start(routes, Arc::new(Filters::new(Mode::False).unwrap())).unwrap()
}

fn unmask(vector: u16) -> Change {
    Change { vector, route: Route::To(MESSAGE) }
}

fn mask(vector: u16) -> Change {
    Change { vector, route: Route::Masked }
}

fn await_routed(vectors: &Lent, vector: u16) {
    while !matches!(vectors.snapshot(vector).unwrap().backend, Backend::Routed(_)) {
        thread::yield_now();
    }
}

/// The plain design: route, commit and attach for each vector in turn.
fn one_commit_each(count: u16) -> Duration {
    let (vm, _vcpu) = machine();
    let routes = Routes::new(vm);
    let events: Vec<_> = (0..count).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
    let begun = Instant::now();
    for event in &events {
        let number = routes.assign(&[(None, MESSAGE)]).unwrap()[0].unwrap();
        routes.attach(event, number).unwrap();
    }
    begun.elapsed()
}

/// Ours: live at once through the relay. `routed`: until the kernel has them all,
/// less the quiet time that the batch waits for.
fn two_stages(count: u16, routed: bool) -> Duration {
    let (vm, _vcpu) = machine();
    let relay = relay(&vm);
    let mut vectors = relay.lend(count);
    (0..count).for_each(|vector| drop(vectors.trigger(vector).unwrap()));
    let begun = Instant::now();
    (0..count).for_each(|vector| vectors.apply(&[unmask(vector)]).unwrap());
    if routed {
        (0..count).for_each(|vector| await_routed(&vectors, vector));
    }
    begun.elapsed()
}

fn bring_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bring-up");
    group.sample_size(10);
    for count in SIZES {
        let repeat = |once: &dyn Fn() -> Duration, times: u64| (0..times).map(|_| once()).sum();
        group.bench_function(BenchmarkId::new("one commit each", count), |bencher| {
            bencher.iter_custom(|times| repeat(&|| one_commit_each(count), times));
        });
        group.bench_function(BenchmarkId::new("two stages, live", count), |bencher| {
            bencher.iter_custom(|times| repeat(&|| two_stages(count, false), times));
        });
        group.bench_function(BenchmarkId::new("two stages, routed", count), |bencher| {
            bencher.iter_custom(|times| repeat(&|| two_stages(count, true), times));
        });
    }
    group.finish();
    for count in SIZES {
        let best = |once: &dyn Fn() -> Duration| (0..5).map(|_| once()).min().unwrap();
        let plain = best(&|| one_commit_each(count));
        let live = best(&|| two_stages(count, false));
        let ratio = plain.as_secs_f64() / live.as_secs_f64();
        println!(
            "ratio: {count} vectors live: {plain:?} one commit each, {live:?} in two stages: {ratio:.0}x"
        );
    }
}

fn toggle(criterion: &mut Criterion) {
    let (vm, _vcpu) = machine();
    let relay = relay(&vm);
    let mut vectors = relay.lend(64);
    (0..64).for_each(|vector| vectors.apply(&[unmask(vector)]).unwrap());
    await_routed(&vectors, 63);
    criterion.bench_function("mask and unmask, routed", |bencher| {
        bencher.iter(|| {
            vectors.apply(&[mask(7)]).unwrap();
            vectors.apply(&[unmask(7)]).unwrap();
        });
    });
}

/// Time from the event to the request bit of the local APIC: p50 and p99.
fn latency(_criterion: &mut Criterion) {
    let (vm, vcpu) = machine();
    let relay = relay(&vm);
    let mut vectors = relay.lend(1);
    let trigger = vectors.trigger(0).unwrap();
    vectors.apply(&[unmask(0)]).unwrap();
    for stage in ["relayed", "routed"] {
        let mut times = Vec::with_capacity(EVENTS);
        for round in 0..EVENTS {
            if stage == "relayed" && round % 100 == 0 {
                // Another message, and back: in the relay's hands again, long enough for 100 events.
                let data = MESSAGE.data;
                let other = Route::To(Message { data: data + 1, ..MESSAGE });
                vectors.apply(&[Change { vector: 0, route: other }, unmask(0)]).unwrap();
                vectors.apply(&[mask(0), Change { vector: 0, route: other }]).unwrap();
                await_routed(&vectors, 0);
                vectors.apply(&[unmask(0)]).unwrap();
            }
            if stage == "routed" {
                await_routed(&vectors, 0);
            }
            let begun = Instant::now();
            trigger.write(1).unwrap();
            times.push(await_request(&vcpu, begun));
        }
        times.sort_unstable();
        let (p50, p99) = (times[EVENTS / 2], times[EVENTS * 99 / 100]);
        println!("latency: {stage}: p50 {p50:?}, p99 {p99:?} over {EVENTS} events");
    }
}

fn await_request(vcpu: &VcpuFd, begun: Instant) -> Duration {
    loop {
        let mut lapic = vcpu.get_lapic().unwrap();
        if lapic.regs[REQUEST] & REQUEST_BIT != 0 {
            let took = begun.elapsed();
            lapic.regs[REQUEST] &= !REQUEST_BIT;
            vcpu.set_lapic(&lapic).unwrap();
            return took;
        }
    }
}

criterion_group!(benches, bring_up, toggle, latency);
criterion_main!(benches);
