//! Body of `vm.add-user-device`, and an entry of a VM's `user_devices`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// A function that another process emulates and serves over vfio-user. The VM's memory
/// must be `shared`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct UserDeviceConfig {
    /// The Unix socket that its server listens at, at most 107 bytes.
    pub socket: PathBuf,
    /// Name for later requests; generated (`_vfio_user0`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Guest PCI segment to use, below the VM's `num_pci_segments`.
    #[serde(default)]
    pub pci_segment: u16,
    /// Guest PCI device number to use; the machine picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

pub(super) const KNOWN: Table = &[("iommu", "false")];
knows!(UserDeviceConfig, KNOWN);
