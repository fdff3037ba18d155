//! The machine: it owns the guest's memory, processors and devices, and is the
//! only crate that knows both the API and the device models.

pub mod acpi;
pub mod arch;
pub mod boot;
pub mod events;
pub mod kvm;
pub mod memory;
pub mod vcpu;
