//! A `hotbay` without a VM, and what it holds of the host.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::artifacts::binary;
use crate::error::{Doing, Error, Result, ensure};
use crate::evidence;
use crate::http::Api;
use crate::wait::{Look, until};

/// From the start of the process to its socket, and from the last client to its last descriptor.
const LIMIT: Duration = Duration::from_secs(30);

/// Killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) api: Api,
    dir: TempDir,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) descriptors: usize,
    pub(super) threads: usize,
    /// Resident memory, in KiB.
    pub(super) resident: u64,
}

impl Process {
    /// Starts it and waits for its socket.
    pub(super) fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hotbay-").tempdir().doing("make a folder")?;
        let (socket, log) = (dir.path().join("api.sock"), dir.path().join("log"));
        let log = File::create(log).doing("make a log file")?;
        let mut command = Command::new(binary("hotbay"));
        command.arg("--api-socket").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().doing(format!("start {command:?}"))?;
        let process = Self { child, api: Api::new(&socket), dir };
        until("a connection to hotbay", LIMIT, || {
            Ok(match UnixStream::connect(&socket) {
                Ok(_) => Look::Holds(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with its log, if it has ended.
    pub(super) fn assert_alive(&mut self) -> Result {
        let ended = self.child.try_wait().doing("look after hotbay")?;
        ensure(ended.is_none(), || format!("hotbay has ended: {ended:?}\n{}", self.log()))
    }

    /// What it holds once every client's connection is closed.
    pub(super) fn settled(&self) -> Result<Usage> {
        let mut last = None;
        until("a usage that stays", LIMIT, || {
            let now = self.usage()?;
            let settled = last.replace(now) == Some(now);
            Ok(if settled { Look::Holds(now) } else { Look::NotYet(now.to_string()) })
        })
    }

    /// Waits until it holds no more descriptors and threads than `before`.
    pub(super) fn returns_to(&self, before: Usage) -> Result<Usage> {
        until(&format!("the return to {before}"), LIMIT, || {
            let now = self.settled()?;
            let same = (now.descriptors, now.threads) == (before.descriptors, before.threads);
            Ok(if same { Look::Holds(now) } else { Look::NotYet(now.to_string()) })
        })
    }

    fn usage(&self) -> Result<Usage> {
        let proc = format!("/proc/{}", self.pid());
        let count = |folder: &str| {
            fs::read_dir(format!("{proc}/{folder}")).map(Iterator::count).doing("look at hotbay")
        };
        let status = fs::read_to_string(format!("{proc}/status")).doing("look at hotbay")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let resident =
            resident.ok_or_else(|| Error::Unexpected(format!("no VmRSS in {status}")))?;
        Ok(Usage { descriptors: count("fd")?, threads: count("task")?, resident })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        evidence::keep("hotbay's log", self.log());
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { descriptors, threads, resident } = self;
        write!(f, "{descriptors} descriptors, {threads} threads, {resident} KiB resident")
    }
}
