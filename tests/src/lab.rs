//! Entry of every scene that needs the lab.

use std::env;

use crate::error::Result;
use crate::evidence;
use crate::host::Host;

/// Begins the line by which `scripts/test` counts a test that could not run.
pub const SKIPPED: &str = "SKIPPED:";

/// Plays a scene in the lab; outside of it, says that it was skipped. `scripts/lab run` sets the stage.
///
/// # Panics
/// If the scene fails, after showing what hotbay and the guest said.
pub fn in_lab(scene: impl FnOnce(&Host) -> Result) {
    if env::var_os("HOTBAY_LAB").is_none() {
        println!("{SKIPPED} needs the lab; scripts/test runs it there");
        return;
    }
    if let Err(error) = scene(&Host::new()) {
        evidence::show();
        panic!("{error}");
    }
}
