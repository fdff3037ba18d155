//! A guest stands still and goes on: it does not notice, and nothing that was meant for it is lost.

use std::time::{Duration, Instant};

use api::request::code;
use serde_json::json;
use tests::bench::{Bench, IGB_QUEUES, Stimulus, Vector};
use tests::error::{ensure, same};
use tests::registers::RELAXED;
use tests::tally::Row;
use tests::wait::{Look, until};
use tests::{Kind, Options, Result, Vm, in_lab};

/// Long against a guest's tick, and against what the clocks may differ by.
const STANDS: Duration = Duration::from_secs(3);
/// Commands over the serial port take their time under emulation.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
const REMOVAL_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn case_24_pause_and_resume_with_pending_vectors() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Loopback)?.but(&IGB_QUEUES);
        let driven = bench.of_driver(0);
        let masked = bench.spare(5, Row::Posted, 0)?;
        let fresh = bench.spare(6, Row::Nested, 1)?;
        pending(&mut bench, &masked)?;
        let [was_masked, was_driven, was_fresh] =
            [bench.count(&masked)?, bench.count(&driven)?, bench.count(&fresh)?];
        bench.unmask(&fresh)?; // With the relay thread, or just promoted.

        while_paused(&mut bench, |bench| {
            bench.fire(&driven)?;
            bench.fire(&fresh)
        })?;

        bench.counts(&driven, was_driven + 1)?;
        bench.counts(&fresh, was_fresh + 1)?;
        bench.pending_are(&[&masked])?;
        bench.has_counted(&masked, was_masked)?;
        bench.unmask(&masked)?;
        bench.counts(&masked, was_masked + 1)?;
        bench.pending_are(&[])?;
        bench.fence(&driven)?;
        bench.has_counted(&masked, was_masked + 1)?;
        bench.has_counted(&driven, was_driven + 2)?;
        bench.has_counted(&fresh, was_fresh + 1)?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn devices_come_and_go_while_the_guest_stands_still() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        vm.pause()?;
        vm.add(&nic.bdf, "nic0")?;
        same("the state", &vm.state()?, &"Paused".to_owned())?;
        vm.resume()?;
        nic.kind.use_in(&mut vm.guest)?;

        vm.pause()?;
        let asked = json!({ "id": "nic0", "wait_ms": 500 });
        let refused = vm.api.put_json("vm.remove-device", &asked)?;
        refused.fails(503, code::DEVICE_REMOVE_TIMED_OUT)?;
        same("the device's state", &device_state(&vm)?, &Some("Removing".to_owned()))?;
        vm.resume()?;
        until("the removal", REMOVAL_LIMIT, || {
            let state = device_state(&vm)?;
            Ok(if state.is_none() { Look::Holds(()) } else { Look::NotYet(format!("{state:?}")) })
        })
    });
}

#[test]
fn paused_guest_with_a_device_is_rebooted_shut_down_and_booted_again() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;

        vm.pause()?;
        vm.api.put("vm.reboot")?.ok()?;
        vm.guest.ready()?;
        nic.kind.use_in(&mut vm.guest)?;
        vm.pause()?;
        vm.api.put("vm.shutdown")?.ok()?;
        vm.boot_again()?;
        vm.guest.ready()?;
        nic.kind.use_in(&mut vm.guest)
    });
}

/// Masks a vector that the host has wired, and fires it.
fn pending(bench: &mut Bench<'_>, vector: &Vector) -> Result {
    bench.unmask(vector)?;
    bench.mask(vector)?;
    bench.fire(vector)?;
    bench.pending_are(&[vector])
}

/// Pauses a guest, does something, and lets it go on. It does nothing meanwhile, and its clock does not
/// show how long that was.
fn while_paused(bench: &mut Bench<'_>, act: impl FnOnce(&mut Bench<'_>) -> Result) -> Result {
    let clock = bench.vm.guest.run("cat /sys/devices/system/clocksource/*/current_clocksource")?;
    bench.vm.guest.begin_to_tick()?;
    let (host_began, guest_began) = (Instant::now(), bench.vm.guest.uptime()?);
    bench.vm.pause()?;
    let paused = Instant::now();
    same("the state", &bench.vm.state()?, &"Paused".to_owned())?;
    bench.vm.api.put("vm.pause")?.fails(400, code::VM_PAUSED)?;
    bench.vm.guest.stays_silent(STANDS)?;
    act(bench)?;
    bench.vm.guest.stays_silent(STANDS)?;
    bench.vm.api.get("vm.interrupts?id=nic0")?.ok()?;
    let stood = paused.elapsed();

    bench.vm.resume()?;

    same("the state", &bench.vm.state()?, &"Running".to_owned())?;
    bench.vm.api.put("vm.resume")?.fails(400, code::VM_RUNNING)?;
    let (guest, host) = (bench.vm.guest.uptime()? - guest_began, host_began.elapsed());
    println!("{stood:?} paused: {guest:?} passed in the guest ({clock}), {host:?} outside");
    let right = host.saturating_sub(stood);
    ensure(guest.abs_diff(right) < CLOCK_SLACK, || format!("{guest:?} passed, not {right:?}"))?;
    bench.vm.guest.stop_ticking()
}

fn device_state(vm: &Vm) -> Result<Option<String>> {
    let state = vm.info()?["device_tree"]["nic0"]["state"].take();
    Ok(state.as_str().map(str::to_owned))
}
