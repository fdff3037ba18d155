//! Cases 4 to 11 of the MSI-X design: vectors of real functions, masked and unmasked by the guest's hand
//! while they fire. Functions of the file have the cases' numbers.

use std::time::Duration;

use api::schema::interrupts::InterruptMode;
use tests::bench::{Bench, IGB_QUEUES, Stimulus, Vector};
use tests::error::{ensure, same};
use tests::host::Interrupt;
use tests::registers::RELAXED;
use tests::resends::Resends;
use tests::tally::Row;
use tests::wait::{Look, until};
use tests::{Kind, Options, Result, in_lab};

/// From asking Linux to move a vector to its being elsewhere, while it fires.
const MOVE_LIMIT: Duration = Duration::from_secs(30);

/// How often a masked vector fires.
const TIMES: usize = 3;

#[test]
fn case_04_to_11_and_15_an_igb_fires_its_own_vectors() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Igb)?.but(&IGB_QUEUES);
        let driven = bench.of_driver(0);
        let first = bench.spare(5, Row::Posted, 0)?;
        let second = bench.spare(6, Row::Nested, 1)?;

        case_05_and_06_of_a_vector_that_was_never_awake(&mut bench, &first)?;
        case_04_right_processor_and_interrupt(&mut bench, &first, &second, 1)?;
        case_04_right_processor_and_interrupt(&mut bench, &second, &first, 0)?;
        mask_and_pending(&mut bench, &driven, &second)?;
        mask_and_pending(&mut bench, &first, &second)?;
        two_masks(&mut bench, [&driven, &first], &second)?;
        case_11_affinity_changes_under_fire(&mut bench, &driven)?;
        case_15_disabled_in_flight_and_enabled_again(&mut bench, &first, &second)?;
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
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Igb)?.but(&IGB_QUEUES);
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
        case_05_and_06_a_read_waits_for_the_unmask(&mut bench, &queue)?;
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

/// The disk itself fires: its completion is pending while the vector is masked, and the reader waits.
fn case_05_and_06_a_read_waits_for_the_unmask(bench: &mut Bench<'_>, queue: &Vector) -> Result {
    let before = bench.count(queue)?;
    bench.mask(queue)?;
    bench.vm.guest.run(
        "(taskset 1 dd if=/dev/nvme0n1 of=/dev/null bs=4k count=1 iflag=direct && touch /tmp/read) \
         >/dev/null 2>&1 &",
    )?;
    bench.pending_are(&[queue])?;
    bench.has_counted(queue, before)?;
    bench.vm.guest.run("[ ! -e /tmp/read ]")?;

    bench.unmask(queue)?;

    bench.counts(queue, before + 1)?;
    bench.vm.guest.wait_for("the read has ended", "[ -e /tmp/read ]").map(drop)
}

/// Linux moves a vector between processors all the time while it fires: each fire is counted, once.
/// When it stays, nothing comes at the processor that it has left. Who fires has been on every processor since the
/// last count, so that no handler runs any more: Linux would have it run again, and count nothing (`handle_edge_irq`).
fn case_11_affinity_changes_under_fire(bench: &mut Bench<'_>, tested: &Vector) -> Result {
    const FIRES: u64 = 40;
    let (irq, fire) = (tested.row.irq(&mut bench.vm.guest)?, bench.command(tested)?);
    let (resends, before) = (Resends::watch()?, bench.count(tested)?);

    let moves = bench.vm.guest.run(&format!(
        "rm -f /tmp/over
         moves=0; while [ ! -e /tmp/over ]; do for cpu in 1 2; do
           echo $cpu >/proc/irq/{irq}/smp_affinity; moves=$((moves + 1)); echo $moves >/tmp/moves
         done; done &
         read -r self _ </proc/self/stat
         for fire in $(seq {FIRES}); do
           for cpus in 1 2 3; do taskset -p $cpus $self >/dev/null; done
           {fire}
           looks=0; until [ $({count}) -ge $(({before} + fire)) ]; do
             looks=$((looks + 1)); [ $looks -lt 500 ] || {{ echo fire $fire is lost; exit 1; }}
           done
         done
         touch /tmp/over; wait; cat /tmp/moves",
        count = tested.row.counting(),
    ))?;

    println!("measured: {FIRES} fires under {moves} changes of affinity");
    let counted = bench.count(tested)? - before;
    let resent = resends.so_far()?;
    let all = FIRES..=FIRES + resent;
    ensure(all.contains(&counted), || {
        format!("{counted} of {FIRES}, {resent} by the guest itself")
    })?;
    bench.vm.guest.run(&format!("echo 2 >/proc/irq/{irq}/smp_affinity"))?;
    // Linux moves it as it takes an interrupt, unless the last move is not over yet.
    until("the move", MOVE_LIMIT, || {
        bench.fence(tested)?;
        let at = bench.vm.guest.run(&format!("cat /proc/irq/{irq}/effective_affinity"))?;
        Ok(if at.trim() == "2" { Look::Holds(()) } else { Look::NotYet(at) })
    })?;
    let left = tested.row.each(&mut bench.vm.guest)?;
    for _ in 0..TIMES {
        bench.fence(tested)?;
    }
    let now = tested.row.each(&mut bench.vm.guest)?;
    same("the processor that it has left", &now.first(), &left.first())
}

/// What was fired before the disable is delivered by then, or never.
fn case_15_disabled_in_flight_and_enabled_again(
    bench: &mut Bench<'_>,
    tested: &Vector,
    fence: &Vector,
) -> Result {
    let fire = bench.command(tested)?;
    for _ in 0..10 {
        bench.vm.guest.run(&[fire.as_str(); 4].join("; "))?;
        bench.msix.enable(&mut bench.vm.guest, false)?;
        bench.vm.mode_becomes(bench.id, InterruptMode::None)?;
        let delivered = bench.count(tested)?;

        bench.msix.enable(&mut bench.vm.guest, true)?;

        bench.fence(fence)?;
        bench.has_counted(tested, delivered)?;
    }
    case_15_a_pending_bit_does_not_survive(bench, tested, fence)
}

fn case_15_a_pending_bit_does_not_survive(
    bench: &mut Bench<'_>,
    tested: &Vector,
    fence: &Vector,
) -> Result {
    let before = bench.count(tested)?;
    bench.mask(tested)?;
    bench.fire(tested)?;
    bench.pending_are(&[tested])?;

    bench.msix.enable(&mut bench.vm.guest, false)?;
    bench.msix.enable(&mut bench.vm.guest, true)?;

    bench.pending_are(&[])?;
    bench.unmask(tested)?;
    bench.fence(fence)?;
    bench.has_counted(tested, before)?;
    bench.fence(tested)
}
