//! The control interface: what a client may say, and how it reaches the machine.
//!
//! This crate knows JSON, HTTP and nothing else. It never names a PCI slot
//! type, a file descriptor of a device, or the hypervisor.

pub mod cli;
pub mod client;
pub mod mailbox;
pub mod request;
pub mod route;
pub mod schema;
pub mod server;
