//! Case 19 of the MSI-X design: a guest moves the BAR that holds the MSI-X table, with MSI-X on.

use tests::bench::{Bench, Stimulus, Vector};
use tests::error::same;
use tests::guest::Guest;
use tests::registers::{RELAXED, Width, read_memory, write_memory};
use tests::tally::Row;
use tests::{Kind, Options, Result, in_lab};

/// Far enough from every BAR of these guests, and inside the bridge's windows.
const FURTHER: u64 = 16 << 20;

#[test]
fn case_19_table_is_moved_under_a_driver_that_goes_on() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options { words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Loopback)?;
        // The driver fires its receive queue now and then.
        bench = bench.but(&[0]);
        let tested = bench.of_driver(2);
        let fence = bench.spare(3, Row::Posted, 0)?;
        bench.unmask(&fence)?;

        there_and_back(&mut bench, &tested, &fence, |guest| nic.kind.use_in(guest))
    });
}

#[test]
fn case_19_table_is_moved_with_the_registers_in_its_bar() {
    in_lab(|host| {
        let disk = Kind::Nvme.take(host)?;
        let mut vm = Options { words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&disk.bdf, "disk0")?;
        disk.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "disk0", &bdf, Stimulus::Loopback)?;
        let [tested, fence] = [0, 1].map(|vector| bench.of_driver(vector));

        // The driver's own registers are away meanwhile, so the disk rests.
        there_and_back(&mut bench, &tested, &fence, |_| Ok(()))?;

        vm.guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
        disk.kind.use_in(&mut vm.guest)
    });
}

/// Moves the table's BAR, tries its vectors there, and moves it back. `used` uses the function.
fn there_and_back(
    bench: &mut Bench<'_>,
    tested: &Vector,
    fence: &Vector,
    used: impl Fn(&mut Guest) -> Result,
) -> Result {
    let home = bench.msix.function.bar(bench.msix.table_bar())?;
    let old = bench.msix.addresses()?;
    let message = bench.msix.message(&mut bench.vm.guest, tested.number)?;

    pending_on_the_way(bench, tested, fence, home + FURTHER)?;
    same("the moved message", &bench.msix.message(&mut bench.vm.guest, tested.number)?, &message)?;
    nobody_answers_at(&mut bench.vm.guest, old)?;
    bench.fence(tested)?;
    used(&mut bench.vm.guest)?;

    let old = bench.msix.addresses()?;
    pending_on_the_way(bench, tested, fence, home)?;
    nobody_answers_at(&mut bench.vm.guest, old)?;
    bench.fence(tested)?;
    used(&mut bench.vm.guest)
}

/// A masked vector is pending before the move, still after, and comes once when it is unmasked there.
fn pending_on_the_way(bench: &mut Bench<'_>, tested: &Vector, fence: &Vector, to: u64) -> Result {
    let before = bench.count(tested)?;
    bench.mask(tested)?;
    bench.fire(tested)?;
    bench.pending_are(&[tested])?;

    let bar = bench.msix.table_bar();
    bench.msix.function.move_bar(&mut bench.vm.guest, bar, to)?;

    bench.pending_are(&[tested])?;
    bench.fence(fence)?;
    bench.has_counted(tested, before)?;
    bench.unmask(tested)?;
    bench.counts(tested, before + 1)?;
    bench.pending_are(&[])
}

/// Table and pending bits read as ones, and a write goes nowhere.
fn nobody_answers_at(guest: &mut Guest, addresses: [u64; 2]) -> Result {
    for address in addresses {
        write_memory(guest, Width::Dword, address, 0)?;
        same("the old place", &read_memory(guest, Width::Dword, address)?, &0xffff_ffff)?;
    }
    Ok(())
}
