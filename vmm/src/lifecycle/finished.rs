//! What workers have finished, and what it means in the stage that the VM is in.
//! What is of a boot or a machine that is no more means nothing: it is dropped, and
//! so undone.

use devices::pci::bus::Reservation;

use super::{Error, Stage, Vm, Vmm};
use crate::arch::x86_64::registers::Entry;
use crate::boot;
use crate::config::device::DeviceId;
use crate::config::wanted::Wanted;
use crate::hotplug::{AddError, Built, Finished};
use crate::workers;

impl Vmm {
    /// Takes over what workers have finished.
    pub fn take_finished(&mut self) {
        for finished in self.finished.drain() {
            match finished {
                Finished::Built(id, outcome) => self.built(id, outcome),
                Finished::Gone(id, place) => self.gone(&id, place),
                Finished::Quiet(ids) => self.are_quiet(&ids),
                Finished::Reset(ids, took) => self.were_reset(&ids, took),
                Finished::Loaded(boot, outcome) => self.loaded(boot, outcome),
                Finished::Warmed(boot, outcome) => self.warmed(boot, outcome),
                Finished::Stopped => self.stopped(),
            }
        }
    }

    fn built(&mut self, id: DeviceId, outcome: Result<Built, AddError>) {
        let Some(Vm { stage, .. }) = &mut self.vm else { return };
        match stage {
            Stage::Starting(machine, _) => {
                let built = machine.bay.commit(id, outcome, false);
                self.go_on_starting(built.map(drop).map_err(Error::Device));
            }
            Stage::Running(machine) | Stage::Pausing(machine, _) | Stage::Paused(machine, _) => {
                // Whoever asked has been answered; an error is in the log.
                let _ = machine.bay.commit(id, outcome, true);
                self.start_timer();
            }
            // The guest finds it by itself.
            Stage::Rebooting(machine, _) => drop(machine.bay.commit(id, outcome, false)),
            Stage::Stopping(_) => {
                if let Ok(built) = outcome {
                    self.built_too_late(built);
                }
            }
            Stage::Created | Stage::Shutdown => {}
        }
    }

    fn gone(&mut self, id: &DeviceId, place: Reservation) {
        if let Some(vm) = &mut self.vm
            && let Some(machine) = vm.stage.booted()
            && let Some(was) = machine.bay.gone(id, place)
            && let Some(handed) = was.handed()
        {
            vm.spec.devices.retain(|other| other.handed() != Some(handed));
            self.close(was);
        }
        self.are_quiet(std::slice::from_ref(id));
    }

    /// Closes what was handed over: a tap that nobody else has takes its interface along, and
    /// the kernel its time.
    fn close(&self, what: Wanted) {
        if let Err(error) = workers::detach(&self.filters, move || drop(what)) {
            // It was dropped with the job, here and now.
            log::warn!("descriptors were closed on the event loop: {error}");
        }
    }

    fn loaded(&mut self, boot: u64, outcome: Result<Entry, boot::Error>) {
        match self.vm.as_mut().map(|vm| &mut vm.stage) {
            Some(Stage::Starting(_, starting)) => {
                let loaded = starting.loaded(boot, outcome);
                self.go_on_starting(loaded.map_err(Error::Load));
            }
            Some(Stage::Rebooting(_, rebooting)) => {
                let loaded = rebooting.loaded(boot, outcome);
                self.go_on_rebooting(loaded.map_err(Error::Load));
            }
            _ => {}
        }
    }
}
