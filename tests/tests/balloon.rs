//! A balloon: RAM that a guest does without is the host's, and the guest's again when it wants it; with a device that has RAM
//! mapped it stays, and the device works.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tests::error::{Doing, Error, ensure, same};
use tests::wait::{Look, until};
use tests::{Kind, Options, Result, Vm, in_lab};

const MIB: u64 = 1 << 20;
const RAM: u64 = 512 * MIB;
const LIMIT: Duration = Duration::from_secs(120);
/// How much of what is wanted may be missing: the guest gives what it can spare, page by page.
const SLACK: u64 = 4 * MIB;

#[test]
fn ram_goes_to_the_host_and_back_and_a_reboot_begins_anew() {
    in_lab(|_| {
        let mut vm = with_balloon("size=0,deflate_on_oom=on,id=air")?;
        touch(&mut vm, 192)?;
        let before = resident(&vm)?;

        resize(&vm, 256 * MIB)?;
        becomes(&vm, RAM - 256 * MIB)?;
        let given = count(&vm, "given_back_bytes")?;
        ensure(given + SLACK >= 256 * MIB, || format!("{given} bytes were given back"))?;
        let after = resident(&vm)?;
        ensure(after + 32 * MIB < before, || format!("resident: {before}, then {after}"))?;

        resize(&vm, 0)?;
        becomes(&vm, RAM)?;
        touch(&mut vm, 192)?;
        same("what is asked for", &vm.info()?["config"]["balloon"]["size"], &json!(0))?;

        resize(&vm, 64 * MIB)?;
        becomes(&vm, RAM - 64 * MIB)?;
        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;
        becomes(&vm, RAM - 64 * MIB)?;
        let refused = vm.api.put_json("vm.resize", &json!({ "desired_balloon": RAM }))?;
        same("the status of too much", &refused.status, &400)
    });
}

#[test]
fn pages_stay_while_a_function_has_ram_mapped_and_the_function_works() {
    in_lab(|host| {
        let disk = Kind::Nvme.take(host)?;
        let mut vm = with_balloon("size=0,id=air")?;
        vm.add(&disk.bdf, "disk0")?;
        disk.kind.use_in(&mut vm.guest)?;

        resize(&vm, 128 * MIB)?;
        becomes(&vm, RAM - 128 * MIB)?;
        same("bytes given back", &count(&vm, "given_back_bytes")?, &0)?;
        ensure(count(&vm, "kept_bytes")? + SLACK >= 128 * MIB, || "fewer were kept".into())?;
        resize(&vm, 0)?;
        becomes(&vm, RAM)?;
        disk.kind.use_in(&mut vm.guest)?;

        vm.remove("disk0")?;
        resize(&vm, 64 * MIB)?;
        becomes(&vm, RAM - 64 * MIB)?;
        ensure(count(&vm, "given_back_bytes")? + SLACK >= 64 * MIB, || "nothing goes back".into())?;
        vm.add(&disk.bdf, "disk0")?;
        resize(&vm, 0)?;
        becomes(&vm, RAM)?;
        disk.kind.use_in(&mut vm.guest)
    });
}

fn with_balloon(option: &str) -> Result<Vm> {
    let arguments = vec!["--balloon".to_owned(), option.to_owned()];
    let memory = "size=512M";
    Options { arguments, memory, cpus: "boot=2", ..Options::default() }.boot()
}

fn resize(vm: &Vm, size: u64) -> Result {
    vm.api.put_json("vm.resize", &json!({ "desired_balloon": size }))?.ok().map(drop)
}

/// Waits until the guest has this much RAM.
fn becomes(vm: &Vm, ram: u64) -> Result {
    until(&format!("a guest with {ram} bytes"), LIMIT, || {
        let seen: Value = vm.info()?["memory_actual_size"].take();
        Ok(if seen == json!(ram) { Look::Holds(()) } else { Look::NotYet(seen.to_string()) })
    })
}

fn count(vm: &Vm, name: &str) -> Result<u64> {
    Ok(vm.counters()?["air"][name].as_u64().unwrap_or(0))
}

/// Has the guest use so many MiB, and be done with them.
fn touch(vm: &mut Vm, mib: u32) -> Result {
    vm.guest
        .run(&format!("dd if=/dev/zero of=/tmp/much bs=1M count={mib} && rm /tmp/much"))
        .map(drop)
}

/// Bytes of the VMM's memory that the host has in its RAM.
fn resident(vm: &Vm) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).doing("read a status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| Error::Unexpected(format!("no VmRSS: {status}")))
}
