//! More processors for the host, each with some 200 interrupt vectors. The lab starts with two online, so that
//! scenes which need no more do not pay for them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result, ensure};
use crate::host::Host;

const PROCESSORS: &str = "/sys/devices/system/cpu";

/// Processors that were brought online. Dropped, they go offline again, and their interrupts with them; so VMs
/// that use host vectors go first.
#[derive(Debug)]
pub struct Processors(Vec<PathBuf>);

impl Host {
    /// Brings processors online until there are `count`.
    pub fn processors(&self, count: usize) -> Result<Processors> {
        let mut brought = Processors(Vec::new());
        for number in 1..count {
            let switch = Path::new(PROCESSORS).join(format!("cpu{number}/online"));
            let doing = || {
                format!(
                    "bring processor {number} online: the lab has only those of --cpus and 6 more"
                )
            };
            if fs::read_to_string(&switch).doing(doing())?.trim() == "0" {
                fs::write(&switch, "1").doing(doing())?;
                brought.0.push(switch);
            }
        }
        let online = self.online_processors()?;
        ensure(online == count, || format!("{online} processors are online instead of {count}"))?;
        Ok(brought)
    }

    /// How many are online.
    pub fn online_processors(&self) -> Result<usize> {
        let text = fs::read_to_string("/proc/cpuinfo").doing("count processors")?;
        Ok(text.lines().filter(|line| line.starts_with("processor")).count())
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        for switch in self.0.iter().rev() {
            if let Err(error) = fs::write(switch, "0") {
                eprintln!("{} stays on: {error}", switch.display());
            }
        }
    }
}
