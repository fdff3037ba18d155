//! A guest stands still and goes on, and does not see how long it stood.
//!
//! vCPUs leave the guest one by one: one may be inside a device's reset, which
//! takes 100 ms. So the event loop calls them and serves on; the last one posts
//! an event, and then who asked is answered.

use api::mailbox::Reply;
use api::request::Response;
use devices::platform::power::PowerEvent;

use super::{Error, Stage, Verb, Vmm};
use crate::kvm::clock::Clock;
use crate::monitor::Notice;

/// What goes with a guest whose vCPUs are on their way out.
pub(crate) struct Pausing {
    reply: Reply,
    /// What the guest asks for in its last moment.
    asked: Option<PowerEvent>,
}

/// What goes with a guest that stands still.
pub(crate) struct Pause {
    /// What time it is there.
    clock: Clock,
    /// What it gets at the resume.
    asked: Option<PowerEvent>,
}

impl Vmm {
    /// Takes the vCPUs out of the guest; `reply` is answered when they are out.
    pub fn pause(&mut self, reply: Reply) {
        let Some(vm) = &mut self.vm else { return };
        if let Stage::Running(machine) = vm.stage.take() {
            self.monitor.tell(Notice::Pausing);
            machine.vcpus.hold();
            vm.stage = Stage::Pausing(machine, Pausing { reply, asked: None });
        }
    }

    /// Lets a guest that stands still go on.
    pub fn resume(&mut self) -> Result<(), Error> {
        let Some(vm) = &mut self.vm else { return Ok(()) };
        let Stage::Paused(machine, Pause { clock, asked }) = &vm.stage else { return Ok(()) };
        let asked = *asked;
        self.monitor.tell(Notice::Resuming);
        clock.set(&machine.vm).map_err(Error::Clock)?;
        machine.vcpus.go_on();
        vm.stage.run();
        log::info!("the VM goes on");
        self.monitor.tell(Notice::Resumed);
        asked.into_iter().for_each(|asked| self.obey(asked));
        Ok(())
    }

    /// All vCPUs are out of the guest, for a pause or a reboot. A pause that has no
    /// clock is none.
    pub(super) fn parked(&mut self) {
        let Some(vm) = self.vm.as_mut().filter(|vm| matches!(vm.stage, Stage::Pausing(..))) else {
            return self.reset_functions();
        };
        let Stage::Pausing(machine, Pausing { reply, asked }) = vm.stage.take() else { return };
        match Clock::read(&machine.vm) {
            Ok(clock) => {
                vm.stage = Stage::Paused(machine, Pause { clock, asked });
                log::info!("the VM is paused");
                self.monitor.tell(Notice::Paused);
                reply.send(Ok(Response::Done));
            }
            Err(error) => {
                machine.vcpus.go_on();
                vm.stage = Stage::Running(machine);
                self.monitor.tell(Notice::Resumed);
                reply.send(Err(Error::Clock(error).fault(Verb::Pause.failed())));
                asked.into_iter().for_each(|asked| self.obey(asked));
            }
        }
    }

    /// Remembers what a guest asks for that stands still, or soon will. Only the
    /// first counts. False for a guest that runs.
    pub(super) fn keep_for_resume(&mut self, event: PowerEvent) -> bool {
        match self.vm.as_mut().map(|vm| &mut vm.stage) {
            Some(
                Stage::Pausing(_, Pausing { asked, .. }) | Stage::Paused(_, Pause { asked, .. }),
            ) => {
                asked.get_or_insert(event);
                true
            }
            _ => false,
        }
    }
}
