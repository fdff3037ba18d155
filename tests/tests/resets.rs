//! Case 20 of the MSI-X design: function-level reset, D3hot, reboot, suspend. Whatever resets a function
//! leaves nothing of its interrupts behind, and the guest can have them again.

use api::schema::interrupts::{Backend, DeviceInterrupts, InterruptMode, VectorState};
use tests::bench::{Bench, Stimulus, Vector};
use tests::error::{ensure, same};
use tests::guest::Guest;
use tests::registers::{RELAXED, RELAXED_AND_BARE, Registers, Width, capability};
use tests::tally::Row;
use tests::wait::{Look, until};
use tests::{Bdf, Function, Kind, Options, Result, Vm, in_lab};

use std::fs;
use std::time::Duration;

/// A route comes a moment after the last unmask; under emulation, moments are long.
const ROUTED_LIMIT: Duration = Duration::from_secs(30);

/// Linux takes its vectors anew when it resumes, in a batch or two for each of the two functions.
const SUSPEND_COMMITS: u64 = 6;

/// Ways to reset a function of which a guest has no driver.
#[derive(Debug, Clone, Copy)]
enum Reset {
    /// Initiate Function Level Reset, in Device Control of PCI Express (PCI Express 4.0, 7.5.3.4).
    DeviceControl,
    /// To D3hot and back, of a function that says it is reset by that (PCI PM 1.2, 3.2.4).
    PowerState,
    /// The guest's kernel does it, and keeps the configuration.
    Kernel(&'static str),
}

#[test]
fn case_20_nothing_is_left_of_vectors_after_a_reset() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let mut vm = Options { words: RELAXED_AND_BARE, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Igb)?.without_driver()?;

        for reset in
            [Reset::DeviceControl, Reset::PowerState, Reset::Kernel("flr"), Reset::Kernel("pm")]
        {
            let [first, second, masked] = armed(&mut bench)?;
            let commits = machine(bench.vm, "route_commits")?;

            perform(reset, &bench.msix.function, &mut bench.vm.guest)?;

            nothing_is_left(bench.vm, "nic0", &nic.bdf)?;
            same("routes of the machine", &machine(bench.vm, "routes")?, &0)?;
            if !matches!(reset, Reset::Kernel(_)) {
                same("BAR 0", &(bench.msix.function.raw_bars(&mut bench.vm.guest)?[0] & !0xf), &0)?;
                bench.msix.function.restore_bars(&mut bench.vm.guest)?;
            }
            bench.switch_on()?;
            bench.pending_are(&[])?;
            works_again(&mut bench, [&first, &second, &masked])?;
            println!(
                "measured: {reset:?}: {} commits",
                machine(bench.vm, "route_commits")? - commits
            );
        }
        Ok(())
    });
}

#[test]
fn case_20_drivers_work_after_each_reset_of_theirs() {
    in_lab(|host| {
        let (nic, second, disk) =
            (Kind::E1000e.take(host)?, Kind::Igb.take(host)?, Kind::Nvme.take(host)?);
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        for (function, id) in [(&nic, "nic0"), (&second, "nic1"), (&disk, "disk0")] {
            let bdf = vm.add(&function.bdf, id)?;
            function.kind.use_in(&mut vm.guest)?;
            for method in methods(&mut vm.guest, &bdf)? {
                kernel_resets(&mut vm.guest, &bdf, &method)?;
                if function.kind != Kind::Nvme {
                    rebind(&mut vm.guest, function.kind, &bdf)?;
                }
                used_again(&mut vm, function, id)?;
            }
            let registers = Registers::of(&mut vm.guest, &bdf)?;
            let reset = if function.kind == Kind::E1000e {
                Reset::PowerState
            } else {
                Reset::DeviceControl
            };
            perform(reset, &registers, &mut vm.guest)?;
            nothing_is_left(&vm, id, &function.bdf)?;
            vm.guest.run(&format!(
                "echo 1 >/sys/bus/pci/devices/{bdf}/remove && echo 1 >/sys/bus/pci/rescan"
            ))?;
            used_again(&mut vm, function, id)?;
            // One NIC at a time: both lead to the same network.
            if function.kind == Kind::E1000e {
                vm.remove(id)?;
            }
        }
        Ok(())
    });
}

