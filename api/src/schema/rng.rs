//! Body of a VM's `rng`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// A source of random numbers for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RngConfig {
    /// The file of the host that they come from.
    pub src: PathBuf,
    /// Name for later requests; generated (`_rng0`) when absent.
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
knows!(RngConfig, KNOWN);
