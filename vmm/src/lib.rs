//! The machine: it owns the guest's memory, processors and devices, and is the
//! only crate that knows both the API and the device models.

pub mod acpi;
pub mod memory;
