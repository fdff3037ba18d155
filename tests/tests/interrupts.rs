//! The guest counts MSI-X interrupts, and the VMM takes no part in their delivery.

use tests::error::ensure;
use tests::{Host, Kind, Options, Result, in_lab};

#[test]
fn e1000e_interrupts_are_counted() {
    in_lab(|host| interrupts_are_counted(host, Kind::E1000e));
}

#[test]
fn igb_interrupts_are_counted() {
    in_lab(|host| interrupts_are_counted(host, Kind::Igb));
}

#[test]
fn interrupts_of_an_igb_virtual_function_are_counted() {
    in_lab(|host| interrupts_are_counted(host, Kind::IgbVf));
}

#[test]
fn nvme_interrupts_are_counted() {
    in_lab(|host| interrupts_are_counted(host, Kind::Nvme));
}

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

fn interrupts_are_counted(host: &Host, kind: Kind) -> Result {
    let function = kind.take(host)?;
    let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
    let bdf = vm.add(&function.bdf, "dev0")?;
    kind.use_in(&mut vm.guest)?;
    let before = kind.msix_count(&mut vm.guest, &bdf)?;
    vm.guest.run("echo 3 >/proc/sys/vm/drop_caches")?; // so that a disk is read, not remembered

    kind.use_in(&mut vm.guest)?;

    let after = kind.msix_count(&mut vm.guest, &bdf)?;
    println!("{before} interrupts, then {after}");
    ensure(before > 0 && after > before, || format!("{before} interrupts, then {after}"))
}
