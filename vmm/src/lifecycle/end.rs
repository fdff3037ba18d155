//! The process ends when its machine is gone, and does not wait for that forever.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use api::mailbox::Reply;

use super::{Stage, Vm, Vmm};

/// How long a machine may take to be given back. A close resets a device, which
/// takes 100 ms, and all are closed at once; RAM is unpinned at some 10 GiB a
/// second. Whoever has less patience kills, and loses nothing: what is missing then
/// is the kernel's to give back in either case.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As somebody asked: a client, a signal, or the guest.
    Asked,
    /// The machine could not go on, for this reason.
    Failed(String),
}

/// An end that has begun.
#[derive(Debug)]
pub(super) struct End {
    pub(super) ending: Ending,
    until: Instant,
}

impl Vmm {
    /// Ends the VM, and then the process.
    pub fn end(&mut self, ending: Ending) {
        self.begin_to_end(ending);
        self.clear(None);
    }

    /// The same for a client, who is answered when all is given back.
    pub fn end_for(&mut self, reply: Reply) {
        self.begin_to_end(Ending::Asked);
        self.clear(Some(reply));
    }

    /// The same for a signal. Another one ends the process at once.
    pub fn signalled(&mut self) {
        match &mut self.end {
            Some(end) => {
                log::warn!("another signal: what is not given back yet is left to the kernel");
                end.until = Instant::now();
            }
            None => {
                log::info!("ending: a signal asks for it");
                self.end(Ending::Asked);
            }
        }
    }

    /// How the process ends, when it is time; until then, how long it may be at
    /// most until this is to be called again.
    pub fn over(&mut self) -> ControlFlow<Ending, Option<Duration>> {
        let Some(End { ending, until }) = &self.end else { return ControlFlow::Continue(None) };
        if self.vm.is_none() {
            return ControlFlow::Break(ending.clone());
        }
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return ControlFlow::Continue(Some(left));
        }
        if let Some(Vm { stage: Stage::Stopping(stopping), .. }) = &mut self.vm {
            stopping.abandon();
        }
        let reason = match ending {
            Ending::Asked => String::new(),
            Ending::Failed(reason) => format!("{reason}; and "),
        };
        let late = "the machine was not taken apart in time; the kernel gives back the rest";
        ControlFlow::Break(Ending::Failed(reason + late))
    }

    fn begin_to_end(&mut self, ending: Ending) {
        let until = Instant::now() + PATIENCE;
        self.end.get_or_insert(End { ending, until });
    }
}
