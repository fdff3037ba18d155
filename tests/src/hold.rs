//! Stops some threads of a process wherever they are, locks in hand, and lets the others run: a control
//! group of version 2 with threads as members, and its freezer (Linux
//! `Documentation/admin-guide/cgroup-v2.rst`). Threads that those start belong to it too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::host::run;
use crate::wait::{Look, until};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";
/// A thread stops when its system call has returned: a device's reset under emulation takes so long.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Some threads of a process. Dropped, they run again.
#[derive(Debug)]
pub struct Hold {
    pid: u32,
    process: PathBuf,
    threads: PathBuf,
}

impl Hold {
    /// Of the threads called `name`, and of those that they start from now on.
    pub fn of(pid: u32, name: &str) -> Result<Self> {
        let root = Path::new(GROUPS);
        if !root.join("cgroup.procs").exists() {
            run(Command::new("mount").args(["-t", "cgroup2", "cgroup2", GROUPS]))?;
        }
        let process = root.join(format!("hotbay-{pid}"));
        let threads = process.join("held");
        fs::create_dir_all(&threads).doing("make a control group")?;
        let hold = Self { pid, process, threads };
        put(&hold.process.join("cgroup.procs"), &pid.to_string())?;
        put(&hold.threads.join("cgroup.type"), "threaded")?;
        for id in threads_called(pid, name)? {
            put(&hold.threads.join("cgroup.threads"), &id.to_string())?;
        }
        Ok(hold)
    }

    /// Stops them; returns when they stand.
    pub fn stop(&self) -> Result {
        self.freeze("1")?;
        until("threads that stand still", STOP_LIMIT, || {
            let events = self.threads.join("cgroup.events");
            let events = fs::read_to_string(&events).doing("look at a control group")?;
            let stands = events.contains("frozen 1");
            Ok(if stands { Look::Holds(()) } else { Look::NotYet(events) })
        })
    }

    /// Lets them go on.
    pub fn go_on(&self) -> Result {
        self.freeze("0")
    }

    fn freeze(&self, value: &str) -> Result {
        put(&self.threads.join("cgroup.freeze"), value)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Either fails only if the process has ended: then there is nobody to let go.
        let _ = self.go_on();
        let _ = put(&Path::new(GROUPS).join("cgroup.procs"), &self.pid.to_string());
        let _ = fs::remove_dir(&self.threads);
        let _ = fs::remove_dir(&self.process);
    }
}

/// Ids of a process's threads with this name.
pub fn threads_called(pid: u32, name: &str) -> Result<Vec<u32>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).doing("list threads")?;
    let named = tasks.flatten().filter(|task| {
        // One that has ended meanwhile has no name.
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    Ok(named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect())
}

/// What each thread of a process does at the moment: its name, its system call and where in the kernel it
/// waits.
pub fn portrait(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: fs::DirEntry| {
        let look = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        format!("{}{}{}", look("comm"), look("syscall"), look("stack"))
    };
    tasks.map(of).collect::<Vec<_>>().join("\n")
}

/// Looks without a pause: for what lasts only milliseconds.
pub fn catch(awaited: &str, limit: Duration, mut there: impl FnMut() -> Result<bool>) -> Result {
    let begun = Instant::now();
    while !there()? {
        if begun.elapsed() > limit {
            let seen = "never".to_owned();
            return Err(Error::TimedOut { awaited: awaited.to_owned(), limit, seen });
        }
        thread::yield_now();
    }
    Ok(())
}

fn put(file: &Path, value: &str) -> Result {
    fs::write(file, value).doing(format!("write {value:?} to {}", file.display()))
}
