//! From a configuration to a guest that runs, the first time and after a reset.

use api::mailbox::Reply;
use api::request::Response;
use vm_memory::{Bytes, GuestAddress};

use super::{Ending, Error, Stage, Vmm, chain};
use crate::assemble::{Reports, assemble};
use crate::hotplug::AddError;
use crate::machine::Machine;
use crate::{acpi, boot};

impl Vmm {
    /// Builds the machine and starts it; `reply` is answered when it runs. After
    /// a failure the VM is as it was. Without a reply it was the command line
    /// that asked, and a failure ends the process.
    pub fn boot(&mut self, reply: Option<Reply>) {
        match self.prepare() {
            Ok(machine) if machine.bay.is_building() => {
                self.enter(Stage::Starting(Box::new(machine), reply));
            }
            Ok(machine) => self.launch(Box::new(machine), reply),
            Err(error) => self.refuse_boot(&error, reply),
        }
    }

    /// The machine with its devices under way.
    pub(super) fn prepare(&mut self) -> Result<Machine, Error> {
        let vm = self.vm.as_mut().ok_or(Error::NotCreated)?;
        if !matches!(vm.stage, Stage::Created | Stage::Shutdown) {
            return Err(vm.stage.refusal());
        }
        let payload = vm.spec.payload.clone().ok_or(Error::NoPayload)?;
        let reports = Reports {
            events: &self.poster,
            finished: &self.finished_poster,
            watch: &self.watch,
            filters: &self.filters,
        };
        let mut machine = assemble(&vm.spec, payload, reports)?;
        for spec in vm.spec.devices.iter().cloned() {
            machine.bay.add_at_boot(spec).map_err(Error::Device)?;
        }
        Ok(machine)
    }

    /// Lets a complete machine run.
    fn launch(&mut self, machine: Box<Machine>, reply: Option<Reply>) {
        match start(&machine) {
            Ok(()) => {
                log::info!("the VM is running");
                self.enter(Stage::Running(machine));
                reply.into_iter().for_each(|reply| reply.send(Ok(Response::Done)));
            }
            Err(error) => {
                self.discard(*machine);
                self.refuse_boot(&error, reply);
            }
        }
    }

    /// Starts the guest afresh in the same machine; one that is paused runs then.
    pub fn reboot(&mut self) -> Result<(), Error> {
        let vm = self.vm.as_mut().ok_or(Error::NotCreated)?;
        let (Stage::Running(machine) | Stage::Paused(machine, _)) = &mut vm.stage else {
            return Err(vm.stage.refusal());
        };
        machine.vcpus.park();
        // Posted before the vCPUs were parked, so meant for the boot that is over.
        self.inbox.drain();
        let started = reset(machine).and_then(|()| start(machine));
        match started {
            Ok(()) => {
                log::info!("the VM has been reset");
                vm.stage.run();
            }
            // A machine that does not start again is as good as off.
            Err(_) => self.shutdown()?,
        }
        started
    }

    fn refuse_boot(&mut self, error: &Error, reply: Option<Reply>) {
        match reply {
            Some(reply) => reply.send(Err(error.fault("cannot boot the VM"))),
            None => self.end(Ending::Failed(chain(error))),
        }
    }

    /// One more device of a starting VM is there, or is not.
    pub(super) fn go_on_starting(&mut self, built: Result<(), AddError>) {
        let Some(vm) = &mut self.vm else { return };
        match (std::mem::replace(&mut vm.stage, Stage::Created), built) {
            (Stage::Starting(machine, reply), Ok(())) if machine.bay.is_building() => {
                vm.stage = Stage::Starting(machine, reply);
            }
            (Stage::Starting(machine, reply), Ok(())) => self.launch(machine, reply),
            (Stage::Starting(machine, reply), Err(error)) => {
                self.discard(*machine);
                self.refuse_boot(&Error::Device(error), reply);
            }
            (other, _) => vm.stage = other,
        }
    }
}

/// Puts everything but the processors, which reset themselves when they start,
/// into the state after power-on. The vCPUs are parked.
fn reset(machine: &mut Machine) -> Result<(), Error> {
    machine.bay.reset();
    if let Some(serial) = &machine.serial {
        serial.uart.reset().map_err(Error::Serial)?;
    }
    Ok(machine.fresh_chips.restore(&machine.vm)?)
}

/// Loads what the guest boots and lets its parked vCPUs run.
fn start(machine: &Machine) -> Result<(), Error> {
    let tables = acpi::tables(&machine.tables);
    let memory = machine.ram.memory();
    let written = memory.write_slice(&tables.bytes, GuestAddress(tables.address));
    written.map_err(Error::Tables)?;
    let entry = boot::load(memory, &machine.payload, Some(tables.rsdp))?;
    machine.vcpus.start(entry);
    Ok(())
}
