//! Cases 4 to 11 of the MSI-X design: vectors of real functions, masked and unmasked by the guest's hand
//! while they fire. Functions of the file have the cases' numbers.

use tests::bench::{Bench, Stimulus, Vector};
use tests::error::{ensure, same};
use tests::host::Interrupt;
use tests::registers::RELAXED;
use tests::tally::Row;
use tests::{Kind, Options, Result, in_lab};

/// How often a masked vector fires.
const TIMES: usize = 3;

#[test]
fn case_04_to_10_an_igb_fires_its_own_vectors() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        // The driver's watchdog fires its two queues; its vector for everything else is silent.
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Igb)?.but(&[1, 2]);
        let driven = bench.of_driver(0);
        let first = bench.spare(5, Row::Posted, 0)?;
        let second = bench.spare(6, Row::Nested, 1)?;

        case_05_and_06_of_a_vector_that_was_never_awake(&mut bench, &first)?;
        case_04_right_processor_and_interrupt(&mut bench, &first, &second, 1)?;
        case_04_right_processor_and_interrupt(&mut bench, &second, &first, 0)?;
        mask_and_pending(&mut bench, &driven, &second)?;
        mask_and_pending(&mut bench, &first, &second)?;
        two_masks(&mut bench, [&driven, &first], &second)?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn case_05_to_10_hold_with_exact_pending_bits() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add_with(&nic.bdf, "nic0", "x_exact_pending")?;
        nic.kind.use_in(&mut vm.guest)?;
        // The driver's watchdog fires its four queues.
        let queues = [1, 2, 3, 4];
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Igb)?.but(&queues);
        let driven = bench.of_driver(0);
        let first = bench.spare(5, Row::Posted, 0)?;
        let second = bench.spare(6, Row::Nested, 1)?;

        case_05_and_06_of_a_vector_that_was_never_awake(&mut bench, &first)?;
        bench.unmask(&second)?;
        mask_and_pending(&mut bench, &driven, &second)?;
        mask_and_pending(&mut bench, &first, &second)?;
        bench.unmask(&first)?;
        let taken = host.interrupt(&nic.bdf, first.number)?;
        the_host_takes_nothing_of_a_masked_vector(&mut bench, &first, &taken)?;
        two_masks(&mut bench, [&driven, &first], &second)?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn case_05_to_10_the_loopback_fires_a_disk_s_vectors() {
    in_lab(|host| {
        let disk = Kind::Nvme.take(host)?;
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&disk.bdf, "disk0")?;
        disk.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "disk0", &bdf, Stimulus::Loopback)?;
        let [admin, queue, other] = [0, 1, 2].map(|vector| bench.of_driver(vector));

        mask_and_pending(&mut bench, &admin, &other)?;
        mask_and_pending(&mut bench, &queue, &other)?;
        two_masks(&mut bench, [&admin, &queue], &other)?;
        disk.kind.use_in(&mut vm.guest)
    });
}

/// The first fire comes once, to the processor and as the interrupt that the message names.
fn case_04_right_processor_and_interrupt(
    bench: &mut Bench<'_>,
    tested: &Vector,
    other: &Vector,
    elsewhere: usize,
) -> Result {
    bench.unmask(tested)?;
    let before = tested.row.each(&mut bench.vm.guest)?;
    let silent = bench.count(other)?;

    bench.fire(tested)?;

    bench.counts(tested, before.iter().sum::<u64>() + 1)?;
    let after = tested.row.each(&mut bench.vm.guest)?;
    same("the other processor's count", &after.get(elsewhere), &before.get(elsewhere))?;
    bench.has_counted(other, silent)
}

/// The device keeps the bit of a vector that was never awake, and sends its message itself.
fn case_05_and_06_of_a_vector_that_was_never_awake(
    bench: &mut Bench<'_>,
    tested: &Vector,
) -> Result {
    let before = bench.count(tested)?;
    for _ in 0..TIMES {
        bench.fire(tested)?;
    }
    bench.pending_are(&[tested])?;
    bench.has_counted(tested, before)?;

    bench.unmask(tested)?;

    bench.counts(tested, before + 1)?;
    bench.pending_are(&[])?;
    bench.fence(tested)?;
    bench.mask(tested)
}

/// The device itself keeps what fires, and sends it once at the unmask.
fn the_host_takes_nothing_of_a_masked_vector(
    bench: &mut Bench<'_>,
    tested: &Vector,
    interrupt: &Interrupt,
) -> Result {
    bench.fence(tested)?;
    let (before, taken) = (bench.count(tested)?, interrupt.taken()?);
    bench.mask(tested)?;
    for _ in 0..TIMES {
        bench.fire(tested)?;
    }
    bench.pending_are(&[tested])?;
    same("taken by the host while masked", &interrupt.taken()?, &taken)?;

    bench.unmask(tested)?;

    bench.counts(tested, before + 1)?;
    bench.pending_are(&[])?;
    same("taken by the host", &interrupt.taken()?, &(taken + 1))
}

