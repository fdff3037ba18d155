//! JSON bodies, one noun a file. Field names here are a public promise: they
//! are Cloud Hypervisor's, so that its clients' bodies pass.
//!
//! An unknown field is refused by name. A field that Cloud Hypervisor knows and
//! hotbay does not act on is accepted at its default value and refused, by
//! name, at any other: nothing is silently ignored ([`known`]).

pub mod console;
pub mod cpus;
pub mod device;
pub mod info;
pub mod interrupts;
pub mod known;
pub mod landlock;
pub mod machine;
pub mod memory;
pub mod payload;
pub mod platform;
pub mod prefault;

#[cfg(test)]
mod tests;
