//! The API under load: well-behaved clients, whose every answer is checked, among hostile ones.
//!
//! What must hold: nobody waits for long, the process holds as much afterwards as before, and each
//! VM that was created was deleted once, or is still there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::behaved::{Client, Score};
use super::hostile::Nuisance;
use super::process::{Process, Usage};
use super::{Dice, Plan};
use crate::error::{Error, Result, ensure, same};

/// Clients at the same time, and how many of them are of the other kind beside.
const CLIENTS: u64 = 64;
const NUISANCES: u64 = 8;

/// Requests of a full run.
const REQUESTS: u64 = 100_000;

/// Requests that bring buffers to their size before anything is measured.
const WARM_UP: u64 = 5_000;

/// Above the memory before, at most, in KiB. The allocator keeps some of what it was given.
const GROWTH: u64 = 4 << 10;

/// Nobody waits that long, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs it; `rounds` are requests.
pub fn run(plan: Plan) -> Result {
    let requests = plan.rounds.unwrap_or(REQUESTS);
    let mut process = Process::start()?;
    let (_, mut total) = load(&process, Plan { seed: !plan.seed, ..plan }, WARM_UP)?;
    let before = process.settled()?;

    let begun = Instant::now();
    let (annoyed, score) = load(&process, plan, requests)?;
    let took = begun.elapsed();

    process.assert_alive()?;
    let after = process.returns_to(before)?;
    report(&score, annoyed, took);
    println!("api: before: {before}\napi: after:  {after}");
    check(&score, before, after)?;
    total.add(score);
    assert_vms_add_up(&process, &total)
}

/// Lets all loose at once. How often the hostile ones were so, and what the others saw.
fn load(process: &Process, plan: Plan, requests: u64) -> Result<(u64, Score)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = |number: u64| {
            let share = requests / CLIENTS + u64::from(number < requests % CLIENTS);
            let mut dice = Dice::new(plan.seed, number);
            let mut client = Client::new(&process.api, process.pid());
            move || (0..share).try_for_each(|_| client.ask(&mut dice)).map(|()| client.score)
        };
        let nuisance = |number: u64| {
            let nuisance = Nuisance::new(&process.api, Dice::new(plan.seed, CLIENTS + number));
            let over = &over;
            move || nuisance.annoy_until(over)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        let nuisances: Vec<_> = (0..NUISANCES).map(|n| scope.spawn(nuisance(n))).collect();
        let scores: Result<Vec<Score>> = clients.into_iter().map(|c| join(c.join())).collect();
        over.store(true, Ordering::Relaxed);
        let annoyed: Result<Vec<u64>> = nuisances.into_iter().map(|n| join(n.join())).collect();
        let mut score = Score::default();
        scores?.into_iter().for_each(|other| score.add(other));
        Ok((annoyed?.into_iter().sum(), score))
    })
}

fn join<T>(ended: thread::Result<Result<T>>) -> Result<T> {
    ended.map_err(|_| Error::Unexpected("a client has panicked".to_owned()))?
}

fn report(score: &Score, annoyed: u64, took: Duration) {
    let mut times = score.times.clone();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 1000).copied().unwrap_or_default();
    let (refused, slowest) = (score.refused, times.last().copied().unwrap_or_default());
    println!(
        "api: {} requests by {CLIENTS} clients in {took:.1?}, {refused} refused as they should be, \
         beside {annoyed} hostile ones",
        times.len()
    );
    println!("api: p50 {:.2?}, p99 {:.2?}, slowest {slowest:.2?}", at(500), at(990));
}

fn check(score: &Score, before: Usage, after: Usage) -> Result {
    let slowest = score.times.iter().max().copied().unwrap_or_default();
    ensure(slowest < PATIENCE, || format!("somebody waited for {slowest:?}"))?;
    ensure(after.resident <= before.resident + GROWTH, || {
        format!("resident memory grew from {before} to {after}")
    })
}

/// Every creation but the last was undone once.
fn assert_vms_add_up(process: &Process, score: &Score) -> Result {
    let info = process.api.get("vm.info")?;
    let there = u64::from(info.status == 200);
    same("VMs that there are", &score.created.wrapping_sub(score.deleted), &there)
}
