//! A guest starts afresh in the machine it has: its memory stays where it is, and
//! pinned; everything else goes back to its state at power-on.
//!
//! vCPUs leave as they do for a pause; functions are reset, and what the guest
//! boots is read, on workers, so the event loop serves on. What the old boot still
//! has to say is stale. Memory is written only when no function of the old boot
//! writes it any more.

mod progress;

use std::time::{Duration, Instant};

use api::mailbox::Reply;
use api::request::Response;

use self::progress::{Next, Progress};
use super::start::begin_to_load;
use super::stop::Then;
use super::{Ending, Error, Stage, Verb, Vm, Vmm, chain};
use crate::arch::x86_64::registers::Entry;
use crate::boot;
use crate::config::device::DeviceId;
use crate::machine::Machine;
use crate::monitor::Notice;

const ASKED: &str = Verb::Reboot.failed();

/// What goes with a guest that starts afresh.
pub(crate) struct Rebooting {
    /// Who asked, if it was a client and not the guest.
    reply: Option<Reply>,
    /// Number of the machine's boot.
    boot: u64,
    begun: Instant,
    progress: Progress,
}

impl Rebooting {
    /// What the guest boots has been read, if it was for this boot.
    pub(super) fn loaded(
        &mut self,
        boot: u64,
        outcome: Result<Entry, boot::Error>,
    ) -> Result<(), boot::Error> {
        if boot == self.boot {
            self.progress.loaded(outcome?);
        }
        Ok(())
    }
}

impl Vmm {
    /// Starts the guest afresh; one that is paused runs then. A client is answered
    /// when it runs. Without a reply it was the guest that asked, and a failure
    /// ends the process.
    pub fn reboot(&mut self, reply: Option<Reply>) {
        // The guest asks as well, and nobody has looked whether it may.
        if let Err(refusal) = self.effect(Verb::Reboot) {
            return reply.into_iter().for_each(|reply| reply.send(Err(refusal.fault(ASKED))));
        }
        let Some(vm) = &mut self.vm else { return };
        let stands_still = matches!(vm.stage, Stage::Paused(..));
        let Some(machine) = vm.stage.take_machine() else { return };
        self.monitor.tell(Notice::Rebooting);
        // Nothing of this machine is being read, so its number will do.
        let (boot, begun, progress) = (self.boots, Instant::now(), Progress::Leaving);
        if !stands_still {
            machine.vcpus.hold();
        }
        vm.stage = Stage::Rebooting(machine, Rebooting { reply, boot, begun, progress });
        if stands_still {
            self.reset_functions();
        }
    }

    /// All vCPUs are out of the guest, and the resets can begin.
    pub(super) fn reset_functions(&mut self) {
        let Some(Vm { stage: Stage::Rebooting(machine, rebooting), .. }) = &mut self.vm else {
            return;
        };
        machine.button.reset();
        rebooting.progress = Progress::Writing(machine.bay.reset());
        self.go_on_rebooting(Ok(()));
    }

    /// These devices write no memory any more.
    pub(super) fn are_quiet(&mut self, ids: &[DeviceId]) {
        if let Some(Vm { stage: Stage::Rebooting(_, rebooting), .. }) = &mut self.vm {
            ids.iter().for_each(|id| rebooting.progress.is_quiet(id));
            self.go_on_rebooting(Ok(()));
        }
    }

    /// The reset of these devices has come to its end.
    pub(super) fn were_reset(&mut self, ids: &[DeviceId], took: Duration) {
        if let Some(Vm { stage: Stage::Rebooting(machine, rebooting), .. }) = &mut self.vm {
            for id in ids {
                machine.bay.was_reset(id, took);
                rebooting.progress.was_reset(id);
            }
            self.go_on_rebooting(Ok(()));
        }
    }

    /// One more thing that a reboot waits for is there, or is not.
    pub(super) fn go_on_rebooting(&mut self, came: Result<(), Error>) {
        let Some(Vm { stage: Stage::Rebooting(machine, rebooting), .. }) = &mut self.vm else {
            return;
        };
        let done = match came.map(|()| rebooting.progress.next()) {
            Ok(Next::Wait) => return,
            Ok(Next::Load) => {
                begin_to_load(machine, (rebooting.boot, &self.finished_poster), &self.filters)
            }
            Ok(Next::Run(entry)) => run_afresh(machine, entry).map(|()| self.rebooted()),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            self.give_up_reboot(&error);
        }
    }

    fn rebooted(&mut self) {
        let Some(Vm { stage, .. }) = &mut self.vm else { return };
        let Stage::Rebooting(_, rebooting) = stage else { return };
        let reply = rebooting.reply.take();
        log::info!("the VM has been reset in {} ms", rebooting.begun.elapsed().as_millis());
        stage.run();
        self.monitor.tell(Notice::Rebooted);
        reply.into_iter().for_each(|reply| reply.send(Ok(Response::Done)));
    }

    /// A machine that does not start again is as good as off.
    fn give_up_reboot(&mut self, error: &Error) {
        let Some(Vm { stage: Stage::Rebooting(_, rebooting), .. }) = &mut self.vm else { return };
        match rebooting.reply.take() {
            Some(reply) => self.stop(Then::Shutdown, Some((reply, Err(error.fault(ASKED))))),
            None => self.end(Ending::Failed(chain(error))),
        }
    }
}

/// Puts what is left into its state at power-on and lets the vCPUs run, which
/// reset themselves when they do.
fn run_afresh(machine: &Machine, entry: Entry) -> Result<(), Error> {
    if let Some(serial) = &machine.serial {
        serial.uart.reset().map_err(Error::Serial)?;
    }
    machine.fresh_chips.restore(&machine.vm)?;
    machine.vcpus.start(entry);
    Ok(())
}
