//! Many vectors: what it costs until all are live and routed, that each delivers, and what becomes of those that
//! the host refuses.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};

use api::request::code;
use serde_json::Value;

use tests::counts::Probes;
use tests::error::{ensure, same};
use tests::host::run;
use tests::registers::Msix;
use tests::vm::add_body;
use tests::wide::Wide;
use tests::{Bdf, Host, Kind, Options, Result, Vm, in_lab};

#[test]
fn case_26_three_vectors_of_an_e1000e() {
    // Its driver fires the receive vector every two seconds.
    in_lab(|host| bring_up(host, Kind::E1000e, 3, "boot=1", &[0]));
}

#[test]
fn case_26_64_vectors_of_a_virtio_console() {
    in_lab(|host| bring_up(host, Kind::Virtio64, 64, "boot=1", &[]));
}

#[test]
fn case_26_1024_vectors_of_a_virtio_console() {
    in_lab(|host| {
        let _online = host.processors(8)?;
        bring_up(host, Kind::Virtio1024, 1024, SIX, &[])
    });
}

#[test]
fn case_17_disks_of_1_and_2048_vectors_and_two_consoles_are_plugged_at_once() {
    in_lab(|host| {
        let _online = host.processors(8)?;
        // A disk's driver takes a vector for each processor and one more, if there are, a console's all.
        let plugged = [
            (Kind::NvmeNarrow, "disk1", 1, 1),
            (Kind::NvmeWide, "disk2", 7, 2048),
            (Kind::NvmeWide2, "disk3", 7, 2048),
            (Kind::Virtio64, "console64", 64, 64),
            (Kind::Virtio1024, "console1024", 1024, 1024),
        ];
        let functions: Vec<_> =
            plugged.iter().map(|(kind, ..)| kind.take(host)).collect::<Result<_>>()?;
        let mut vm = Options { cpus: SIX, words: WORDS, ..Options::default() }.boot()?;

        let ids = plugged.iter().map(|(_, id, ..)| *id);
        let addresses = plug_at_once(&vm, functions.iter().map(|f| &f.bdf).zip(ids))?;

        for ((kind, id, count, table), bdf) in plugged.into_iter().zip(addresses) {
            kind.use_in(&mut vm.guest)?;
            let mut wide = Wide::of(&mut vm, id, &bdf)?;
            wide.come_up(count)?;
            same("table size", &wide.interrupts()?.msix.map(|msix| msix.table_size), &Some(table))?;
        }
        println!("measured: {}", vm.counters()?["__machine"]);
        Ok(())
    });
}

#[test]
fn case_18_vectors_that_the_host_has_no_room_for_come_when_it_has() {
    in_lab(|host| {
        let function = Kind::Virtio1024.take(host)?;
        let mut vm = Options { cpus: SIX, words: WORDS, ..Options::default() }.boot()?;
        let mut wide = Wide::plug(&mut vm, &function.bdf, "wide")?;
        some_are_refused(&mut wide, function.kind, 1024, "ENOSPC")?;
        let bdf = wide.bdf;

        // Before the VM, which uses their interrupts, they must not go.
        let _online = host.processors(8)?;

        unmasked_again_all_deliver(vm, &bdf, 1024)
    });
}

#[test]
fn case_18_vectors_that_no_descriptor_is_left_for_come_when_there_is() {
    in_lab(|host| {
        let function = Kind::Virtio64.take(host)?;
        let mut vm = Options { words: WORDS, ..Options::default() }.boot()?;
        let api = vm.api.clone();
        let (pid, before) = (vm.pid(), vm.settled_descriptors(host)?);
        limit_descriptors(pid, before + 40)?;
        let mut wide = Wide::plug(&mut vm, &function.bdf, "wide")?;
        some_are_refused(&mut wide, function.kind, 64, "EMFILE")?;
        api.get("vmm.ping")?.fails(503, code::API_BUSY)?;

        limit_descriptors(pid, 4096)?;

        api.get("vmm.ping")?.ok()?;
        let bdf = wide.bdf;
        unmasked_again_all_deliver(vm, &bdf, 64)
    });
}

