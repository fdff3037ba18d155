//! Case 21 of the MSI-X design: functions are unplugged while they fire, again and again, and nothing is
//! left of them. docs/testing.md has the long version.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::error::{Doing, ensure, same};
use tests::held::Held;
use tests::http::Api;
use tests::rounds::rounds;
use tests::wait::{Look, until};
use tests::{Function, Kind, Options, Result, Vm, in_lab};

/// From the interface coming up to the vectors being live.
const FIRST_LIMIT: Duration = Duration::from_secs(60);

/// The C library keeps the stacks of threads that ended for the next ones, each a mapping and its guard:
/// as many as there were workers at once.
const STACKS: usize = 8;

/// Cycles in every run of the tests.
const CYCLES: u32 = 20;

#[test]
fn case_21_unplugged_while_it_fires_again_and_again() {
    in_lab(|host| {
        let cycles = rounds(CYCLES)?;
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        // The first time, what is kept for ever is made: the guest's own state, and hotbay's.
        cycle(&mut vm, &nic)?;
        let before = Held::of(&vm, host)?;
        let begun = Instant::now();
        let mut fired = 0;

        for _ in 0..cycles {
            fired += cycle(&mut vm, &nic)?;
        }

        vm.descriptors_return_to(host, before.resources.descriptors)?;
        let after = Held::of(&vm, host)?;
        println!(
            "measured: {cycles} cycles in {:.0?}, {fired} interrupts asked for; {before:?}, then {after:?}",
            begun.elapsed()
        );
        let grown = after.mappings.saturating_sub(before.mappings);
        ensure(grown <= STACKS, || format!("{grown} mappings more than before"))?;
        same("what hotbay holds", &after.resources, &before.resources)
    });
}

/// Plugs the function in, brings its interface up and takes it away while the guest sends packets and the
/// loopback fires all its vectors. How often it fired.
fn cycle(vm: &mut Vm, nic: &Function<'_>) -> Result<u64> {
    vm.add(&nic.bdf, "nic0")?;
    let net = nic.kind.interface(&mut vm.guest)?;
    vm.guest.run(&format!(
        "ip link set {net} up && ip addr add 10.0.2.15/24 dev {net}
         (while [ -e /sys/class/net/{net} ]; do ping -c 20 -i 0.01 -I {net} 10.0.2.2; done) >/dev/null 2>&1 &"
    ))?;
    let (over, fired) = (AtomicBool::new(false), AtomicU64::new(0));
    let api = vm.api.clone();
    thread::scope(|scope| {
        let fire = || fire_until(&over, &api, &fired);
        thread::Builder::new()
            .name("fire".into())
            .spawn_scoped(scope, fire)
            .doing("start a thread that fires")?;
        // It fires by now, and goes on until the function is gone.
        let begun = until("the first interrupts", FIRST_LIMIT, || {
            let fired = fired.load(Ordering::Relaxed);
            Ok(if fired >= 3 { Look::Holds(()) } else { Look::NotYet(fired.to_string()) })
        });
        let removed = begun.and_then(|()| vm.remove("nic0"));
        over.store(true, Ordering::Relaxed);
        removed
    })?;
    vm.guest.run("wait; ip link show").map(drop)?;
    Ok(fired.load(Ordering::Relaxed))
}

/// Fires every vector of the driver's in turn. Refusals are not counted: the guest turns vectors off when it
/// lets go of the function, and then it is gone.
fn fire_until(over: &AtomicBool, api: &Api, fired: &AtomicU64) {
    for vector in (0..3).cycle() {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let body = json!({ "id": "nic0", "vector": vector });
        if api.put_json("vm.test-interrupt", &body).is_ok_and(|answer| answer.status == 204) {
            fired.fetch_add(1, Ordering::Relaxed);
        }
    }
}
