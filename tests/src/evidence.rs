//! What the things under test said, kept until the scene ends and shown only if it failed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines of each piece that are shown; a guest's whole boot would bury the rest.
const SHOWN_LINES: usize = 60;

static KEPT: Mutex<Vec<Piece>> = Mutex::new(Vec::new());

struct Piece {
    what: &'static str,
    text: String,
}

/// Keeps `text` for the report.
pub fn keep(what: &'static str, text: String) {
    kept().push(Piece { what, text });
}

/// Prints the end of everything kept.
pub fn show() {
    for Piece { what, text } in kept().drain(..) {
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(SHOWN_LINES);
        eprintln!("---- {what}, its last lines:\n{}", lines[first..].join("\n"));
    }
}

fn kept() -> MutexGuard<'static, Vec<Piece>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}
