//! Bodies of `vm.add-device` and `vm.remove-device`, and the answer to the first.

use std::ops::Not;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};
use super::whole;

/// Body of `vm.add-device`, and an entry of a VM's `devices`: a host PCI
/// function that the guest gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct AddDevice {
    /// Where sysfs has it, such as `/sys/bus/pci/devices/0000:01:00.0`.
    pub path: PathBuf,
    /// Name for later requests; generated (`_vfio0`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Guest PCI segment to use, below the VM's `num_pci_segments`.
    #[serde(default)]
    pub pci_segment: u16,
    /// Guest PCI device number to use; the machine picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// BAR numbers (0 to 5) that are not to be mapped into the guest: each
    /// access traps.
    #[serde(default)]
    pub x_exclude_mmap_bars: Vec<u32>,
    /// Treat the host as one that cannot add MSI-X vectors while others are
    /// live, as it is before Linux 6.5. (hotbay's)
    #[serde(default, skip_serializing_if = "Not::not")]
    pub x_msix_noresize: bool,
    /// Mask a masked MSI-X vector at the device too, so that its Pending bit is
    /// the device's own. (hotbay's)
    #[serde(default, skip_serializing_if = "Not::not")]
    pub x_exact_pending: bool,
    /// Threads that fault in and map the guest's RAM, when this is its first device;
    /// the machine picks a number when absent. (hotbay's)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_map_threads: Option<u8>,
}

pub(super) const ADD_KNOWN: Table =
    &[("fd", "null"), ("iommu", "false"), ("x_nv_gpudirect_clique", "null")];
knows!(AddDevice, ADD_KNOWN);

/// Answer to `vm.add-device` on a running VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDeviceInfo {
    /// The request's id, or the generated one.
    pub id: String,
    /// Where the guest sees it, `0000:00:03.0`.
    pub bdf: String,
}

/// Body of `vm.remove-device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RemoveDevice {
    /// The device's id.
    pub id: String,
    /// Answer only when the guest has let go, or after this many
    /// milliseconds; absent, as soon as the guest has been asked. (hotbay's)
    #[serde(default, deserialize_with = "whole::maybe", skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Take the device even if the guest does not let go. (hotbay's)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

knows!(RemoveDevice, &[]);