#[test]
fn case_20_state_survives_d3hot_where_the_function_says_so() {
    in_lab(|host| {
        let disk = Kind::Nvme.take(host)?;
        let mut vm = Options { words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&disk.bdf, "disk0")?;
        disk.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "disk0", &bdf, Stimulus::Loopback)?;
        let [tested, fence] = [0, 1].map(|vector| bench.of_driver(vector));
        let before = bench.count(&tested)?;
        bench.mask(&tested)?;
        bench.fire(&tested)?;
        bench.pending_are(&[&tested])?;

        perform(Reset::PowerState, &bench.msix.function, &mut bench.vm.guest)?;

        bench.vm.mode_becomes("disk0", InterruptMode::Msix)?;
        bench.pending_are(&[&tested])?;
        bench.fence(&fence)?;
        bench.unmask(&tested)?;
        bench.counts(&tested, before + 1)?;
        vm.guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
        disk.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn case_20_drivers_work_after_suspend_and_resume() {
    in_lab(|host| {
        let (nic, disk) = (Kind::Igb.take(host)?, Kind::Nvme.take(host)?);
        let other = Kind::E1000e.take(host)?;
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        vm.add(&disk.bdf, "disk0")?;
        vm.add(&nic.bdf, "nic0")?;
        disk.kind.use_in(&mut vm.guest)?;
        nic.kind.use_in(&mut vm.guest)?;
        suspend_and_resume(&mut vm)?;
        used_again(&mut vm, &nic, "nic0")?;
        used_again(&mut vm, &disk, "disk0")?;
        vm.remove("nic0")?;
        vm.add(&other.bdf, "nic1")?;
        other.kind.use_in(&mut vm.guest)?;
        suspend_and_resume(&mut vm)?;
        used_again(&mut vm, &other, "nic1")
    });
}

/// Two vectors live and routed, one masked and pending.
fn armed(bench: &mut Bench<'_>) -> Result<[Vector; 3]> {
    let first = bench.spare(0, Row::Posted, 0)?;
    let second = bench.spare(1, Row::Nested, 0)?;
    let masked = bench.spare(9, Row::Nested, 0)?;
    for vector in [&first, &second, &masked] {
        bench.unmask(vector)?;
        bench.fence(vector)?;
    }
    bench.mask(&masked)?;
    bench.fire(&masked)?;
    bench.pending_are(&[&masked])?;
    until("routes for both", ROUTED_LIMIT, || {
        let seen = bench.vm.interrupts(bench.id)?;
        let routed = seen.vectors.iter().filter(|v| v.delivery.backend == Backend::Routed).count();
        Ok(if routed == 2 { Look::Holds(()) } else { Look::NotYet(format!("{seen:?}")) })
    })?;
    Ok([first, second, masked])
}

/// Nothing comes of what was pending; each fire is counted once.
fn works_again(bench: &mut Bench<'_>, [first, second, masked]: [&Vector; 3]) -> Result {
    let before = bench.count(masked)?;
    let again = [
        bench.spare(first.number, Row::Posted, 0)?,
        bench.spare(masked.number, Row::Nested, 0)?,
        bench.spare(second.number, Row::Nested, 0)?,
    ];
    for vector in &again {
        bench.unmask(vector)?;
    }
    bench.fence(first)?;
    bench.has_counted(masked, before)?;
    bench.fence(masked)?;
    bench.fence(second)?;
    for vector in &again {
        bench.mask(vector)?;
    }
    bench.msix.enable(&mut bench.vm.guest, false)?;
    bench.msix.enable(&mut bench.vm.guest, true)
}

fn perform(reset: Reset, function: &Registers, guest: &mut Guest) -> Result {
    const DEVICE_CONTROL: u16 = 8;
    const FUNCTION_RESET: u64 = 1 << 15;
    const POWER_CONTROL: u16 = 4;
    const POWER_STATE: u64 = 3;
    match reset {
        Reset::DeviceControl => {
            let at = function.capability(capability::EXPRESS)? + DEVICE_CONTROL;
            let control = function.config_read(guest, Width::Word, at)?;
            function.config_write(guest, Width::Word, at, control | FUNCTION_RESET)
        }
        Reset::PowerState => {
            let at = function.capability(capability::POWER)? + POWER_CONTROL;
            let control = function.config_read(guest, Width::Word, at)? & !POWER_STATE;
            function.config_write(guest, Width::Word, at, control | POWER_STATE)?;
            function.config_write(guest, Width::Word, at, control)
        }
        Reset::Kernel(method) => kernel_resets(guest, &function.bdf, method),
    }
}

fn kernel_resets(guest: &mut Guest, bdf: &str, method: &str) -> Result {
    let folder = format!("/sys/bus/pci/devices/{bdf}");
    let reset = format!("echo {method} >{folder}/reset_method && echo 1 >{folder}/reset");
    guest.run(&reset).map(drop)
}

/// The resets that the guest's kernel offers.
fn methods(guest: &mut Guest, bdf: &str) -> Result<Vec<String>> {
    let list = guest.run(&format!("cat /sys/bus/pci/devices/{bdf}/reset_method"))?;
    println!("measured: {bdf} can be reset by {list}");
    ensure(!list.trim().is_empty(), || format!("the guest cannot reset {bdf}"))?;
    Ok(list.split_whitespace().map(str::to_owned).collect())
}

fn rebind(guest: &mut Guest, kind: Kind, bdf: &str) -> Result {
    let driver = format!("/sys/bus/pci/drivers/{}", kind.driver());
    let again = format!("echo {bdf} >{driver}/unbind && echo {bdf} >{driver}/bind");
    guest.run(&again).map(drop)
}

/// The driver works, by MSI-X, and what it reads it reads from the disk.
fn used_again(vm: &mut Vm, function: &Function<'_>, id: &str) -> Result {
    vm.guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
    function.kind.use_in(&mut vm.guest)?;
    vm.mode_becomes(id, InterruptMode::Msix)
}

/// The guest's kernel suspends all devices, interrupts off and power state D3hot, and resumes them
/// (Documentation/power/basic-pm-debugging.rst).
fn suspend_and_resume(vm: &mut Vm) -> Result {
    let before = machine(vm, "route_commits")?;
    vm.guest.run(
        "echo 0 >/sys/module/suspend/parameters/pm_test_delay
         echo platform >/sys/power/pm_test && echo freeze >/sys/power/state",
    )?;
    let commits = machine(vm, "route_commits")? - before;
    println!("measured: suspend and resume: {commits} commits");
    ensure(commits <= SUSPEND_COMMITS, || format!("{commits} commits for a suspend and resume"))
}

/// The guest's table is as after reset, the host has no interrupt of the function, and no number is taken.
fn nothing_is_left(vm: &Vm, id: &str, bdf: &Bdf) -> Result {
    vm.mode_becomes(id, InterruptMode::None)?;
    let DeviceInterrupts { msix, vectors, .. } = vm.interrupts(id)?;
    let off = msix.is_some_and(|msix| !msix.enabled && !msix.function_masked);
    ensure(off, || format!("after a reset: {msix:?}"))?;
    let used = |vector: &&VectorState| {
        let (guest, delivery) = (&vector.guest, &vector.delivery);
        let left = delivery.backend != Backend::Detached || delivery.gsi.is_some();
        !guest.masked
            || guest.pending
            || guest.address != 0
            || guest.data != 0
            || delivery.wired
            || left
    };
    let left: Vec<_> = vectors.iter().filter(used).collect();
    ensure(left.is_empty(), || format!("left after a reset: {left:?}"))?;
    let taken = fs::read_dir(bdf.file("msi_irqs")).map_or(0, Iterator::count);
    same("interrupts that the host has allocated", &taken, &0)
}

/// A counter of the machine's own.
fn machine(vm: &Vm, counter: &str) -> Result<u64> {
    let counters = vm.counters()?;
    let count = counters["__machine"][counter].as_u64();
    count.ok_or_else(|| tests::Error::Unexpected(format!("no {counter} in {counters}")))
}
