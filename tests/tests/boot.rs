//! Stock kernels boot, see the processors and the memory they were given, and end when they want to.

use tests::error::ensure;
use tests::{Flavour, Options, Result, Vm, in_lab};

#[test]
fn linux_6_12_boots_and_powers_off() {
    in_lab(|_| boots_and_powers_off(Options::default()));
}

#[test]
fn linux_6_12_for_clouds_boots_and_powers_off() {
    in_lab(|_| {
        boots_and_powers_off(Options { flavour: Flavour::CloudV6_12, ..Options::default() })
    });
}

#[test]
fn linux_6_1_boots_and_powers_off() {
    in_lab(|_| boots_and_powers_off(Options { flavour: Flavour::Amd64V6_1, ..Options::default() }));
}

#[test]
fn linux_6_1_for_clouds_boots_and_powers_off() {
    in_lab(|_| boots_and_powers_off(Options { flavour: Flavour::CloudV6_1, ..Options::default() }));
}

#[test]
fn elf_kernel_boots_through_pvh() {
    in_lab(|_| boots_and_powers_off(Options { elf: true, ..Options::default() }));
}

#[test]
fn four_processors_and_memory_past_the_hole_are_seen() {
    in_lab(|_| {
        let mut vm = Options { cpus: "boot=4", memory: "size=5G", ..Options::default() }.boot()?;

        let processors = vm.guest.run("nproc")?;
        let above_4g = vm.guest.run("grep -c '^1[0-9a-f]*-1.*: System RAM' /proc/iomem")?;
        let kilobytes = memory_total(&mut vm)?;

        ensure(processors == "4", || format!("the guest sees {processors} processors"))?;
        ensure(above_4g == "1", || "the guest has no RAM above 4 GiB".into())?;
        ensure(kilobytes > 4_900_000, || format!("the guest sees {kilobytes} kB"))?;
        power_off(vm)
    });
}

#[test]
fn guest_that_reboots_comes_back() {
    in_lab(|_| {
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;

        let processors = vm.guest.run("nproc")?;
        ensure(processors == "2", || format!("after its reboot it sees {processors} processors"))?;
        power_off(vm)
    });
}

#[test]
fn triple_fault_restarts_the_guest() {
    in_lab(|_| {
        // reboot=t makes Linux reboot by loading an empty interrupt table and trapping.
        let mut vm = Options { words: "reboot=t", ..Options::default() }.boot()?;

        vm.guest.type_in("reboot -f\n")?;

        vm.guest.ready()?;
        power_off(vm)
    });
}

#[test]
fn clients_can_reboot_stop_and_boot_again() {
    in_lab(|_| {
        let mut vm = Options::default().boot()?;

        vm.api.put("vm.reboot")?.ok()?;
        vm.guest.ready()?;
        vm.api.put("vm.shutdown")?.ok()?;
        let state = vm.info()?["state"].clone();
        vm.boot_again()?;

        ensure(state == "Shutdown", || format!("after vm.shutdown it is {state}"))?;
        vm.guest.ready()?;
        vm.api.put("vmm.shutdown")?.ok()?;
        let status = vm.ended()?;
        ensure(status.success(), || format!("vmm.shutdown ended with {status}"))
    });
}

fn boots_and_powers_off(options: Options) -> Result {
    let vm = options.boot()?;
    power_off(vm)
}

fn power_off(mut vm: Vm) -> Result {
    vm.guest.type_in("poweroff -f\n")?;
    let status = vm.ended()?;
    ensure(status.success(), || format!("after the guest's power-off hotbay ended with {status}"))
}

fn memory_total(vm: &mut Vm) -> Result<u64> {
    let total = vm.guest.run("awk '/^MemTotal:/ { print $2 }' /proc/meminfo")?;
    total.parse().map_err(|_| tests::Error::Unexpected(format!("MemTotal is {total:?}")))
}
