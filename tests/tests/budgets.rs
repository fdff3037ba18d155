//! What a plugged function may cost. Counts are the kernel's own and exact; `scripts/test -v budgets::`
//! prints them, and the times, for docs/performance.md.

use std::time::Instant;

use tests::counts::{Probes, memory_beside_guest};
use tests::error::ensure;
use tests::{Kind, Options, in_lab};

/// For one e1000e: plugged, its three vectors taken by the driver, used. A peer: 3, 3, 3, 1,978, 12.
/// 7 requests, 9 when the guest is so slow that its vectors are not promoted together.
const E1000E: &[(&str, u64)] = &[
    ("route_commits", 5),
    ("irqfd_calls", 6),
    ("set_irqs", 10),
    ("config_accesses", 100),
    ("memslot_changes", 8),
];

/// KiB beside the guest's RAM, with two devices.
const MEMORY: u64 = 4096;

#[test]
fn one_e1000e_costs_few_kernel_calls() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        let probes = Probes::install()?;

        let counts = probes.during(|| {
            vm.add(&nic.bdf, "nic0")?;
            nic.kind.use_in(&mut vm.guest)
        })?;

        println!("measured: one e1000e: {counts}");
        counts.within(E1000E)
    });
}

#[test]
fn two_devices_cost_little_memory() {
    in_lab(|host| {
        let (nic, disk) = (Kind::E1000e.take(host)?, Kind::Nvme.take(host)?);
        let begun = Instant::now();
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        let (up, alone) = (begun.elapsed(), memory_beside_guest(vm.pid())?);

        let begun = Instant::now();
        vm.add(&nic.bdf, "nic0")?;
        let first = begun.elapsed();
        nic.kind.use_in(&mut vm.guest)?;
        let begun = Instant::now();
        vm.add(&disk.bdf, "disk0")?;
        let second = begun.elapsed();
        disk.kind.use_in(&mut vm.guest)?;

        let with_two = memory_beside_guest(vm.pid())?;
        println!("measured: guest up {up:.2?}, first add {first:.2?}, second add {second:.2?}");
        println!(
            "measured: memory beside the guest's: {alone} KiB, with two devices {with_two} KiB"
        );
        ensure(with_two <= MEMORY, || format!("{with_two} KiB of {MEMORY}"))
    });
}
