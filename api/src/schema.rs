//! JSON bodies, one noun a file. Field names here are a public promise: they
//! are Cloud Hypervisor's, so that its clients' bodies pass.
//!
//! An unknown field is refused by name. A field that Cloud Hypervisor knows and
//! hotbay does not act on is accepted at its default value and refused, by
//! name, at any other: nothing is silently ignored ([`known`]).

pub mod balloon;
pub mod console;
pub mod cpus;
pub mod device;
pub mod disk;
pub mod events;
pub mod info;
pub mod interrupts;
pub mod known;
pub mod landlock;
pub mod machine;
pub mod memory;
pub mod net;
pub mod payload;
pub mod platform;
pub mod prefault;
pub mod rng;
pub mod user_device;
pub mod vsock;
mod whole;

/// Fields that Cloud Hypervisor knows and hotbay does not act on, by the name of the body
/// in `openapi/hotbay.yaml`, each with its default as JSON text.
pub const NOT_ACTED_ON: &[(&str, known::Table)] = &[
    ("VmConfig", machine::KNOWN),
    ("PayloadConfig", payload::KNOWN),
    ("CpusConfig", cpus::KNOWN),
    ("MemoryConfig", memory::KNOWN),
    ("PlatformConfig", platform::KNOWN),
    ("ConsoleConfig", console::KNOWN),
    ("AddDevice", device::ADD_KNOWN),
    ("DiskConfig", disk::KNOWN),
    ("NetConfig", net::KNOWN),
    ("UserDeviceConfig", user_device::KNOWN),
    ("RngConfig", rng::KNOWN),
    ("VsockConfig", vsock::KNOWN),
    ("BalloonConfig", balloon::KNOWN),
    ("VmResize", balloon::RESIZE_KNOWN),
];

#[cfg(test)]
mod tests;
