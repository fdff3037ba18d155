//! A device on its way in: who asked for it, how far it has come, and who has
//! thought better of it.

use std::sync::Arc;

use api::mailbox::Reply;
use devices::vfio::progress::{Phase, Progress, Step};

use super::remove::Waiter;
use crate::monitor::DeviceNotice;

/// What goes with a device that a worker builds.
pub(super) struct Arrival {
    /// Who asked for it; nobody when the machine boots with it.
    pub(super) reply: Option<Reply>,
    /// Shared with the worker.
    pub(super) progress: Arc<Progress>,
    /// Who waits for its removal, which has cancelled it.
    pub(super) waiters: Vec<Waiter>,
    /// What the monitor was last told.
    told: Option<Step>,
}

impl Arrival {
    /// A device that `reply` is answered for, if anybody.
    pub(super) fn new(reply: Option<Reply>) -> Self {
        Self { reply, progress: Arc::default(), waiters: Vec::new(), told: None }
    }

    /// How far it has come, if the monitor has not been told that.
    pub(super) fn news(&mut self) -> Option<DeviceNotice<'static>> {
        let step = self.progress.step();
        if self.told.replace(step) == Some(step) {
            return None;
        }
        let Step { phase, done, total } = step;
        Some(DeviceNotice::Progress { phase: name(phase), done, total })
    }
}

/// What a phase is called in events.
fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Checking => "checking",
        Phase::Attaching => "attaching",
        Phase::Mapping => "mapping",
        Phase::Opening => "opening",
    }
}
