//! An emulator that runs beside a VMM, for as long as a scene wants it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Shape;
use crate::error::{Doing, Error, Result};
use crate::wait::{Look, until};

/// From its start to its socket.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server's process.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    dir: TempDir,
}

impl Emulator {
    /// Starts `program`, and waits until it listens.
    pub fn start(program: &str, shape: Shape) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("emulator-").tempdir().doing("make a folder")?;
        let Shape { vectors, split, mute } = shape;
        let words = [("split", split), ("mute", mute)];
        let words = words.iter().filter(|(_, said)| *said).map(|(word, _)| *word);
        let mut command = Command::new(program);
        command.arg(socket(&dir)).arg(vectors.to_string()).args(words).stdin(Stdio::null());
        let child = command.spawn().doing("start the emulator")?;
        let mut emulator = Self { child, dir };
        until("the emulator's socket", START_LIMIT, || emulator.listens())?;
        Ok(emulator)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// Kills it, as the host's administrator would.
    pub fn kill(&mut self) -> Result {
        self.child.kill().doing("kill the emulator")?;
        self.child.wait().doing("wait for the emulator").map(drop)
    }

    /// Stops it where it is (SIGSTOP).
    pub fn stop(&self) -> Result {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        let pid = pid.map_err(|error| Error::Unexpected(format!("no process: {error}")))?;
        kill(pid, Signal::SIGSTOP).map_err(io::Error::from).doing("stop the emulator")
    }

    fn listens(&mut self) -> Result<Look<()>> {
        if let Some(status) = self.child.try_wait().doing("look at the emulator")? {
            return Err(Error::Unexpected(format!("the emulator ended with {status}")));
        }
        let there = Path::exists(&self.socket());
        Ok(if there { Look::Holds(()) } else { Look::NotYet("no socket".into()) })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Either fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(dir: &TempDir) -> PathBuf {
    dir.path().join("socket")
}
