//! Device models and buses. Everything a guest can touch, nothing that runs it.
//!
//! A device asks for what it needs through small traits defined here
//! ([`irq::Vectors`], [`memory::Windows`]...); the `vmm` crate implements them.
//! No module in this crate may name the hypervisor or the API.

pub mod console;
pub mod io;
pub mod irq;
pub mod legacy;
pub mod memory;
pub mod pci;
pub mod platform;
pub mod space;
pub mod vfio;
pub mod virtio;
