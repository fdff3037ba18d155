//! A VM from its configuration to its end.
//!
//! ```text
//!          create            boot               shutdown
//! (none) ---------> Created -------> Running ------------> Shutdown
//!    ^                 |              |   ^ reboot             | boot: Running
//!    +----- delete ----+--- delete ---+---+--------- delete ---+
//! ```
//! A reboot keeps the machine: its VM, memory, memory slots and devices, with
//! RAM pinned. Only the processors and interrupt controllers begin again.

use std::io;

use api::request::{Fault, Status, code};
use api::schema::info::VmState;
use api::schema::machine::VmConfig;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::assemble::{self, Reports, assemble};
use crate::config::{SpecError, VmSpec};
use crate::events::{self, Event, Inbox, Poster};
use crate::machine::Machine;
use crate::watch::{Source, Watch};
use crate::{acpi, boot, kvm};

/// The one VM that a process may have, and what happens to it.
pub struct Vmm {
    pub(crate) vm: Option<Vm>,
    pub(crate) poster: Poster,
    pub(crate) inbox: Inbox,
    pub(crate) watch: Watch,
    /// Set when the process is to end.
    pub(crate) ending: Option<Ending>,
}

/// A VM: what was asked for, and the machine while there is one.
pub(crate) struct Vm {
    pub(crate) config: VmConfig,
    pub(crate) spec: VmSpec,
    pub(crate) stage: Stage,
}

/// How far a VM has come.
pub(crate) enum Stage {
    /// Nothing but a configuration.
    Created,
    /// Its vCPUs run.
    Running(Box<Machine>),
    /// It ran.
    Shutdown,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As somebody asked: a client, a signal, or the guest.
    Asked,
    /// The machine could not go on, for this reason.
    Failed(String),
}

