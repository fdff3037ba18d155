//! Functions that another process emulates: vfio-user (QEMU `docs/interop/vfio-user.rst`),
//! VFIO's requests as messages over a Unix socket. We are the client.
//!
//! ```text
//! wire        messages as bytes (pure)
//! connection  who asked what, and the thread that carries it: one for each server
//! ram         guest RAM lent to a server, and served to one that does not map it
//! server      the requests, typed
//! file        a server in the place of the kernel's device file
//! enable      the enable bits that the kernel would set
//! ```
//!
//! A server is not trusted with our time: each request has a deadline, and the first
//! that passes ends the connection, as does every message that the protocol does not
//! allow. From then on each request fails at once.

mod connection;
mod enable;
mod file;
mod ram;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use self::connection::{Carrier, Connection};
pub use self::file::Remote;
pub use self::ram::Lent;
pub use self::server::{Server, ServerError};
