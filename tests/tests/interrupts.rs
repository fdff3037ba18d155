//! The VMM takes no part in the delivery of MSI-X interrupts, and shows where each vector is.

use std::time::Duration;

use api::request::code;
use api::schema::interrupts::{Backend, DeviceInterrupts, InterruptMode, VectorState};
use serde_json::json;
use tests::error::{Error, ensure};
use tests::guest::Guest;
use tests::wait::{Look, until};
use tests::{Kind, Options, Result, in_lab};

#[test]
fn interrupts_cost_no_exit_to_userspace() {
    in_lab(|host| {
        const PINGS: u64 = 200;
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        let before = nic.kind.msix_count(&mut vm.guest, &bdf)?;

        let exits = host.userspace_exits(|| {
            vm.guest.run(&format!("ping -q -c {PINGS} -i 0.02 10.0.2.2")).map(drop)
        })?;

        let interrupts = nic.kind.msix_count(&mut vm.guest, &bdf)? - before;
        ensure(interrupts >= PINGS, || format!("{interrupts} interrupts for {PINGS} pings"))?;
        // The command and its report pass the serial port, a few exits a character.
        let report = vm.guest.run("echo")?.len() + 400;
        let allowance = 12 * report;
        println!("{interrupts} interrupts, {exits} exits to userspace");
        ensure(exits < allowance, || {
            format!(
                "{exits} exits to userspace for {interrupts} interrupts; the serial port needs {allowance}"
            )
        })
    });
}

#[test]
fn vectors_are_seen_where_they_are_and_a_test_interrupt_reaches_the_driver() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;

        let seen = until("routes for all vectors", ROUTED_LIMIT, || {
            let seen = vm.interrupts("nic0")?;
            let routed = seen.vectors.iter().all(|v| v.delivery.backend == Backend::Routed);
            Ok(if routed { Look::Holds(seen) } else { Look::NotYet(format!("{seen:?}")) })
        })?;
        e1000e_is_as_its_driver_left_it(&seen)?;

        let before = count_of_other(&mut vm.guest, &bdf)?;
        vm.api.put_json("vm.test-interrupt", &json!({"id": "nic0", "vector": OTHER}))?.ok()?;
        until("the test interrupt", ARRIVAL_LIMIT, || {
            let now = count_of_other(&mut vm.guest, &bdf)?;
            Ok(if now == before + 1 { Look::Holds(()) } else { Look::NotYet(format!("{now}")) })
        })?;
        let refused = vm.api.put_json("vm.test-interrupt", &json!({"id": "nic0", "vector": 4}))?;
        refused.fails(400, code::DEVICE_VECTOR_OFF)?;
        vm.api.get("vm.interrupts?id=nobody")?.fails(404, code::DEVICE_NOT_FOUND)?;
        vm.api.get("vm.interrupts?name=nic0")?.fails(400, code::API_BAD_QUERY)
    });
}

/// A route comes a moment after the last unmask; under emulation, moments are long.
const ROUTED_LIMIT: Duration = Duration::from_secs(10);
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

/// The e1000e driver's vector for everything but packets, which is silent in between.
const OTHER: u16 = 2;

/// What the guest counted of that vector alone, with one processor.
fn count_of_other(guest: &mut Guest, bdf: &str) -> Result<u64> {
    let line = format!("PCI-MSIX-{bdf} +{OTHER}-edge");
    let count = guest.run(&format!("awk '/{line}/ {{ print $2 }}' /proc/interrupts"))?;
    count.parse().map_err(|_| Error::Unexpected(format!("no count: {count}")))
}

/// Three of five vectors live, each from the host's interrupt to a route of its own.
fn e1000e_is_as_its_driver_left_it(seen: &DeviceInterrupts) -> Result {
    println!("{seen:#?}");
    let modes = (seen.mode, seen.host_mode, seen.msix.map(|msix| msix.table_size));
    ensure(modes == (InterruptMode::Msix, InterruptMode::Msix, Some(5)), || format!("{modes:?}"))?;
    let whole = |v: &VectorState| v.guest.live && v.delivery.wired && v.delivery.gsi.is_some();
    let whole = seen.vectors.iter().filter(|vector| whole(vector)).count();
    ensure(whole == 3 && seen.vectors.len() == 3, || format!("{whole} whole vectors"))?;
    let taken: u64 = seen.vectors.iter().filter_map(|vector| vector.counts.host).sum();
    ensure(taken > 0, || "the host has counted no interrupt".to_owned())
}
