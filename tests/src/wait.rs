//! Waiting for a condition that nothing signals. The only place of the harness that sleeps.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Between two looks: short against a guest's reaction, long enough to leave it the processor.
const PAUSE: Duration = Duration::from_millis(20);

/// What a look at a condition saw.
pub enum Look<T> {
    /// It holds, and this is what was waited for.
    Holds(T),
    /// Not yet; what is there instead, for the report.
    NotYet(String),
}

/// Looks until the condition holds or `limit` has passed. `awaited` names it in the report.
pub fn until<T>(
    awaited: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let seen = match look()? {
            Look::Holds(value) => return Ok(value),
            Look::NotYet(seen) => seen,
        };
        if begun.elapsed() > limit {
            return Err(Error::TimedOut { awaited: awaited.to_owned(), limit, seen });
        }
        thread::sleep(PAUSE);
    }
}

/// Lets time pass, for something to be recorded or until a moment of chance: there is nothing to wait for.
pub fn pass(time: Duration) {
    thread::sleep(time);
}
