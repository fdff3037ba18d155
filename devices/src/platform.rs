//! Registers that exist only because our ACPI tables say so.

pub mod power;
pub mod slots;
