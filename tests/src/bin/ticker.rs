//! Runs in a guest, or on a processor of the host: wakes up every few milliseconds and says at the end how late it ever was.
//!
//! `ticker FILE [MILLISECONDS]` writes `ticks N longest MICROSECONDS` to FILE every second and goes on until it is killed.
//! `longest` is the longest time between two wake-ups since the start: a processor that stood
//! still, by its own clock, cannot hide it.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// From one wake-up to the next, when nothing is in the way and nothing else is asked for.
const TICK: Duration = Duration::from_millis(5);
/// Between two reports.
const REPORT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let Some(file) = env::args_os().nth(1) else { return ExitCode::FAILURE };
    let tick = match env::args().nth(2).map(|asked| asked.parse()) {
        None => TICK,
        Some(Ok(asked)) => Duration::from_millis(asked),
        Some(Err(_)) => return ExitCode::FAILURE,
    };
    let mut fresh = file.clone();
    fresh.push(".new");
    let (mut last, mut longest, mut ticks) = (Instant::now(), Duration::ZERO, 0_u64);
    let mut reported = last;
    loop {
        // Not a wait for something: how late it returns is what is measured.
        thread::sleep(tick);
        let now = Instant::now();
        longest = longest.max(now - last);
        ticks += 1;
        last = now;
        if now - reported > REPORT {
            reported = now;
            let line = format!("ticks {ticks} longest {}\n", longest.as_micros());
            // Renamed, so that nobody finds a report half written.
            if fs::write(&fresh, line).and_then(|()| fs::rename(&fresh, &file)).is_err() {
                return ExitCode::FAILURE;
            }
        }
    }
}
