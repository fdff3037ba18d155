//! Answers of `vmm.ping`, `vm.info` and `vm.counters`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::VmConfig;

/// Answer to `vmm.ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmPing {
    /// Version with the commit it was built from, if known.
    pub build_version: String,
    /// Version of the package.
    pub version: String,
    /// Process id of the VMM.
    pub pid: i64,
    /// Optional features that were built in.
    pub features: Vec<String>,
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Configured, not yet booted.
    Created,
    /// Its vCPUs run.
    Running,
    /// It ran and was shut down; it can be booted again.
    Shutdown,
    /// Its vCPUs stand still.
    Paused,
}

/// Answer to `vm.info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// The configuration, with what was added since.
    pub config: VmConfig,
    /// What it is doing.
    pub state: VmState,
    /// Bytes of RAM the guest has now.
    pub memory_actual_size: u64,
    /// Bytes of it that hotbay has faulted in beforehand. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_warm_size: Option<u64>,
    /// Its devices by id; absent before boot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device_tree: Option<BTreeMap<String, DeviceNode>>,
}

/// One device of a running VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Its id, the same as its key.
    pub id: String,
    /// What it occupies.
    pub resources: Vec<Resource>,
    /// Id of the device it sits behind.
    pub parent: Option<String>,
    /// Ids of the devices behind it.
    pub children: Vec<String>,
    /// Where the guest sees it, `0000:00:03.0`; absent for non-PCI devices.
    pub pci_bdf: Option<String>,
    /// Where it is between arriving and leaving. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<DeviceState>,
    /// Milliseconds since it entered `state`. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_ms: Option<u64>,
    /// Milliseconds since the host first wanted it back; absent if it does not. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wanted_back_ms: Option<u64>,
    /// Errors of the device that the host has reported (PCI Express AER); absent
    /// if there were none. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_errors: Option<u64>,
    /// The first access that it did not answer since its last reset, and why;
    /// absent while it answers. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
    /// How `vm.reboot` resets it; absent while the guest does not have it. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reset: Option<DeviceReset>,
    /// How far it has come on its way in. (hotbay's)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub progress: Option<AddProgress>,
}

/// How a device is reset when the guest restarts, and what that came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReset {
    /// What it will get: `hot_reset` (by its slot or bus), `none`, or the
    /// kernel's name of the method (`flr`, `pm`, `bus`...; `kernel` if it gives none).
    pub method: String,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What the last one came to; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<ResetResult>,
    /// Why that failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// Milliseconds that it took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub took_ms: Option<u64>,
}

/// What a reset came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetResult {
    /// The device is as after power-on.
    Done,
    /// It is not, but quiet: no interrupts, no DMA, no BARs.
    Failed,
}

/// How far a device has come on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddProgress {
    /// What is being done.
    pub phase: AddPhase,
    /// Bytes of the guest's RAM that are mapped for it.
    pub bytes_done: u64,
    /// Bytes that will be; zero when all RAM is mapped already, for another device.
    pub bytes_total: u64,
}

/// What is being done for a device on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddPhase {
    /// Looking at its driver and its IOMMU group.
    Checking,
    /// Opening its group, when it is its turn.
    Attaching,
    /// Faulting in, pinning and mapping the guest's RAM.
    Mapping,
    /// Opening the device itself, which resets it.
    Opening,
}

/// Where a device is between arriving and leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Being opened and mapped; the guest does not see it yet.
    Adding,
    /// Removed while it was being added; what was done is being undone.
    Cancelled,
    /// The guest has it.
    Attached,
    /// The guest has been asked to let go.
    Removing,
    /// The guest did not let go in time; it still may.
    TimedOut,
    /// The guest let go; the host is closing it.
    Ejected,
}

/// Something a device occupies; spelled as Cloud Hypervisor does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// A base address register.
    PciBar {
        /// Its number, 0 to 5, or 6 for the expansion ROM.
        index: u32,
        /// Guest address it decodes now.
        base: u64,
        /// Bytes.
        size: u64,
        /// Which address space.
        type_: PciBarType,
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// The address space of a base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PciBarType {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Mmio32,
    /// Memory anywhere.
    Mmio64,
}

/// Answer to `vm.counters`: a number by device id and counter name.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;
