//! Why a VM did not do what was asked, and what a client is told of it.

use std::io;

use api::request::{Fault, Status, code};
use vm_memory::GuestMemoryError;

use super::verbs::Refusal;
use crate::assemble;
use crate::config::SpecError;
use crate::hotplug::AddError;
use crate::{boot, kvm, sandbox};

/// Why a VM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The VM's stage does not allow it.
    #[error(transparent)]
    Stage(#[from] Refusal),
    /// Something in the configuration.
    #[error("the VM's configuration is not valid")]
    Config(#[from] SpecError),
    /// What the process may reach.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
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
            Self::Stage(refusal) => refusal.class(),
            Self::Clock(_) => (Status::Internal, code::VMM_HOST_FAILED),
            Self::Device(error) => error.class(),
            Self::Sandbox(error) => sandbox_class(error),
            Self::Config(_) => (Status::BadRequest, code::VM_BAD_CONFIG),
            Self::Load(boot::Error::Prefault(_)) => (Status::Internal, code::VM_BOOT_FAILED),
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

fn sandbox_class(error: &sandbox::Error) -> (Status, &'static str) {
    match error {
        sandbox::Error::Absent(_) | sandbox::Error::TooOld(_) => {
            (Status::BadRequest, code::VMM_NO_LANDLOCK)
        }
        sandbox::Error::Missing { .. } => (Status::BadRequest, code::VM_BAD_CONFIG),
        sandbox::Error::Outside { .. } | sandbox::Error::NoVfio => {
            (Status::BadRequest, code::VMM_OUTSIDE_LANDLOCK)
        }
        sandbox::Error::Enter(_) => (Status::BadRequest, code::VMM_HOST_FAILED),
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
