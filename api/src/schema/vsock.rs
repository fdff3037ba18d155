//! Body of `vm.add-vsock`, and a VM's `vsock`.

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// Sockets between the guest and programs of the host (`AF_VSOCK`), through the host's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's address: 3 to 2^32 - 2, one that no other guest of the host has.
    pub cid: u32,
    /// Name for later requests; generated (`_vsock0`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Guest PCI segment to use, below the VM's `num_pci_segments`.
    #[serde(default)]
    pub pci_segment: u16,
    /// Guest PCI device number to use; the machine picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

pub(super) const KNOWN: Table = &[("iommu", "false"), ("socket", "null")];
knows!(VsockConfig, KNOWN);
