//! What the host says of a function, and what it does to it: it wants it back, or takes its memory away. The
//! VM lives in each case, and a client can see what happened.

use std::time::Duration;

use serde_json::{Value, json};
use tests::behind::Behind;
use tests::counts::Probes;
use tests::error::{ensure, same};
use tests::monitor::Monitor;
use tests::registers::{RELAXED_AND_BARE, Registers, command};
use tests::wait::{Look, until};
use tests::{Kind, Options, Result, Vm, in_lab};

/// Device Status of an igb (Intel 82576 datasheet, 8.2.2), and what nobody's register reads as.
const STATUS: u64 = 8;
const ONES: u64 = 0xffff_ffff;

/// From something that happened to `vm.info` showing it.
const SHOWN_LIMIT: Duration = Duration::from_secs(60);

/// Twice as long as the kernel waits before it asks again (Linux drivers/vfio/vfio_main.c), and more.
const REPEAT_LIMIT: Duration = Duration::from_secs(40);

#[test]
fn host_takes_a_function_from_a_running_guest_and_gives_it_again() {
    in_lab(|host| {
        let (nic, monitor) = (Kind::E1000e.take(host)?, Monitor::new()?);
        let mut vm = Options { arguments: monitor.arguments(), ..Options::default() }.boot()?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;

        host.begin_to_unbind(&nic.bdf)?.ended()?;

        same("its driver", &host.driver(&nic.bdf), &None)?;
        gone(&vm, "nic0")?;
        let [.., wanted, removing, removed] = &monitor.of("nic0")?[..] else {
            return Err(unexpected(&monitor));
        };
        let told = [wanted, removing, removed].map(String::as_str);
        same("events", &told, &["device-wanted-back", "device-removing", "device-removed"])?;
        host.bind(&nic.bdf)?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn guest_that_does_not_let_go_is_asked_once_and_force_ends_the_wait() {
    in_lab(|host| {
        let (nic, monitor) = (Kind::E1000e.take(host)?, Monitor::new()?);
        let mut vm = Options { arguments: monitor.arguments(), ..Options::default() }.boot()?;
        vm.add(&nic.bdf, "nic0")?;
        vm.pause()?;
        let probes = Probes::install()?;

        let asked = probes.during(|| {
            let mut unbinding = host.begin_to_unbind(&nic.bdf)?;
            shows(&vm, "nic0", "a removal that timed out", |node| node["state"] == "TimedOut")?;
            until("the kernel asking again", REPEAT_LIMIT, || {
                let asked = probes.so_far("host_requests")?;
                Ok(if asked >= 2 { Look::Holds(()) } else { Look::NotYet(asked.to_string()) })
            })?;
            ensure(vm.info()?["device_tree"]["nic0"]["wanted_back_ms"].is_u64(), || {
                "vm.info does not say that the host wants it back".to_owned()
            })?;
            ensure(unbinding.waits()?, || "the guest still has it".to_owned())?;
            let body = json!({ "id": "nic0", "force": true, "wait_ms": 60_000 });
            vm.api.put_json("vm.remove-device", &body)?.ok()?;
            unbinding.ended()
        })?;

        println!("measured: asked by the kernel {} times", asked.of("host_requests"));
        let asked = monitor.of("nic0")?.iter().filter(|name| *name == "device-wanted-back").count();
        same("events that the host wants it", &asked, &1)?;
        vm.resume()?;
        vm.guest.run("true").map(drop)
    });
}

#[test]
fn device_that_loses_its_memory_reads_as_ones_and_the_guest_lives() {
    in_lab(|host| {
        let (nic, monitor) = (Kind::Igb.take(host)?, Monitor::new()?);
        let arguments = monitor.arguments();
        let mut vm = Options { words: RELAXED_AND_BARE, arguments, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        let registers = Registers::of(&mut vm.guest, &bdf)?;
        registers.switch_on(&mut vm.guest, true)?;
        let alive = registers.read32(&mut vm.guest, 0, STATUS)?;
        ensure(alive != ONES, || "the device does not answer at first".to_owned())?;
        let device = Behind::of(vm.pid())?;

        // Its windows fault from here on, and accesses through the kernel fail.
        device.write_config(command::REGISTER, 0)?;

        same("a lost register", &registers.read32(&mut vm.guest, 0, STATUS)?, &ONES)?;
        registers.write32(&mut vm.guest, 0, STATUS, 0)?;
        shows(&vm, "nic0", "a failure", |node| node["failure"].is_string())?;
        let failing = monitor.expect("nic0", "device-failing")?;
        println!("measured: {failing}");
        device.write_config(command::REGISTER, command::MEMORY | command::BUS_MASTER)?;
        same("a register found again", &registers.read32(&mut vm.guest, 0, STATUS)?, &alive)?;
        device.write_config(command::REGISTER, 0)?;
        vm.remove("nic0")?;
        let told = monitor.of("nic0")?.iter().filter(|name| *name == "device-failing").count();
        same("events of failures", &told, &1)?;
        vm.add(&nic.bdf, "nic0")?;
        let node = vm.info()?["device_tree"]["nic0"].take();
        same("a failure of the new one", &node["failure"], &Value::Null)
    });
}

/// Waits until `vm.info` shows of a device what `look` looks for.
fn shows(vm: &Vm, id: &str, what: &str, look: impl Fn(&Value) -> bool) -> Result {
    until(&format!("{what} of {id}"), SHOWN_LIMIT, || {
        let node = vm.info()?["device_tree"][id].take();
        Ok(if look(&node) { Look::Holds(()) } else { Look::NotYet(node.to_string()) })
    })
}

/// Waits until `vm.info` lists a device no more.
fn gone(vm: &Vm, id: &str) -> Result {
    shows(vm, id, "the end", Value::is_null)
}

fn unexpected(monitor: &Monitor) -> tests::Error {
    tests::Error::Unexpected(format!("{:?}", monitor.events()))
}
