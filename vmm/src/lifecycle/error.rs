//! Why a VM did not do what was asked, and what a client is told of it.

use std::io;

use api::request::{Fault, Status, code};
use vm_memory::GuestMemoryError;

use crate::assemble;
use crate::config::SpecError;
use crate::hotplug::AddError;
use crate::{boot, kvm};

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
    /// No thread to read it.
    #[error("cannot start a worker that reads what the VM boots")]
    Loader(#[source] io::Error),
    /// The tables do not fit into the guest's memory.
    #[error("cannot write the ACPI tables into guest memory")]
    Tables(#[source] GuestMemoryError),
    /// A device it should boot with.
    #[error("cannot add a device that the VM boots with")]
    Device(#[source] AddError),
    /// Its devices are still being opened.
    #[error("the VM is starting; try again when vm.boot has been answered")]
    Starting,
    /// Its vCPUs are on their way out of the guest.
    #[error("the VM is being paused; try again when vm.pause has been answered")]
    Pausing,
    /// Its vCPUs stand still.
    #[error("the VM is paused; vm.resume lets it go on")]
    Paused,
    /// A worker takes it apart.
    #[error("the VM is being shut down; try again when that has been answered")]
    Stopping,
    /// The clock of a guest that is paused.
    #[error("cannot stop the guest's clock")]
    Clock(#[source] kvm::Error),
    /// The interrupt controllers.
    #[error("cannot reset the interrupt controllers")]
    Interrupts(#[from] kvm::Error),
    /// The serial port.
    #[error("cannot reset the serial port")]
    Serial(#[source] io::Error),
}

impl Error {
    /// What a client is told; `asked` says what could not be done.
    pub fn fault(&self, asked: &str) -> Fault {
        let (status, code) = match self {
            Self::NotCreated => (Status::NotFound, code::VM_NOT_CREATED),
            Self::Exists => (Status::BadRequest, code::VM_EXISTS),
            Self::NotRunning => (Status::BadRequest, code::VM_NOT_RUNNING),
            Self::Running => (Status::BadRequest, code::VM_RUNNING),
            Self::Starting => (Status::Busy, code::VM_STARTING),
            Self::Pausing => (Status::Busy, code::VM_PAUSING),
            Self::Stopping => (Status::Busy, code::VM_STOPPING),
            Self::Paused => (Status::BadRequest, code::VM_PAUSED),
            Self::Clock(_) => (Status::Internal, code::VMM_HOST_FAILED),
            Self::Device(error) => error.class(),
            Self::Config(_) => (Status::BadRequest, code::VM_BAD_CONFIG),
            Self::NoPayload | Self::Load(_) => (Status::BadRequest, code::VM_BAD_PAYLOAD),
            Self::Assemble(_)
            | Self::Loader(_)
            | Self::Tables(_)
            | Self::Interrupts(_)
            | Self::Serial(_) => (Status::Internal, code::VM_BOOT_FAILED),
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
