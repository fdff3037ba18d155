//! How far a reboot has come: which step is next follows from what workers have
//! said, in whatever order they do.
//!
//! ```text
//!         all vCPUs out         nobody writes memory       read, and all are reset
//! Leaving -------------> Writing -------------------> Loading ------------------> (runs)
//! ```

use crate::arch::x86_64::registers::Entry;
use crate::config::device::DeviceId;
use crate::hotplug::Restless;

/// How far a reboot has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// vCPUs are on their way out.
    Leaving,
    /// Functions are being reset; some may still write memory.
    Writing(Restless),
    /// What the guest boots is being read, or has been.
    Loading(Restless, Option<Entry>),
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for workers.
    Wait,
    /// Have read what the guest boots; said once.
    Load,
    /// Let the guest run from here.
    Run(Entry),
}

impl Progress {
    /// What is to be done now.
    pub(super) fn next(&mut self) -> Next {
        match self {
            Self::Writing(restless) if restless.writing.is_empty() => {
                *self = Self::Loading(std::mem::take(restless), None);
                Next::Load
            }
            Self::Loading(restless, Some(entry)) if restless.resetting.is_empty() => {
                Next::Run(*entry)
            }
            Self::Leaving | Self::Writing(_) | Self::Loading(..) => Next::Wait,
        }
    }

    /// What the guest boots is in its memory.
    pub(super) fn loaded(&mut self, at: Entry) {
        if let Self::Loading(_, entry) = self {
            *entry = Some(at);
        }
    }

    /// A device writes no memory any more.
    pub(super) fn is_quiet(&mut self, id: &DeviceId) {
        if let Self::Writing(restless) | Self::Loading(restless, _) = self {
            restless.writing.remove(id);
        }
    }

    /// The reset of a device has come to its end. If it failed, nothing more can be
    /// done about what the device may write.
    pub(super) fn was_reset(&mut self, id: &DeviceId) {
        self.is_quiet(id);
        if let Self::Writing(restless) | Self::Loading(restless, _) = self {
            restless.resetting.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ENTRY: Entry = Entry::Pvh { start: 1, start_info: 2 };

    fn id(name: &str) -> DeviceId {
        name.to_owned().try_into().unwrap()
    }

    /// Devices that are being reset, and one that is on its way to the host.
    fn resetting(names: &[&str], leaving: &str) -> Progress {
        let resetting: BTreeSet<_> = names.iter().map(|name| id(name)).collect();
        let writing = resetting.iter().cloned().chain([id(leaving)]).collect();
        Progress::Writing(Restless { writing, resetting })
    }

    #[test]
    fn nothing_is_read_while_a_device_may_write() {
        let mut progress = resetting(&["a", "b"], "gone");
        for quiet in ["a", "b"] {
            assert_eq!(progress.next(), Next::Wait);
            progress.is_quiet(&id(quiet));
        }
        assert_eq!(progress.next(), Next::Wait);

        progress.is_quiet(&id("gone"));

        assert_eq!(progress.next(), Next::Load);
        assert_eq!(progress.next(), Next::Wait, "it is said once");
    }

    #[test]
    fn guest_runs_when_it_is_read_and_all_are_reset_whichever_is_last() {
        for read_first in [true, false] {
            let mut progress = resetting(&["a"], "gone");
            progress.is_quiet(&id("a"));
            progress.is_quiet(&id("gone"));
            assert_eq!(progress.next(), Next::Load);
            let mut steps: [fn(&mut Progress); 2] =
                [|progress| progress.loaded(ENTRY), |progress| progress.was_reset(&id("a"))];
            if !read_first {
                steps.reverse();
            }

            for step in steps {
                assert_eq!(progress.next(), Next::Wait);
                step(&mut progress);
            }

            assert_eq!(progress.next(), Next::Run(ENTRY));
        }
    }

    #[test]
    fn device_that_is_reset_without_having_been_quiet_is_waited_for_no_longer() {
        let mut progress = resetting(&["a"], "gone");
        progress.is_quiet(&id("gone"));

        progress.was_reset(&id("a"));

        assert_eq!(progress.next(), Next::Load);
    }

    #[test]
    fn guest_without_devices_is_read_at_once() {
        let mut progress = Progress::Writing(Restless::default());

        assert_eq!(progress.next(), Next::Load);
        progress.loaded(ENTRY);
        assert_eq!(progress.next(), Next::Run(ENTRY));
    }

    #[test]
    fn nothing_happens_before_the_vcpus_are_out() {
        let mut progress = Progress::Leaving;
        progress.loaded(ENTRY);
        progress.was_reset(&id("a"));

        assert_eq!(progress, Progress::Leaving);
        assert_eq!(progress.next(), Next::Wait);
    }
}
