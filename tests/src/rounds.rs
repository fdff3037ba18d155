//! How long a scene with rounds goes on, and the seed of what it leaves to chance: from the environment, so that
//! every run of the tests has a short version of what `scripts/soak` does at length.

use std::env;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Rounds of this run: `HOTBAY_ROUNDS`, or what every run of the tests does.
pub fn rounds(usual: u32) -> Result<u32> {
    number("HOTBAY_ROUNDS", usual)
}

/// Whether this is a run at length, which somebody began on a machine that has nothing else to do. Only there are times
/// held to budgets; any other run holds counts, and what no machine is too slow for.
pub fn at_length() -> bool {
    env::var_os("HOTBAY_ROUNDS").is_some()
}

/// What is left to chance, from the seed `HOTBAY_SEED`, which is told so that a run can be repeated. Without one,
/// every run is the same.
pub fn chance() -> Result<fastrand::Rng> {
    let seed = seed()?;
    println!("measured: HOTBAY_SEED={seed}");
    Ok(fastrand::Rng::with_seed(seed))
}

/// The seed.
pub fn seed() -> Result<u64> {
    number("HOTBAY_SEED", 1)
}

/// A number from the environment.
pub fn number<T: FromStr>(variable: &str, otherwise: T) -> Result<T> {
    match env::var(variable) {
        Ok(text) => {
            text.parse().map_err(|_| Error::Unexpected(format!("{variable}={text} is no number")))
        }
        Err(_) => Ok(otherwise),
    }
}
