//! A guest starts afresh with its devices, again and again: nobody waits for it but who asked, RAM stays
//! mapped, and nothing is left of the boots before. docs/testing.md has the long version.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::counts::{PINNING, Probes};
use tests::error::{Doing, ensure, same};
use tests::hold::catch;
use tests::host::run;
use tests::http::Api;
use tests::rounds::{at_length, rounds};
use tests::vm::add_body;
use tests::wait::{Look, until};
use tests::{Error, Host, Kind, Options, Result, Vm, in_lab};

/// How much longer than its slowest step a reboot may take: a reset, or the kernel that is read beside them,
/// which a machine that emulates the lab and others does as fast as it can.
const BEYOND: Duration = Duration::from_millis(200);
/// The same on a machine that has other things to do: still less than what a reboot that pins RAM anew would take.
const BEYOND_ANYWHERE: Duration = Duration::from_secs(1);
/// What the emulator adds to one reboot it seldom adds to another; what hotbay waits for, it waits for in each.
const ROUNDS: u32 = 3;
/// Others are answered while one waits for the reboot.
const FEWEST_PINGS: usize = 3;
/// From a request to the worker that it starts.
const CATCH_LIMIT: Duration = Duration::from_secs(60);
const REBOOT_LIMIT: Duration = Duration::from_secs(120);
/// Reboots in every run of the tests.
const REBOOTS: u32 = 2;

