//! Whether the lab itself stood still: on each processor of the host, a program of the highest real-time priority that
//! wakes up every few milliseconds. No program of the host can keep it from running, so when it does not run, the
//! emulator does not (docs/performance.md), and how long something took says nothing about who did it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Doing, Result};
use crate::host::Host;
use crate::meanwhile::Ticks;
use crate::wait::{Look, until};

/// Milliseconds from one wake-up to the next: seldom enough to leave others the processor.
const TICK: &str = "20";

/// Until a program has reported once more.
const LIMIT: Duration = Duration::from_secs(60);

/// The programs, one for each processor. They end when it is dropped.
#[derive(Debug)]
pub struct Metronome {
    programs: Vec<(Child, PathBuf)>,
    reports: TempDir,
}

impl Metronome {
    /// Starts `ticker`, the path of the program of that name, on each processor that is online.
    pub fn start(ticker: &str, host: &Host) -> Result<Self> {
        let reports = tempfile::tempdir().doing("make a folder")?;
        let mut metronome = Self { programs: Vec::new(), reports };
        for processor in 0..host.online_processors()? {
            let report = metronome.reports.path().join(processor.to_string());
            let program = Command::new("chrt")
                .args(["--fifo", "99", "taskset", "--cpu-list", &processor.to_string(), ticker])
                .arg(&report)
                .arg(TICK)
                .stdin(Stdio::null())
                .spawn()
                .doing("start chrt")?;
            metronome.programs.push((program, report));
        }
        for (_, report) in &metronome.programs {
            reported(report, 0)?;
        }
        Ok(metronome)
    }

    /// The longest time so far for which a processor ran none of it.
    pub fn longest(&self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for (_, report) in &self.programs {
            // A report that is written from now on knows all that was.
            let before = Ticks::read(report)?.count;
            longest = longest.max(reported(report, before)?.longest);
        }
        Ok(longest)
    }
}

/// The next report with more ticks than `before`.
fn reported(report: &Path, before: u64) -> Result<Ticks> {
    until("a report of the metronome", LIMIT, || {
        let ticks = Ticks::read(report)?;
        let newer = ticks.count > before;
        Ok(if newer { Look::Holds(ticks) } else { Look::NotYet(format!("{ticks:?}")) })
    })
}

impl Drop for Metronome {
    fn drop(&mut self) {
        for (program, _) in &mut self.programs {
            // It may have ended by itself; either way it is gone after this.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
