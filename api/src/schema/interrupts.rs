//! Answer of `vm.interrupts`, and body of `vm.test-interrupt`. Both are hotbay's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::known::knows;

/// Answer to `vm.interrupts`, by device id.
pub type Interrupts = BTreeMap<String, DeviceInterrupts>;

/// Interrupts of one device: the guest's side and the host's at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInterrupts {
    /// The kind that the guest has on.
    pub mode: InterruptMode,
    /// The kind that is on at the host; another than the guest's if the host
    /// refused.
    pub host_mode: InterruptMode,
    /// Why the host does not have it on; null unless it refused.
    pub host_error: Option<HostError>,
    /// The guest's MSI-X capability; null if the device has none.
    pub msix: Option<MsixState>,
    /// The guest's MSI capability; null if the device has none.
    pub msi: Option<MsiState>,
    /// The interrupt line; null if the device has none.
    pub line: Option<LineState>,
    /// Vectors of MSI in use while MSI is on; otherwise those of MSI-X that are
    /// not as after reset.
    pub vectors: Vec<VectorState>,
}

/// Something that the host has refused; gone when it grants it, or when the guest
/// no longer asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostError {
    /// The error's name, such as `ENOSPC`.
    pub errno: String,
    /// What was refused, what to do about it, and when it is tried again.
    pub message: String,
}

/// Kind of interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterruptMode {
    /// None is on.
    None,
    /// The line.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

/// An MSI-X capability as the guest has set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    /// Vectors in the table.
    pub table_size: u16,
    /// MSI-X Enable.
    pub enabled: bool,
    /// Function Mask.
    pub function_masked: bool,
}

/// An MSI capability as the guest has set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiState {
    /// Vectors that the device could use.
    pub capable: u16,
    /// Vectors that the guest has enabled; 0 while MSI is off.
    pub in_use: u16,
}

/// An interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineState {
    /// The guest's number for it.
    pub gsi: u32,
    /// The guest lets the device raise it.
    pub allowed: bool,
    /// The host's interrupt leads to it.
    pub wired: bool,
    /// Interrupts that the host has taken; null while it has none allocated, or
    /// if they cannot be read.
    pub host: Option<u64>,
}

/// One vector, from the guest's table to the host's interrupt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorState {
    /// Its index.
    pub vector: u16,
    /// What the guest has made of it.
    pub guest: GuestVector,
    /// What hotbay has made of that.
    pub delivery: VectorDelivery,
    /// How often it fired.
    pub counts: VectorCounts,
    /// What the host refused when the vector last woke; null if nothing.
    pub host_error: Option<HostError>,
}

/// A vector as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestVector {
    /// Address of its message.
    pub address: u64,
    /// Data of its message.
    pub data: u32,
    /// Its own mask bit.
    pub masked: bool,
    /// Its Pending bit: it fired while it could not be delivered.
    pub pending: bool,
    /// Whether it is delivered: enabled, and neither mask is set.
    pub live: bool,
}

/// A vector as hotbay and the kernel have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorDelivery {
    /// Who delivers it.
    pub backend: Backend,
    /// Interrupt number of its route; it is kept while the vector is masked.
    pub gsi: Option<u32>,
    /// The host's interrupt leads to it. A live vector that is not wired was
    /// refused by the host: see `host_error`.
    pub wired: bool,
}

/// Who delivers a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Nobody: it is masked.
    Detached,
    /// hotbay's relay thread: it has no route yet, or none is left.
    Relayed,
    /// The kernel, without hotbay.
    Routed,
}

/// How often a vector fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorCounts {
    /// Messages that the relay thread has sent.
    pub relayed: u64,
    /// Interrupts that the host has taken since it allocated the vector; null
    /// while it has not, or if they cannot be read. Tests are not among them.
    pub host: Option<u64>,
}

/// Body of `vm.test-interrupt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TestInterrupt {
    /// The device's id.
    pub id: String,
    /// Which of its vectors; 0 is the line's.
    pub vector: u16,
}

knows!(TestInterrupt, &[]);
