//! Long runs by hand and in CI: `scripts/soak` builds what this needs and starts it.

use std::env;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::evidence;
use tests::soak::{Plan, api};

const USAGE: &str = "usage: scripts/soak PART [--seed N] [--rounds N]

  PART        api     64 clients and some hostile ones; rounds are requests (100,000)
  --seed N    of every choice; printed, to repeat a run
  --rounds N  how long the run is

Exit status: 0 if all that must hold did.";

fn main() -> ExitCode {
    let Some((part, plan)) = arguments(env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("{part}: seed {}", plan.seed);
    let outcome = match part.as_str() {
        "api" => api::run(plan),
        other => {
            eprintln!("there is no part {other}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => {
            println!("{part}: passed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{part}: FAILED with seed {}: {error}", plan.seed);
            evidence::show();
            ExitCode::FAILURE
        }
    }
}

fn arguments(words: impl Iterator<Item = String>) -> Option<(String, Plan)> {
    let (mut part, mut plan) = (None, Plan { seed: now(), rounds: None });
    let mut words = words;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => plan.seed = words.next()?.parse().ok()?,
            "--rounds" => plan.rounds = Some(words.next()?.parse().ok()?),
            _ if word.starts_with('-') || part.is_some() => return None,
            _ => part = Some(word),
        }
    }
    Some((part?, plan))
}

/// A seed that the next run does not have.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() << 10 | u64::from(since.subsec_millis())
}
