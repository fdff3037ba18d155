//! Command lines of `hotbay` and `hotbayctl`, in Cloud Hypervisor's syntax.
//!
//! `key=value` options become the same JSON that a client would send and pass
//! the same schema, so the two never disagree about what is known, what is
//! refused, and what is the default.

use std::fmt;

pub mod hotbay;
pub mod hotbayctl;
mod interrupts;
mod options;
mod table;

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<T> {
    /// To do something.
    Do(T),
    /// To print this text (`--help`, `--version`) and nothing else.
    Say(String),
}

/// A command line that makes no sense: one sentence, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misuse(String);

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// What clap calls an error: a text that was asked for, or one sentence.
fn outcome<T>(error: &clap::Error) -> Result<Line<T>, Misuse> {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Ok(Line::Say(text));
    }
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let sentence = lines.collect::<Vec<_>>().join(" ");
    Err(Misuse(sentence.trim_start_matches("error: ").to_owned()))
}