/// Why a VM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Create first.
    #[error("no VM has been created")]
    NotCreated,
    /// Only one at a time.
    #[error("there is a VM already; delete it first")]
    Exists,
    /// It does not run.
    #[error("the VM is not running")]
    NotRunning,
    /// It runs already.
    #[error("the VM is running already")]
    Running,
    /// Something in the configuration.
    #[error("the VM's configuration is not valid")]
    Config(#[from] SpecError),
    /// Nothing to boot.
    #[error("the VM has no kernel to boot")]
    NoPayload,
    /// A part of the machine.
    #[error("cannot build the machine")]
    Assemble(#[from] assemble::Error),
    /// The kernel, or what goes with it.
    #[error("cannot load what the VM boots")]
    Load(#[from] boot::Error),
    /// The tables do not fit into the guest's memory.
    #[error("cannot write the ACPI tables into guest memory")]
    Tables(#[source] GuestMemoryError),
    /// The interrupt controllers.
    #[error("cannot reset the interrupt controllers")]
    Interrupts(#[from] kvm::Error),
    /// The serial port.
    #[error("cannot reset the serial port")]
    Serial(#[source] io::Error),
}

impl Vmm {
    /// No VM yet.
    pub fn new() -> io::Result<Self> {
        let (poster, inbox) = events::channel()?;
        Ok(Self { vm: None, poster, inbox, watch: Watch::new()?, ending: None })
    }

    /// Remembers a configuration; nothing runs yet.
    pub fn create(&mut self, config: VmConfig) -> Result<(), Error> {
        if self.vm.is_some() {
            return Err(Error::Exists);
        }
        let spec = VmSpec::try_from(config.clone())?;
        self.vm = Some(Vm { config, spec, stage: Stage::Created });
        Ok(())
    }

    /// Builds the machine and starts it. After a failure the VM is as it was.
    pub fn boot(&mut self) -> Result<(), Error> {
        let vm = self.vm.as_mut().ok_or(Error::NotCreated)?;
        if let Stage::Running(_) = vm.stage {
            return Err(Error::Running);
        }
        let payload = vm.spec.payload.clone().ok_or(Error::NoPayload)?;
        let machine =
            assemble(&vm.spec, payload, Reports { events: &self.poster, watch: &self.watch })?;
        start(&machine)?;
        log::info!("the VM is running");
        vm.stage = Stage::Running(Box::new(machine));
        Ok(())
    }

    /// Stops the guest and takes the machine apart; the configuration stays.
    pub fn shutdown(&mut self) -> Result<(), Error> {
        let vm = self.vm.as_mut().ok_or(Error::NotCreated)?;
        match vm.stage {
            Stage::Running(_) => vm.stage = Stage::Shutdown,
            Stage::Created | Stage::Shutdown => return Err(Error::NotRunning),
        }
        // What the guest asked for before it stopped means nothing any more.
        self.inbox.drain();
        Ok(())
    }

    /// Starts the guest afresh in the same machine.
    pub fn reboot(&mut self) -> Result<(), Error> {
        let vm = self.vm.as_mut().ok_or(Error::NotCreated)?;
        let Stage::Running(machine) = &vm.stage else { return Err(Error::NotRunning) };
        machine.vcpus.park();
        // Posted before the vCPUs were parked, so meant for the boot that is over.
        self.inbox.drain();
        let started = reset(machine).and_then(|()| start(machine));
        match started {
            Ok(()) => log::info!("the VM has been reset"),
            // A machine that does not start again is as good as off.
            Err(_) => vm.stage = Stage::Shutdown,
        }
        started
    }

    /// Stops the guest, if it runs, and forgets the VM.
    pub fn delete(&mut self) -> Result<(), Error> {
        self.vm.take().map(drop).ok_or(Error::NotCreated)?;
        self.inbox.drain();
        Ok(())
    }

    /// Does what the guest asked for, or what its end demands. Each event ends
    /// this boot of the guest, so the first decides and the rest is stale.
    pub fn take_events(&mut self) {
        match self.inbox.drain().into_iter().next() {
            Some(Event::PowerOff) => {
                log::info!("the guest has powered off");
                self.end(Ending::Asked);
            }
            Some(Event::Reset) => {
                if let Err(error) = self.reboot() {
                    self.end(Ending::Failed(chain(&error)));
                }
            }
            Some(Event::Fault { vcpu, reason }) => {
                self.end(Ending::Failed(format!("vCPU {vcpu} cannot go on: {reason}")));
            }
            None => {}
        }
    }

    /// Serves the machine's descriptors.
    pub fn take_ready(&mut self) {
        let ready = self.watch.ready();
        let Some(Vm { stage: Stage::Running(machine), .. }) = &mut self.vm else { return };
        for source in ready {
            match source {
                Source::Console => {
                    if let Some(serial) = &mut machine.serial {
                        serial.console.ready();
                    }
                }
                Source::Slots => {
                    for slot in machine.slots.take_ejected() {
                        log::info!("the guest let go of slot {slot}");
                    }
                }
            }
        }
    }

    /// Ends the VM, and soon the process.
    pub fn end(&mut self, ending: Ending) {
        self.vm = None;
        self.ending.get_or_insert(ending);
    }
}

impl Stage {
    /// The state's name on the API.
    pub(crate) fn state(&self) -> VmState {
        match self {
            Self::Created => VmState::Created,
            Self::Running(_) => VmState::Running,
            Self::Shutdown => VmState::Shutdown,
        }
    }
}

/// Puts everything but the processors, which reset themselves when they start,
/// into the state after power-on. The vCPUs are parked.
fn reset(machine: &Machine) -> Result<(), Error> {
    machine.slots.reset();
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

impl Error {
    /// What a client is told; `asked` says what could not be done.
    pub fn fault(&self, asked: &str) -> Fault {
        let (status, code) = match self {
            Self::NotCreated => (Status::NotFound, code::VM_NOT_CREATED),
            Self::Exists => (Status::BadRequest, code::VM_EXISTS),
            Self::NotRunning => (Status::BadRequest, code::VM_NOT_RUNNING),
            Self::Running => (Status::BadRequest, code::VM_RUNNING),
            Self::Config(_) => (Status::BadRequest, code::VM_BAD_CONFIG),
            Self::NoPayload | Self::Load(_) => (Status::BadRequest, code::VM_BAD_PAYLOAD),
            Self::Assemble(_) | Self::Tables(_) | Self::Interrupts(_) | Self::Serial(_) => {
                (Status::Internal, code::VM_BOOT_FAILED)
            }
        };
        Fault::new(status, code, asked, self)
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}
