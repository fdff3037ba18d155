//! Registers that exist only because our ACPI tables say so.

pub mod button;
pub mod power;
pub mod slots;
