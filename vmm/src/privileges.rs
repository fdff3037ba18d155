//! What the process may do beyond what its user may: it is given up before other
//! threads exist, for good (capabilities(7), prctl(2)).
//!
//! hotbay needs no capability while it runs: it opens `/dev/vfio/N` and
//! `/dev/kvm` by their permissions, and pins guest RAM within a lock limit that
//! it raises beforehand. docs/decisions/0012 says what that costs.
#![expect(unsafe_code, reason = "two flags of prctl(2) have no safe form")]

use std::fmt;
use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// Why the process has more rights than it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or giving up capabilities.
    #[error("cannot give up capabilities")]
    Capabilities(#[from] CapsError),
    /// A flag of the process.
    #[error("cannot {0}")]
    Flag(&'static str, #[source] io::Error),
}

/// What was given up, and what was not.
#[derive(Debug)]
pub struct GivenUp {
    /// How many capabilities the thread had and has no more.
    pub capabilities: usize,
    /// Those it still has.
    pub kept: CapsHashSet,
}

/// Gives up every capability of the calling thread and of those that it starts,
/// and with them the ways to get new ones; and lets no other process of the same
/// user read this one's memory. If pinned RAM is not free of a limit,
/// `CAP_IPC_LOCK`, which lifts it, is kept by who has it.
pub fn give_up(locks_without_limit: bool) -> Result<GivenUp, Error> {
    let had = caps::read(None, CapSet::Permitted)?;
    let lock = (!locks_without_limit).then_some(Capability::CAP_IPC_LOCK);
    let kept: CapsHashSet = lock.into_iter().filter(|lock| had.contains(lock)).collect();

    // Needs one itself. Who lacks it runs no program that could gain from the rest.
    if had.contains(&Capability::CAP_SETPCAP) {
        let bounds = caps::read(None, CapSet::Bounding)?;
        bounds.difference(&kept).try_for_each(|cap| caps::drop(None, CapSet::Bounding, *cap))?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;

    flag("rule out new privileges", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    // No core dump either: it would hold what the guest and its devices have sent.
    flag("hide the process's memory", libc::PR_SET_DUMPABLE, 0)?;
    Ok(GivenUp { capabilities: had.len() - kept.len(), kept })
}

fn flag(what: &'static str, flag: libc::c_int, value: libc::c_ulong) -> Result<(), Error> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: takes numbers only.
    let failed = unsafe { libc::prctl(flag, value, NONE, NONE, NONE) };
    if failed == 0 { Ok(()) } else { Err(Error::Flag(what, io::Error::last_os_error())) }
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gave up {} capabilities", self.capabilities)?;
        let kept: Vec<String> = self.kept.iter().map(ToString::to_string).collect();
        let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        write!(f, ", kept {kept}; no new privileges, no core dump")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    /// A line of the calling thread's status (proc(5)).
    fn status(key: &str) -> String {
        let text = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    /// Capabilities belong to a thread, so that what one gives up the other tests keep.
    fn on_a_thread<T: Send + 'static>(act: fn() -> T) -> T {
        thread::Builder::new().spawn(act).unwrap().join().unwrap()
    }

    #[test]
    fn nothing_is_left_of_capabilities_and_none_can_be_gained() {
        on_a_thread(|| {
            let had = caps::read(None, CapSet::Permitted).unwrap().len();

            let given_up = give_up(true).unwrap();

            assert_eq!((given_up.capabilities, given_up.kept.len()), (had, 0));
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                assert_eq!(status(set), "0000000000000000", "{set}");
            }
            if had > 0 {
                assert_eq!(status("CapBnd"), "0000000000000000");
            }
            assert_eq!(status("NoNewPrivs"), "1");
            assert!(given_up.to_string().contains("kept none"), "{given_up}");
        });
    }

    #[test]
    fn right_to_lock_memory_is_kept_only_where_there_is_a_limit() {
        on_a_thread(|| {
            let had = caps::has_cap(None, CapSet::Permitted, Capability::CAP_IPC_LOCK).unwrap();

            let given_up = give_up(false).unwrap();

            let has = caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).unwrap();
            assert_eq!((has, given_up.kept.len()), (had, usize::from(had)));
        });
    }

    #[test]
    fn giving_up_twice_is_no_error() {
        on_a_thread(|| {
            give_up(true).unwrap();
            assert_eq!(give_up(true).unwrap().capabilities, 0);
        });
    }
}
