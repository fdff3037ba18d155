//! What the host's KVM does for a guest that no longer answers: whether its processors run, and where.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::evidence;
use crate::wait::pass;

const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// A buffer of our own: nobody else's events are in it.
const NAME: &str = "hotbay_standstill";
/// Long enough for every timer of a guest that lives.
const WATCHED: Duration = Duration::from_millis(300);
/// Bytes that the report may have; exits that repeat fill it.
const SHOWN: usize = 6000;

/// Keeps for the report what KVM traces now, of every guest: exits with where they were, interrupts, timers.
pub(crate) fn keep() {
    evidence::keep(
        "what KVM does",
        trace().unwrap_or_else(|error| format!("cannot tell: {error}")),
    );
}

fn trace() -> Result<String> {
    let buffer = Buffer::make()?;
    let enable = buffer.0.join("events/kvm/enable");
    fs::write(&enable, "1").doing("trace KVM")?;
    pass(WATCHED);
    fs::write(&enable, "0").doing("end a trace of KVM")?;
    let text = fs::read_to_string(buffer.0.join("trace")).doing("read a trace of KVM")?;
    let start = text.len().saturating_sub(SHOWN);
    Ok(text.get(start..).unwrap_or(&text).to_owned())
}

struct Buffer(PathBuf);

impl Buffer {
    fn make() -> Result<Self> {
        let buffer = Path::new(INSTANCES).join(NAME);
        fs::create_dir(&buffer).doing("make a trace buffer")?;
        Ok(Self(buffer))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("a trace buffer stays behind: {error}");
        }
    }
}
