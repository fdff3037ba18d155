//! What others notice while hotbay is busy: clients who ask, and a guest that counts time.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::artifacts::pack_program;
use crate::error::{Doing, Error, Result};
use crate::guest::Guest;
use crate::http::{Answer, Api};
use crate::wait::{Look, until};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(5);

/// Until a guest has ticked often enough.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the guest's ticker reports.
const REPORT: &str = "/tmp/ticks";

/// What a ticker would report before its first tick.
const NONE_YET: &str = "ticks 0 longest 0";

/// How long answers took.
#[derive(Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    /// That of which only one in a hundred is longer.
    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, p50, p99, longest) =
            (self.0.len(), self.percentile(50), self.p99(), self.longest());
        write!(f, "{count}: p50 {p50:.2?}, p99 {p99:.2?}, longest {longest:.2?}")
    }
}

/// Asks `vmm.ping` again and again for as long as `work` takes; its result, and how long the answers took.
pub fn pinging<T: Send>(
    api: &Api,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Latencies)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("work".into()).spawn_scoped(scope, || {
            let done = work();
            over.store(true, Ordering::Release);
            done
        });
        let worker = worker.doing("start a thread")?;
        let mut latencies = Latencies::default();
        while !over.load(Ordering::Acquire) {
            let begun = Instant::now();
            api.get("vmm.ping")?.ok()?;
            latencies.0.push(begun.elapsed());
            thread::sleep(PAUSE);
        }
        let done = worker.join().map_err(|_| Error::Unexpected("the work has panicked".into()))?;
        Ok((done?, latencies))
    })
}

/// What a request that takes long came to.
#[derive(Debug)]
pub struct Asked {
    /// Its answer.
    pub answer: Answer,
    /// How long that took.
    pub took: Duration,
}

/// Puts `body` to `verb` and does `work` until the answer comes; what both came to.
pub fn asking<T>(
    api: &Api,
    (verb, body): (&str, &Value),
    work: impl FnOnce() -> Result<T>,
) -> Result<(Asked, T)> {
    let begun = Instant::now();
    thread::scope(|scope| {
        let ask = || api.put_json(verb, body).map(|answer| Asked { answer, took: begun.elapsed() });
        let asked = thread::Builder::new().name("ask".into()).spawn_scoped(scope, ask);
        let done = work()?;
        let asked = asked.doing("start a thread")?.join();
        Ok((asked.map_err(|_| Error::Unexpected("the request has panicked".into()))??, done))
    })
}

/// The program `ticker`, which counts time in a guest.
#[derive(Debug)]
pub struct Ticker {
    archive: PathBuf,
}

/// What a ticker has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    /// How often it woke up.
    pub count: u64,
    /// The longest time it did not.
    pub longest: Duration,
}

impl Ticker {
    /// Packs `program` and the libraries it needs, for a guest's initramfs.
    pub fn new(program: &str, dir: &Path) -> Result<Self> {
        let archive = dir.join("ticker.cpio");
        pack_program(program, "ticker", dir, &archive)?;
        Ok(Self { archive })
    }

    /// To append to the guest's initramfs.
    pub fn archive(&self) -> PathBuf {
        self.archive.clone()
    }

    /// Lets the guest count from now on.
    pub fn start(&self, guest: &mut Guest) -> Result {
        guest.run(&format!("rm -f {REPORT}; ticker {REPORT} & echo $! >/tmp/ticker.pid")).map(drop)
    }

    /// Ends the counting once it has woken up so often.
    pub fn stop_after(&self, count: u64, guest: &mut Guest) -> Result<Ticks> {
        let ticks = until("ticks in the guest", LIMIT, || {
            let ticks = self.ticks(guest)?;
            let enough = ticks.count >= count;
            Ok(if enough { Look::Holds(ticks) } else { Look::NotYet(format!("{ticks:?}")) })
        })?;
        guest.run("kill $(cat /tmp/ticker.pid)")?;
        Ok(ticks)
    }

    fn ticks(&self, guest: &mut Guest) -> Result<Ticks> {
        Ticks::parse(&guest.run(&format!("cat {REPORT} || echo {NONE_YET}"))?)
    }
}

impl Ticks {
    /// What a ticker of the host has reported to `file` until now.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::parse(NONE_YET),
            report => Self::parse(&report.doing("read what a ticker says")?),
        }
    }

    fn parse(report: &str) -> Result<Self> {
        let numbers = report.split_whitespace().filter_map(|word| word.parse().ok());
        match numbers.collect::<Vec<u64>>()[..] {
            [count, longest] => Ok(Self { count, longest: Duration::from_micros(longest) }),
            _ => Err(Error::Unexpected(format!("a ticker says {report:?}"))),
        }
    }
}
