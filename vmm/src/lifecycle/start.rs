//! From a configuration to a guest that runs.

use std::sync::Arc;

use api::mailbox::Reply;
use api::request::{Fault, Response};
use vm_memory::{Bytes, GuestAddress};

use super::stop::Then;
use super::{Ending, Error, Refusal, Stage, Verb, Vm, Vmm, chain};
use crate::arch::x86_64::registers::Entry;
use crate::assemble::{Reports, assemble};
use crate::boot::Payload;
use crate::events::Poster;
use crate::hotplug::Finished;
use crate::machine::Machine;
use crate::monitor::{Failure, Notice};
use crate::seccomp::Filters;
use crate::{acpi, boot, workers};

const CANNOT_BOOT: &str = Verb::Boot.failed();

/// What goes with a machine that is being started.
pub(crate) struct Starting {
    /// Who asked, if it was a client.
    reply: Option<Reply>,
    /// The boot's number.
    boot: u64,
    /// Where the first processor begins, once the kernel is in memory.
    entry: Option<Entry>,
}

impl Starting {
    /// What the guest boots has been read, if it was for this boot.
    pub(super) fn loaded(
        &mut self,
        boot: u64,
        outcome: Result<Entry, boot::Error>,
    ) -> Result<(), boot::Error> {
        if boot == self.boot {
            self.entry = Some(outcome?);
        }
        Ok(())
    }
}

impl Vmm {
    /// Builds the machine and starts it; `reply` is answered when it runs. After
    /// a failure the VM is as it was created. Without a reply it was the command
    /// line that asked, and a failure ends the process.
    pub fn boot(&mut self, reply: Option<Reply>) {
        let payload = match self.bootable() {
            Ok(payload) => payload,
            Err(error) => return self.refuse_boot(&error, reply),
        };
        self.monitor.tell(Notice::Booting);
        match self.prepare(payload) {
            Ok(machine) => {
                self.boots += 1;
                let starting = Starting { reply, boot: self.boots, entry: None };
                self.enter(Stage::Starting(Box::new(machine), starting));
                self.start_timer();
                if let Err(error) = self.begin() {
                    self.go_on_starting(Err(error));
                }
            }
            Err(error) => {
                self.boot_failed(&error);
                self.refuse_boot(&error, reply);
            }
        }
    }

    /// What there is to boot.
    fn bootable(&self) -> Result<Payload, Error> {
        let vm = self.vm.as_ref().ok_or(Refusal::NotCreated)?;
        vm.spec.payload.clone().ok_or(Error::NoPayload)
    }

    /// The machine, without devices.
    fn prepare(&mut self, payload: Payload) -> Result<Machine, Error> {
        let vm = self.vm.as_ref().ok_or(Refusal::NotCreated)?;
        let reports = Reports {
            events: &self.poster,
            finished: &self.finished_poster,
            watch: &self.watch,
            filters: &self.filters,
            monitor: &self.monitor,
        };
        Ok(assemble(&vm.spec, payload, reports)?)
    }

    /// Has workers open the devices and read what the machine boots.
    fn begin(&mut self) -> Result<(), Error> {
        let Some(Vm { stage: Stage::Starting(machine, _), spec, .. }) = &mut self.vm else {
            return Ok(());
        };
        for spec in spec.devices.iter().cloned() {
            machine.bay.add_at_boot(spec).map_err(Error::Device)?;
        }
        begin_to_load(machine, (self.boots, &self.finished_poster), &self.filters)
    }

    /// A boot that was begun has come to nothing.
    fn boot_failed(&self, error: &Error) -> Fault {
        let fault = error.fault(CANNOT_BOOT);
        let failure = Failure { code: fault.code, message: &fault.chain.join(": ") };
        self.monitor.tell(Notice::BootFailed(failure));
        fault
    }

    fn refuse_boot(&mut self, error: &Error, reply: Option<Reply>) {
        match reply {
            Some(reply) => reply.send(Err(error.fault(CANNOT_BOOT))),
            None => self.end(Ending::Failed(chain(error))),
        }
    }

    /// One more thing that a starting VM needs is there, or is not.
    pub(super) fn go_on_starting(&mut self, came: Result<(), Error>) {
        if let Err(error) = came {
            return self.give_up_boot(&error);
        }
        let Some(vm) = &mut self.vm else { return };
        let Stage::Starting(machine, starting) = &mut vm.stage else { return };
        let (Some(entry), false) = (starting.entry, machine.bay.is_building()) else { return };
        let reply = starting.reply.take();
        machine.vcpus.start(entry);
        vm.stage.run();
        log::info!("the VM is running");
        self.monitor.tell(Notice::Booted);
        self.begin_to_warm();
        reply.into_iter().for_each(|reply| reply.send(Ok(Response::Done)));
    }

    /// Gives back what a boot that has failed had already; then it is answered.
    fn give_up_boot(&mut self, error: &Error) {
        let Some(Vm { stage: Stage::Starting(_, starting), .. }) = &mut self.vm else { return };
        let reply = starting.reply.take();
        let fault = self.boot_failed(error);
        match reply {
            Some(reply) => self.stop(Then::Created, Some((reply, Err(fault)))),
            None => self.end(Ending::Failed(chain(error))),
        }
    }
}

/// Has a worker read what the machine boots, from storage that may be slow. It
/// holds nothing of the machine but its memory, so nobody has to wait for it.
pub(super) fn begin_to_load(
    machine: &Machine,
    (boot, finished): (u64, &Poster<Finished>),
    filters: &Arc<Filters>,
) -> Result<(), Error> {
    let finished = finished.clone();
    let (memory, payload) = (machine.ram.memory().clone(), machine.payload.clone());
    let rsdp = write_tables(machine)?;
    let warmth = machine.warming.at_boot();
    let load = move || {
        let warmed = warmth.as_ref().map_or(Ok(()), |warmth| warmth.warm_now());
        let loaded = warmed.map_err(boot::Error::Prefault);
        let loaded = loaded.and_then(|()| boot::load(&memory, &payload, Some(rsdp)));
        // Before the news: whoever has it may give the memory back.
        drop((memory, warmth));
        finished.post(Finished::Loaded(boot, loaded));
    };
    workers::detach(filters, load).map_err(Error::Loader)
}

/// Writes the ACPI tables; the address of their root pointer.
fn write_tables(machine: &Machine) -> Result<u64, Error> {
    let tables = acpi::tables(&machine.tables);
    let written = machine.ram.memory().write_slice(&tables.bytes, GuestAddress(tables.address));
    written.map_err(Error::Tables)?;
    Ok(tables.rsdp)
}
