//! Interrupts do not wait for what is slow: vectors are reprogrammed under fire while another device is
//! added and removed, and while the event loop and the worker that does it are stopped in the middle.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::error::{Doing, Error, ensure};
use tests::evidence::keep;
use tests::guest::Guest;
use tests::hold::{Hold, catch, portrait, threads_called};
use tests::registers::{RELAXED, Registers};
use tests::resends::Resends;
use tests::tally::Row;
use tests::vm::add_body;
use tests::wait::{Look, until};
use tests::{Bdf, Host, Kind, Options, Result, Vm, in_lab};

/// Turns to know what is usual, and turns while others are held.
const TURNS: u32 = 100;
/// From a request to the worker that it starts; for a removal, the guest unbinds its driver first.
const CATCH_LIMIT: Duration = Duration::from_secs(120);
/// Of all turns that are waited for.
const TURN_LIMIT: Duration = Duration::from_secs(60);
/// Extended Interrupt Cause Set of Intel's 82576, in BAR 0 (its data sheet, 8.8).
const CAUSE_SET: u64 = 0x1520;

/// Gives a vector another processor in each turn, which the kernel does in the next interrupt: mask, new
/// message, unmask. Fires it, awaiting each interrupt, until one arrives where it was sent: the first is
/// counted before the kernel writes the message, and while it still cleans up after the last turn it puts the
/// write off to a later interrupt (`irq_move_masked_irq`, EBUSY).
///
/// Runs on the processor that the vector leaves: a count seen there is of a handler that has ended. An interrupt that came
/// to the other processor while a handler still ran would have it run again and count nothing (`handle_edge_irq`,
/// `IRQS_PENDING`).
const TURNING: &str = r#"turning() {
  irq=$1 cause=$2 turn=0
  read -r self _ </proc/self/stat
  counts=/sys/kernel/irq/$irq/per_cpu_count
  IFS=, read -r seen0 seen1 <$counts
  while :; do
    to=$((turn % 2)) fired=0
    taskset -p $((2 - to)) $self >/dev/null
    from0=$seen0 from1=$seen1
    read -r from _ </proc/uptime
    echo $((to + 1)) >/proc/irq/$irq/smp_affinity
    while :; do
      devmem $cause 32 1
      fired=$((fired + 1))
      before0=$seen0 before1=$seen1
      while IFS=, read -r seen0 seen1 <$counts && [ $((seen0 + seen1)) = $((before0 + before1)) ]; do :; done
      [ $to = 0 ] && [ $seen0 != $before0 ] && break
      [ $to = 1 ] && [ $seen1 != $before1 ] && break
    done
    read -r till _ </proc/uptime
    turn=$((turn + 1))
    took=$((${till%.*}${till#*.} - ${from%.*}${from#*.}))
    echo $took $fired $((seen0 + seen1 - from0 - from1)) >>/tmp/turns
  done
}"#;

#[test]
fn vectors_are_reprogrammed_under_fire_while_another_device_comes_and_goes() {
    in_lab(|host| {
        let (nic, disk) = (Kind::Igb.take(host)?, Kind::Nvme.take(host)?);
        let mut vm = Options { cpus: "boot=2", words: RELAXED, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        let vector = Row::Vector(bdf.clone(), 0);
        let mut turning = Turning::new(host, nic.bdf.clone(), vector, &mut vm.guest)?;
        turning.begin(&mut vm.guest, &bdf)?;
        turning.go_on()?;
        let alone = longest(&mut vm.guest)?;

        let took = add_under_fire(&vm, &turning, &disk.bdf)?;
        let during = longest(&mut vm.guest)?;
        println!("longest turn: {alone:?} alone, {during:?} while an add took {took:?}");
        let (add, remove) = (
            ("vm.add-device", add_body(&disk.bdf, "disk0")),
            ("vm.remove-device", json!({ "id": "disk0", "wait_ms": 120_000 })),
        );
        let mut held = Vec::new();
        for caught in [Caught::WithItsWorker, Caught::WithItsGroup] {
            held.push(hold(&mut vm, &turning, (Caught::WithItsWorker, &remove))?);
            held.push(hold(&mut vm, &turning, (caught, &add))?);
        }
        println!("longest turn, time held: {held:?}");
        for (longest, stood) in held {
            ensure(longest < stood / 2, || format!("a turn took {longest:?} of {stood:?}"))?;
        }
        turning.end(&mut vm.guest)?;
        disk.kind.use_in(&mut vm.guest)?;
        nic.kind.use_in(&mut vm.guest)
    });
}

/// Where a worker is when it is stopped.
#[derive(Debug, Clone, Copy)]
enum Caught {
    /// It has just begun.
    WithItsWorker,
    /// It has opened the device's group: the device's reset comes next.
    WithItsGroup,
}

/// Vectors of a function that turn, seen from both sides. What the guest prints passes the event loop,
/// so while that is held, only the host's count of interrupts tells that turns are made.
struct Turning<'h> {
    host: &'h Host,
    function: Bdf,
    vector: Row,
    resends: Resends,
    /// Interrupts that the host had taken, and the guest, before the first turn.
    before: (u64, u64),
}

impl<'h> Turning<'h> {
    fn new(host: &'h Host, function: Bdf, vector: Row, guest: &mut Guest) -> Result<Self> {
        let resends = Resends::watch()?;
        let mut turning = Self { host, function, vector, resends, before: (0, 0) };
        turning.before = (turning.taken()?, turning.vector.count(guest)?);
        Ok(turning)
    }

    fn begin(&self, guest: &mut Guest, bdf: &str) -> Result {
        let cause = Registers::of(guest, bdf)?.bar(0)? + CAUSE_SET;
        let irq = self.vector.irq(guest)?;
        guest.run(TURNING)?;
        guest.run(&format!("turning {irq} {cause:#x} & echo $! >/tmp/turning"))?;
        Ok(())
    }

    /// Ends the turning. Each interrupt that the host has taken has reached the guest then, once; what the guest has
    /// counted beyond, it has sent itself.
    fn end(&mut self, guest: &mut Guest) -> Result {
        guest.run("kill $(cat /tmp/turning)")?;
        let each = until("each interrupt in the guest, once", TURN_LIMIT, || {
            let taken = self.taken()? - self.before.0;
            let counted = self.vector.count(guest)? - self.before.1;
            let resends = self.resends.so_far()?;
            let each = format!("host {taken}, guest {counted}, {resends} sent by itself");
            let all = taken..=taken + resends;
            Ok(if all.contains(&counted) { Look::Holds(each) } else { Look::NotYet(each) })
        })?;
        println!("measured: interrupts: {each}");
        Ok(())
    }

    /// For whoever wonders where an interrupt is: what the VMM has of it, and the guest.
    fn keep_both_sides(&self, vm: &mut Vm) {
        let vmm = vm
            .interrupts("nic0")
            .map_or_else(|error| error.to_string(), |seen| format!("{seen:#?}"));
        keep("the VMM's side of the interrupts", vmm);
        let look =
            "tail -n 3 /tmp/turns; grep PCI /proc/interrupts; cat /proc/$(cat /tmp/turning)/stat";
        let guest = vm.guest.try_run(look).map_or_else(|error| error.to_string(), |seen| seen.text);
        keep("the guest's side of them", guest);
    }

    /// Waits until the host has taken the interrupts of so many turns more.
    fn go_on(&self) -> Result {
        let before = self.taken()?;
        until("interrupts of a vector that turns", TURN_LIMIT, || {
            let taken = self.taken()? - before;
            let enough = taken >= u64::from(2 * TURNS);
            Ok(if enough { Look::Holds(()) } else { Look::NotYet(format!("{taken} interrupts")) })
        })
    }

    fn taken(&self) -> Result<u64> {
        self.host.interrupts(&format!("vfio-msix[0]({})", self.function))
    }
}

/// The longest turn since the last call, after looking that each had as many interrupts as were fired. More may come
/// from the guest itself, which [`Turning::end`] accounts for.
fn longest(guest: &mut Guest) -> Result<Duration> {
    let turns = guest.run("mv /tmp/turns /tmp/looked && cat /tmp/looked")?;
    let mut longest = Duration::ZERO;
    for turn in turns.lines() {
        let numbers: Vec<u64> = turn.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [centiseconds, fired, arrived] = numbers[..] else {
            return Err(Error::Unexpected(format!("a turn of {turn:?}")));
        };
        ensure(arrived >= fired, || format!("{fired} fired, {arrived} arrived"))?;
        longest = longest.max(Duration::from_millis(10 * centiseconds));
    }
    Ok(longest)
}

/// Adds a device while the host fires another vector of the first all the time; how long that took.
fn add_under_fire(vm: &Vm, turning: &Turning<'_>, bdf: &Bdf) -> Result<Duration> {
    let api = vm.api.clone();
    let begun = Instant::now();
    let body = add_body(bdf, "disk0");
    thread::scope(|scope| {
        let adding = scope.spawn(|| {
            api.put_json("vm.add-device", &body)?.ok()?;
            Ok(begun.elapsed())
        });
        let firing = scope.spawn(|| {
            while !adding.is_finished() {
                let fire = json!({ "id": "nic0", "vector": 1 });
                api.put_json("vm.test-interrupt", &fire)?.ok()?;
            }
            adding.join().map_err(|_| Error::Unexpected("the add has panicked".to_owned()))?
        });
        turning.go_on()?;
        firing.join().map_err(|_| Error::Unexpected("the firing has panicked".to_owned()))?
    })
}

/// Stops the event loop and its workers in the middle of a request, and lets them go on after some turns:
/// the longest of these, and how long the others were held.
fn hold(
    vm: &mut Vm,
    turning: &Turning<'_>,
    (caught, (verb, body)): (Caught, &(&str, Value)),
) -> Result<(Duration, Duration)> {
    let (pid, api) = (vm.pid(), vm.api.clone());
    let groups = open_groups(pid)?;
    let stood = thread::scope(|scope| {
        let hold = Hold::of(pid, "hotbay")?;
        let acting = scope.spawn(move || api.put_json(verb, body)?.ok());
        catch(&format!("{verb} {caught:?}"), CATCH_LIMIT, || match caught {
            Caught::WithItsWorker => Ok(!threads_called(pid, "worker")?.is_empty()),
            Caught::WithItsGroup => Ok(open_groups(pid)? > groups),
        })?;
        hold.stop()?;
        let begun = Instant::now();
        turning.go_on().inspect_err(|_| keep("the VMM's threads", portrait(pid)))?;
        let stood = begun.elapsed();
        ensure(!acting.is_finished(), || format!("{verb} was not held"))?;
        hold.go_on()?;
        acting.join().map_err(|_| Error::Unexpected(format!("{verb} has panicked")))??;
        Ok::<_, Error>(stood)
    })
    .inspect_err(|_| turning.keep_both_sides(vm))?;
    Ok((longest(&mut vm.guest)?, stood))
}

/// How many VFIO groups a process has open.
fn open_groups(pid: u32) -> Result<usize> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).doing("list descriptors")?;
    let links = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let group = |link: &PathBuf| {
        let name = link.strip_prefix("/dev/vfio").ok().and_then(Path::to_str);
        name.is_some_and(|name| name.parse::<u32>().is_ok())
    };
    Ok(links.filter(group).count())
}
