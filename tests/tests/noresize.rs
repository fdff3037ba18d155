//! A host that cannot add MSI-X vectors while others are live, as before Linux 6.5: the switch
//! `x_msix_noresize` makes one of any host. All vectors go off and on again when there are to be more.

use serde_json::Value;
use tests::bench::{Bench, Stimulus, Vector};
use tests::error::{Error, ensure, same};
use tests::registers::RELAXED;
use tests::tally::Row;
use tests::{Host, Kind, Options, Result, Vm, in_lab};

const SWITCH: &str = "x_msix_noresize";

/// Linux that can add vectors.
const ADDS_VECTORS: (u32, u32) = (6, 5);

#[test]
fn e1000e_works_at_the_calls_that_are_predicted() {
    in_lab(|host| works_at_the_calls_that_are_predicted(host, Kind::E1000e));
}

#[test]
fn igb_works_at_the_calls_that_are_predicted() {
    in_lab(|host| works_at_the_calls_that_are_predicted(host, Kind::Igb));
}

/// With one processor, both drivers take three vectors, which a host that cannot add them allocates as
/// 1, 2 and 4: MSI-X goes off and on twice. On an old host it does so without the switch, too.
fn works_at_the_calls_that_are_predicted(host: &Host, kind: Kind) -> Result {
    let nic = kind.take(host)?;
    let mut vm = Options::default().boot()?;
    vm.add(&nic.bdf, "nic0")?;
    kind.use_in(&mut vm.guest)?;
    let (adding, vectors) = (calls(&vm)?, wired(&vm)?);
    vm.remove("nic0")?;

    vm.add_with(&nic.bdf, "nic0", SWITCH)?;
    kind.use_in(&mut vm.guest)?;

    let regrowing = calls(&vm)?;
    println!("measured: {kind:?}, {vectors} vectors: {adding} SET_IRQS, not adding {regrowing}");
    same("vectors in use", &(vectors, wired(&vm)?), &(3, 3))?;
    let adds = host.kernel()? >= ADDS_VECTORS;
    same("calls with the switch", &regrowing, &(adding + if adds { 2 * 2 } else { 0 }))
}

#[test]
fn no_edge_is_lost_while_vectors_are_added_under_fire() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let mut vm = Options { words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add_with(&nic.bdf, "nic0", SWITCH)?;
        nic.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Igb)?;
        let fired = bench.spare(3, Row::Posted, 0)?;
        bench.unmask(&fired)?;
        bench.fence(&fired)?;
        let before = calls(bench.vm)?;
        fire_and_await_each(&mut bench, &fired)?;

        // Four vectors are allocated; these need eight, and then all ten.
        for more in [4, 8] {
            some_more_arrive(&mut bench)?;
            let added = bench.spare(more, Row::Nested, 0)?;
            bench.unmask(&added)?;
            some_more_arrive(&mut bench)?;
            bench.fence(&added)?;
        }

        same("calls for two more vectors", &calls(bench.vm)?, &(before + 2 * 3))?;
        bench.vm.guest.run("touch /tmp/enough")?;
        nic.kind.use_in(&mut vm.guest)
    });
}

/// In the guest: fires, and fires again only when that has been counted. Causes are cleared as a driver
/// would: while MSI-X is off, the device does not clear them itself.
fn fire_and_await_each(bench: &mut Bench<'_>, vector: &Vector) -> Result {
    const CAUSE: u64 = 0x1580;
    const CAUSE_SET: u64 = 0x1520;
    let (base, bit) = (bench.msix.function.bar(0)?, 1 << vector.number);
    let (cause, set) = (base + CAUSE, base + CAUSE_SET);
    bench.vm.guest.run(&format!(
        "count() {{ awk '/^ *PIN:/ {{ print $2 }}' /proc/interrupts; }}\n\
         ( n=0\n\
           until [ -e /tmp/enough ]; do\n\
             before=$(count); tries=0\n\
             devmem {cause:#x} 32 {bit:#x}; devmem {set:#x} 32 {bit:#x}\n\
             until [ $(count) -gt $before ]; do\n\
               tries=$((tries + 1)); [ $tries -lt 1000 ] || {{ echo lost >/tmp/arrived; exit; }}\n\
             done\n\
             n=$((n + 1)); echo $n >/tmp/arrived.new; mv /tmp/arrived.new /tmp/arrived\n\
           done ) >/dev/null 2>&1 &"
    ))?;
    Ok(())
}

/// Waits until the loop of [`fire_and_await_each`] has made some way.
fn some_more_arrive(bench: &mut Bench<'_>) -> Result {
    const MORE: u32 = 5;
    let guest = &mut bench.vm.guest;
    let begun = guest.wait_for("interrupts arrive", "cat /tmp/arrived")?;
    ensure(begun != "lost", || "an interrupt was lost".to_owned())?;
    let begun: u32 = begun.parse().map_err(|_| Error::Unexpected(begun))?;
    let enough = begun + MORE;
    let now = guest.wait_for(
        &format!("{enough} interrupts have arrived"),
        &format!("n=$(cat /tmp/arrived); echo $n; [ $n = lost ] || [ $n -ge {enough} ]"),
    )?;
    ensure(now != "lost", || "an interrupt was lost".to_owned())
}

fn calls(vm: &Vm) -> Result<u64> {
    let counters = vm.counters()?;
    let calls = counters["nic0"]["set_irqs"].as_u64();
    calls.ok_or_else(|| Error::Unexpected(format!("no set_irqs in {counters}")))
}

fn wired(vm: &Vm) -> Result<usize> {
    let seen = vm.api.get("vm.interrupts?id=nic0")?.ok()?;
    let vectors = seen["nic0"]["vectors"].as_array().cloned().unwrap_or_default();
    let wired = |vector: &&Value| vector["delivery"]["wired"] == true;
    Ok(vectors.iter().filter(wired).count())
}