fn mask_and_pending(bench: &mut Bench<'_>, tested: &Vector, fence: &Vector) -> Result {
    bench.unmask(tested)?;
    case_05_and_06_masked_fires_come_once(bench, tested, fence)?;
    case_07_nothing_comes_of_nothing(bench, tested, fence)?;
    case_08_an_unmask_takes_the_bit(bench, tested, fence)
}

/// While masked: nothing, and only this bit is set. Unmasked: exactly one, and no bit.
fn case_05_and_06_masked_fires_come_once(
    bench: &mut Bench<'_>,
    tested: &Vector,
    fence: &Vector,
) -> Result {
    let before = bench.count(tested)?;
    bench.mask(tested)?;
    for _ in 0..TIMES {
        bench.fire(tested)?;
    }
    bench.pending_are(&[tested])?;
    bench.fence(fence)?;
    bench.has_counted(tested, before)?;

    bench.unmask(tested)?;

    bench.counts(tested, before + 1)?;
    bench.pending_are(&[])?;
    bench.fence(fence)?;
    bench.has_counted(tested, before + 1)
}

fn case_07_nothing_comes_of_nothing(
    bench: &mut Bench<'_>,
    tested: &Vector,
    fence: &Vector,
) -> Result {
    let before = bench.count(tested)?;
    bench.mask(tested)?;
    bench.pending_are(&[])?;

    bench.unmask(tested)?;

    bench.fence(fence)?;
    bench.has_counted(tested, before)
}

fn case_08_an_unmask_takes_the_bit(
    bench: &mut Bench<'_>,
    tested: &Vector,
    fence: &Vector,
) -> Result {
    let before = bench.count(tested)?;
    bench.mask(tested)?;
    bench.fire(tested)?;
    bench.pending_are(&[tested])?;
    bench.unmask(tested)?;
    bench.counts(tested, before + 1)?;

    bench.mask(tested)?;
    bench.pending_are(&[])?;
    bench.unmask(tested)?;

    bench.fence(fence)?;
    bench.has_counted(tested, before + 1)
}

fn two_masks(bench: &mut Bench<'_>, tested: [&Vector; 2], fence: &Vector) -> Result {
    case_09_function_mask(bench, tested, fence)?;
    case_10_vector_mask_goes_first(bench, tested, fence)?;
    case_10_function_mask_goes_first(bench, tested, fence)
}

/// Two vectors fire under the function mask: one each when it goes.
fn case_09_function_mask(bench: &mut Bench<'_>, [a, b]: [&Vector; 2], fence: &Vector) -> Result {
    let before = [bench.count(a)?, bench.count(b)?];
    bench.mask_function(true)?;
    fire_both(bench, [a, b])?;
    bench.has_counted(a, before[0])?;
    bench.has_counted(b, before[1])?;

    bench.mask_function(false)?;

    bench.counts(a, before[0] + 1)?;
    bench.counts(b, before[1] + 1)?;
    bench.pending_are(&[])?;
    bench.fence(fence)?;
    bench.has_counted(a, before[0] + 1)?;
    bench.has_counted(b, before[1] + 1)
}

fn case_10_vector_mask_goes_first(
    bench: &mut Bench<'_>,
    [a, b]: [&Vector; 2],
    fence: &Vector,
) -> Result {
    let before = [bench.count(a)?, bench.count(b)?];
    bench.mask_function(true)?;
    bench.mask(a)?;
    fire_both(bench, [a, b])?;

    bench.unmask(a)?;
    bench.pending_are(&[a, b])?;
    bench.has_counted(a, before[0])?;
    bench.mask_function(false)?;

    bench.counts(a, before[0] + 1)?;
    bench.counts(b, before[1] + 1)?;
    bench.fence(fence)?;
    bench.has_counted(a, before[0] + 1)
}

fn case_10_function_mask_goes_first(
    bench: &mut Bench<'_>,
    [a, b]: [&Vector; 2],
    fence: &Vector,
) -> Result {
    let before = [bench.count(a)?, bench.count(b)?];
    bench.mask(a)?;
    bench.mask_function(true)?;
    fire_both(bench, [a, b])?;

    bench.mask_function(false)?;
    bench.counts(b, before[1] + 1)?;
    bench.pending_are(&[a])?;
    bench.fence(fence)?;
    bench.has_counted(a, before[0])?;
    bench.unmask(a)?;

    bench.counts(a, before[0] + 1)?;
    bench.pending_are(&[])?;
    let masked = bench.msix.is_masked(&mut bench.vm.guest, a.number)?;
    ensure(!masked, || "the mask bit reads back as set".to_owned())
}

fn fire_both(bench: &mut Bench<'_>, [a, b]: [&Vector; 2]) -> Result {
    for _ in 0..TIMES {
        bench.fire(a)?;
        bench.fire(b)?;
    }
    bench.pending_are(&[a, b])
}
