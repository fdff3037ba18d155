//! Scenes that measure time: no other lab is up while they are played.
//!
//! The first device of a guest has all RAM faulted in and pinned. While 2 GiB of it are cold that takes seconds under
//! emulation, in which nobody else is to notice anything.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::error::{Doing, ensure};
use tests::meanwhile::{Asked, Latencies, Ticker, Ticks, asking, pinging};
use tests::metronome::Metronome;
use tests::monitor::Monitor;
use tests::rounds::{at_length, rounds};
use tests::vm::add_body;
use tests::{Function, Host, Kind, Options, Result, Vm, in_lab};

const TICKER: &str = env!("CARGO_BIN_EXE_ticker");
const MIB: u64 = 1 << 20;

/// Only one ping in a hundred takes longer.
const PING_P99: Duration = Duration::from_millis(20);
/// No ping takes longer, and no timer of the guest is late by more.
const LONGEST: Duration = Duration::from_millis(100);
/// An add when RAM is warm.
const WARM_ADD: Duration = Duration::from_millis(1500);
/// Who waits for the mapping waits for the half of the add that is watched; nobody waits for half of that.
const PART: u32 = 4;
/// Pings and ticks of the guest's without which nothing was watched.
const FEWEST: usize = 100;
/// Rounds in every run of the tests.
const ROUNDS: u32 = 1;

/// What was seen while cold RAM was being mapped.
struct Seen {
    add: Duration,
    pings_before: Latencies,
    pings: Latencies,
    before: Ticks,
    during: Ticks,
    /// The longest time for which a processor of the host ran nothing: that is the lab's, or the machine's.
    still: Duration,
}

#[test]
fn nobody_notices_while_cold_ram_is_mapped_faster_than_by_one_thread() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let rounds = rounds(ROUNDS)?;
        let mut within = 0;
        for _ in 0..rounds {
            if at_length() {
                host.clear_free_memory()?;
            }
            let seen = add_under_watch(host, &nic)?;
            seen.nobody_waited()?;
            if at_length() {
                within += u32::from(seen.is_within_budgets(add_by_one_thread(&nic)?));
            }
        }
        if !at_length() {
            return Ok(());
        }
        println!("measured: {within} of {rounds} rounds within all budgets");
        ensure(2 * within > rounds, || "most rounds were not within them".into())
    });
}

impl Seen {
    /// Who waits for the mapping waits on any machine, however slow.
    fn nobody_waited(&self) -> Result {
        let Self { add, pings_before, pings, before, during, still } = self;
        println!("measured: 2 GiB of cold RAM: {add:.2?}");
        println!("measured: pings before {pings_before}, during {pings}");
        println!(
            "measured: guest before {before:?}, during {during:?}; a processor stood still for {still:.2?}"
        );
        ensure(during.count > FEWEST as u64, || format!("the guest hardly ran: {during:?}"))?;
        ensure(pings.count() > FEWEST, || format!("hardly a ping was answered: {pings}"))?;
        let longest = pings.longest().max(during.longest);
        ensure(longest.saturating_sub(*still) < *add / PART, || {
            format!("somebody waited for {longest:.2?} of the add's {add:.2?}")
        })
    }

    /// What is wanted of a machine that has nothing else to do, where one thread takes `alone` for the add.
    fn is_within_budgets(&self, alone: Duration) -> bool {
        let ratio = alone.as_secs_f64() / self.add.as_secs_f64();
        println!("measured: by one thread {alone:.2?}, ratio {ratio:.2}");
        let longest = self.pings.longest().max(self.during.longest);
        self.pings.p99() < PING_P99 && longest < LONGEST && ratio > 1.0
    }
}

#[test]
fn device_is_there_soon_when_ram_was_warmed_in_the_background() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let (mut vm, events) = up("size=2G,prefault=background", Vec::new())?;
        events.first("memory-warmed", |_| true)?;
        let warm = vm.info()?["memory_warm_size"].take();
        ensure(warm == 2048 * MIB, || format!("{warm} bytes are warm"))?;

        let begun = Instant::now();
        vm.add(&nic.bdf, "nic0")?;
        let add = begun.elapsed();

        println!("measured: add with 2 GiB of warm RAM: {add:.2?}");
        ensure(add < WARM_ADD, || format!("{add:.2?}"))?;
        nic.kind.use_in(&mut vm.guest)
    });
}

/// The first half of an add of 2 GiB, as clients and the guest see it; after that, a pause and a resume.
fn add_under_watch(host: &Host, nic: &Function<'_>) -> Result<Seen> {
    let dir = tempfile::tempdir().doing("make a folder")?;
    let ticker = Ticker::new(TICKER, dir.path())?;
    let (mut vm, events) = up("size=2G", vec![ticker.archive()])?;
    ticker.start(&mut vm.guest)?;
    let (before, pings_before) =
        pinging(&vm.api.clone(), || ticker.stop_after(300, &mut vm.guest))?;
    ticker.start(&mut vm.guest)?;
    let metronome = Metronome::start(TICKER, host)?;
    let (api, body) = (vm.api.clone(), add_body(&nic.bdf, "nic0"));
    let (Asked { answer, took: add }, (pings, during, still)) =
        asking(&api, ("vm.add-device", &body), || {
            let ((), pings) = pinging(&api, || events.mapped(1024 * MIB))?;
            let during = ticker.stop_after(0, &mut vm.guest)?;
            for (verb, state) in [("vm.pause", "Paused"), ("vm.resume", "Running")] {
                api.put(verb)?.ok()?;
                let info = vm.info()?;
                let phase = &info["device_tree"]["nic0"]["progress"]["phase"];
                let as_expected = info["state"] == state && phase == "Mapping";
                ensure(as_expected, || format!("after {verb}: {info}"))?;
            }
            Ok((pings, during, metronome.longest()?))
        })?;
    answer.ok()?;
    nic.kind.use_in(&mut vm.guest)?;
    Ok(Seen { add, pings_before, pings, before, during, still })
}

/// The reference: the same code, with one thread.
fn add_by_one_thread(nic: &Function<'_>) -> Result<Duration> {
    let (vm, _) = up("size=2G", Vec::new())?;
    let mut body = add_body(&nic.bdf, "nic0");
    body["x_map_threads"] = json!(1);
    let begun = Instant::now();
    vm.api.put_json("vm.add-device", &body)?.ok()?;
    Ok(begun.elapsed())
}

/// A guest that is up, and its events.
fn up(memory: &'static str, archives: Vec<PathBuf>) -> Result<(Vm, Monitor)> {
    let events = Monitor::new()?;
    let arguments = events.arguments();
    let vm = Options { memory, archives, arguments, ..Options::default() }.boot()?;
    Ok((vm, events))
}
