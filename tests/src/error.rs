//! The one error of the harness. A test only reports it, so it is a sentence and a cause.

use std::fmt::{self, Debug, Formatter};
use std::io;
use std::time::Duration;

/// What went wrong in a scene.
#[derive(thiserror::Error)]
pub enum Error {
    /// The system under the harness refused something.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// A condition did not come true.
    #[error("{awaited} did not happen within {limit:?}; last seen: {seen}")]
    TimedOut {
        /// The condition.
        awaited: String,
        /// How long it was given.
        limit: Duration,
        /// What was there instead.
        seen: String,
    },
    /// Something answered otherwise than it should.
    #[error("{0}")]
    Unexpected(String),
}

/// Result of every step of a scene.
pub type Result<T = ()> = std::result::Result<T, Error>;

impl Debug for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Adds to an I/O error what was being done.
pub trait Doing<T> {
    /// `doing` completes the sentence "cannot ...".
    fn doing(self, doing: impl Into<String>) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing.into(), source })
    }
}

/// Fails with `otherwise` unless `holds`.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result {
    if holds { Ok(()) } else { Err(Error::Unexpected(otherwise())) }
}

/// Fails unless two values are the same.
pub fn same<T: Debug + PartialEq>(what: &str, seen: &T, expected: &T) -> Result {
    ensure(seen == expected, || format!("{what}: {seen:?} instead of {expected:?}"))
}