/// Asks for all of them at the same time; their addresses in the guest.
fn plug_at_once<'f>(
    vm: &Vm,
    functions: impl Iterator<Item = (&'f Bdf, &'static str)>,
) -> Result<Vec<String>> {
    let api = &vm.api;
    thread::scope(|scope| {
        let plug = |(bdf, id)| {
            scope.spawn(move || api.put_json("vm.add-device", &add_body(bdf, id))?.ok())
        };
        let plugs: Vec<_> = functions.map(plug).collect();
        let added = |plug: ScopedJoinHandle<'_, Result<Value>>| {
            let answer = plug.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            Ok(answer["bdf"].as_str().unwrap_or_default().to_owned())
        };
        plugs.into_iter().map(added).collect()
    })
}

/// The first vectors live and deliver, the host has refused the rest, and says why.
fn some_are_refused(wide: &mut Wide, kind: Kind, count: usize, errno: &str) -> Result {
    let vectors = wide.settle(count)?;
    // Only then has the console said all that it says of itself, by interrupts of its own.
    kind.use_in(&mut wide.vm.guest)?;
    let (refused, living): (Vec<_>, Vec<_>) = vectors.iter().partition(|v| v.host_error.is_some());
    println!("measured: {} of {count} vectors refused with {errno}", refused.len());
    ensure(!refused.is_empty() && !living.is_empty(), || format!("{} refused", refused.len()))?;
    for vector in &refused {
        let error = vector.host_error.as_ref().map(|error| error.errno.as_str());
        same("refusal", &(vector.delivery.wired, error), &(false, Some(errno)))?;
    }
    wide.fire(refused[0].vector)?.fails(400, code::DEVICE_VECTOR_OFF)?;
    wide.each_delivers_once(&living.iter().map(|vector| vector.vector).collect())
}

/// One is tried again at its own unmask, the others when the function mask goes.
fn unmasked_again_all_deliver(mut vm: Vm, bdf: &str, count: u16) -> Result {
    let msix = Msix::of(&mut vm.guest, bdf)?;
    let mut wide = Wide::of(&mut vm, "wide", bdf)?;
    let last = count - 1;
    msix.mask(&mut wide.vm.guest, last)?;
    msix.unmask(&mut wide.vm.guest, last)?;
    wide.each_delivers_once(&BTreeSet::from([last]))?;
    msix.mask_function(&mut wide.vm.guest, true)?;
    msix.mask_function(&mut wide.vm.guest, false)?;
    wide.come_up(count.into())?;
    wide.each_delivers_once(&(0..count).collect())
}

/// Sets the soft limit of a running process's descriptors.
fn limit_descriptors(pid: u32, limit: usize) -> Result {
    let (pid, limit) = (format!("--pid={pid}"), format!("--nofile={limit}:"));
    run(Command::new("prlimit").args([pid, limit])).map(drop)
}

/// Route commits that a device may cost.
const COMMITS: u64 = 2;

/// Six processors have room for a thousand interrupts.
const SIX: &str = "boot=6";

/// Lets `devmem` at registers ([`tests::registers::RELAXED`]), and keeps a NIC silent.
const WORDS: &str = "iomem=relaxed ipv6.disable=1";

fn bring_up(
    host: &Host,
    kind: Kind,
    count: u16,
    cpus: &'static str,
    restless: &'static [u16],
) -> Result {
    let function = kind.take(host)?;
    let mut vm = Options { cpus, words: WORDS, ..Options::default() }.boot()?;
    let probes = Probes::install()?;
    let mut bdf = String::new();
    let counted = probes.during(|| {
        bdf = vm.add(&function.bdf, "wide")?;
        kind.use_in(&mut vm.guest)?;
        Wide::of(&mut vm, "wide", &bdf)?.come_up(count.into())
    })?;
    println!("measured: {count} vectors: {counted}; {}", vm.counters()?["__machine"]);
    counted.within(&[("route_commits", COMMITS)])?;
    same("host interrupts", &host.interrupts_of(&function.bdf)?, &count.into())?;

    let msix = Msix::of(&mut vm.guest, &bdf)?;
    let mut wide = Wide::of(&mut vm, "wide", &bdf)?.but(restless);
    wide.each_delivers_once(&(0..count).collect())?;

    let toggled = probes.during(|| {
        for vector in [0, count / 2, count - 1] {
            msix.mask(&mut wide.vm.guest, vector)?;
            msix.unmask(&mut wide.vm.guest, vector)?;
        }
        msix.mask_function(&mut wide.vm.guest, true)?;
        msix.mask_function(&mut wide.vm.guest, false)
    })?;
    same("commits for masks", &toggled.of("route_commits"), &0)?;
    wide.each_delivers_once(&BTreeSet::from([0, count / 2, count - 1]))
}
