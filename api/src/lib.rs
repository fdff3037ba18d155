//! The control interface: what a client may say, and how it reaches the machine.
//!
//! This crate knows JSON, HTTP and nothing else. It never names a PCI slot
//! type or the hypervisor; a descriptor that a client hands over it passes on
//! without a look.

pub mod cli;
pub mod client;
pub mod descriptors;
pub mod mailbox;
pub mod request;
pub mod route;
pub mod schema;
pub mod server;