#[test]
fn alone_reboot_waits_for_the_slowest_reset_and_nobody_for_the_reboot() {
    in_lab(|host| {
        let (disk, nic, late) =
            (Kind::Nvme.take(host)?, Kind::E1000e.take(host)?, Kind::Igb.take(host)?);
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        let begun = Instant::now();
        vm.api.put("vm.reboot")?.ok()?;
        let alone = begun.elapsed();
        vm.guest.ready()?;
        vm.add(&disk.bdf, "disk0")?;
        vm.add(&nic.bdf, "nic0")?;
        disk.kind.use_in(&mut vm.guest)?;
        nic.kind.use_in(&mut vm.guest)?;
        let before = Held::by(&vm, host)?;

        let mut in_time = false;
        for _ in 0..ROUNDS {
            in_time = reboot_beside_pings(&vm, alone)?;
            vm.guest.ready()?;
            if in_time {
                break;
            }
        }
        ensure(in_time, || format!("{ROUNDS} reboots took too long: see above"))?;
        same("what hotbay holds", &Held::by(&vm, host)?.locked, &before.locked)?;
        disk.kind.use_in(&mut vm.guest)?;
        nic.kind.use_in(&mut vm.guest)?;

        vm.pause()?;
        vm.api.put_json("vm.remove-device", &json!({ "id": "nic0" }))?.ok()?;
        while_added(&vm, &add_body(&late.bdf, "nic1"), || vm.api.put("vm.reboot")?.ok())?;
        vm.guest.ready()?;
        vm.gone("nic0")?;
        late.kind.use_in(&mut vm.guest)?;
        disk.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn guest_that_reboots_again_and_again_leaves_nothing_behind() {
    in_lab(|host| {
        let reboots = rounds(REBOOTS)?;
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        let before = Held::by(&vm, host)?;

        for _ in 0..reboots {
            vm.guest.type_in("reboot -f\n")?;
            vm.guest.ready()?;
            nic.kind.use_in(&mut vm.guest)?;
        }
        before.is_held_again(&vm, host)?;
        vm.api.put("vm.shutdown")?.ok()?;
        vm.boot_again()?;
        vm.guest.ready()?;
        nic.kind.use_in(&mut vm.guest)?;
        before.is_held_again(&vm, host)?;
        println!("measured: {reboots} reboots, a shutdown and a boot; before and after {before:?}");

        let begun = Instant::now();
        run(Command::new("kill").args(["-TERM", &vm.pid().to_string()]))?;
        let status = vm.ended()?;
        println!("measured: ended with {status} in {:?}", begun.elapsed());
        same("the exit code", &status.code(), &Some(0))
    });
}

/// Reboots while a client pings: the call's time, against the slowest reset and a reboot without devices, and
/// what the pings took. Whether the call was in time; nothing else may be amiss.
fn reboot_beside_pings(vm: &Vm, alone: Duration) -> Result<bool> {
    let probes = Probes::of(PINNING)?;
    let (over, began) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut pings = Vec::new();
    let mut call = None;
    let counts = probes.during(|| {
        thread::scope(|scope| {
            let ping = || ping_until(&over, &began, &vm.api);
            let pinging = thread::Builder::new().name("ping".into()).spawn_scoped(scope, ping);
            let pinging = pinging.doing("start a thread that pings")?;
            catch("the first ping", CATCH_LIMIT, || Ok(began.load(Ordering::Relaxed)))?;
            let begun = Instant::now();
            let rebooted = vm.api.put("vm.reboot").and_then(tests::http::Answer::ok);
            call = Some((begun, begun.elapsed()));
            over.store(true, Ordering::Relaxed);
            pings = pinging.join().map_err(|_| Error::Unexpected("pings panicked".into()))??;
            rebooted.map(drop)
        })
    })?;
    let (begun, took) = call.ok_or_else(|| Error::Unexpected("no call".into()))?;
    let slowest = slowest_reset(&vm.info()?)?;
    pings.retain(|(at, ping)| *at >= begun && *at + *ping <= begun + took);
    let longest = pings.iter().map(|(_, ping)| *ping).max().unwrap_or_default();
    println!(
        "measured: vm.reboot {took:?}, {alone:?} without devices, slowest reset {slowest:?}, so {:?} beyond; \
         meanwhile {} pings, the longest {longest:?}; {counts}",
        took.saturating_sub(slowest),
        pings.len()
    );
    let steps = slowest.max(alone);
    ensure(pings.len() >= FEWEST_PINGS && longest < slowest, || format!("pings: {pings:?}"))?;
    counts.within(&[("container_calls", 0), ("pins", 0)])?;
    Ok(took <= steps + if at_length() { BEYOND } else { BEYOND_ANYWHERE })
}

/// When each ping began, and how long it took.
type Pings = Vec<(Instant, Duration)>;

/// Pings every now and then, which leaves the others the processor.
fn ping_until(over: &AtomicBool, began: &AtomicBool, api: &Api) -> Result<Pings> {
    let mut pings = Vec::new();
    until("the answer to vm.reboot", REBOOT_LIMIT, || {
        let at = Instant::now();
        api.get("vmm.ping")?.ok()?;
        pings.push((at, at.elapsed()));
        began.store(true, Ordering::Relaxed);
        let is_over = over.load(Ordering::Relaxed);
        Ok(if is_over { Look::Holds(()) } else { Look::NotYet(format!("{} pings", pings.len())) })
    })?;
    Ok(pings)
}

/// Of all devices, which must all have been reset.
fn slowest_reset(info: &Value) -> Result<Duration> {
    let devices = info["device_tree"].as_object().into_iter().flatten();
    let took = |(id, device): (&String, &Value)| {
        let reset = &device["reset"];
        same(&format!("the reset of {id}"), &reset["last"], &json!("Done"))?;
        let took = reset["took_ms"].as_u64();
        took.ok_or_else(|| Error::Unexpected(format!("{id} was reset, in no time: {reset}")))
    };
    let each = devices.map(took).collect::<Result<Vec<u64>>>()?;
    let slowest = each.into_iter().max();
    slowest.map(Duration::from_millis).ok_or_else(|| Error::Unexpected("no devices".into()))
}

/// Does something while a device is being added, which is answered in the end.
fn while_added(vm: &Vm, body: &Value, act: impl FnOnce() -> Result<Value>) -> Result {
    thread::scope(|scope| {
        let add = || vm.api.put_json("vm.add-device", body)?.ok();
        let adding = thread::Builder::new().name("add".into()).spawn_scoped(scope, add);
        let adding = adding.doing("start a thread that adds")?;
        let id = body["id"].as_str().unwrap_or_default();
        catch("an add under way", CATCH_LIMIT, || {
            Ok(vm.info()?["device_tree"][id]["state"] == "Adding")
        })?;
        ensure(!adding.is_finished(), || "it is added already".into())?;
        act()?;
        let added = adding.join().map_err(|_| Error::Unexpected("the add panicked".into()))?;
        added.map(drop)
    })
}

/// What a guest that starts afresh keeps.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory_slots: u64,
    free_slots: u64,
    /// KiB of RAM that are pinned for devices.
    locked: u64,
}

impl Held {
    fn by(vm: &Vm, host: &Host) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", vm.pid()));
        let status = status.doing("read what is locked")?;
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let locked = locked.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        let counters = vm.counters()?;
        let machine = |name: &str| counters["__machine"][name].as_u64().unwrap_or(u64::MAX);
        Ok(Self {
            descriptors: vm.settled_descriptors(host)?,
            threads: host.threads(vm.pid())?.len(),
            memory_slots: machine("memory_slots"),
            free_slots: machine("free_slots"),
            locked: locked.ok_or_else(|| Error::Unexpected(format!("no VmLck: {status}")))?,
        })
    }

    /// Waits for the guest's driver to have taken its vectors, each a descriptor.
    fn is_held_again(&self, vm: &Vm, host: &Host) -> Result {
        vm.descriptors_return_to(host, self.descriptors)?;
        same("what hotbay holds", &Self::by(vm, host)?, self)
    }
}
