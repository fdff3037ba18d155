//! A VM's `balloon`, and body of `vm.resize`.

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};
use super::whole;

/// A balloon: RAM that the guest does without is the host's until it wants it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct BalloonConfig {
    /// Bytes that are to be in it: a multiple of 4096, less than the VM's RAM.
    #[serde(deserialize_with = "whole::number")]
    pub size: u64,
    /// The guest may take pages out when it has no others.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// The guest names pages that happen to be free, and they go back to the host too.
    #[serde(default)]
    pub free_page_reporting: bool,
    /// Name for later requests; generated (`_balloon0`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Guest PCI segment to use, below the VM's `num_pci_segments`.
    #[serde(default)]
    pub pci_segment: u16,
    /// Guest PCI device number to use; the machine picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

/// What is to become of a VM's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct VmResize {
    /// Bytes that are to be in the balloon; as it is when absent.
    #[serde(default, deserialize_with = "whole::maybe")]
    pub desired_balloon: Option<u64>,
}

pub(super) const KNOWN: Table = &[("iommu", "false")];
knows!(BalloonConfig, KNOWN);

pub(super) const RESIZE_KNOWN: Table = &[("desired_ram", "null"), ("desired_vcpus", "null")];
knows!(VmResize, RESIZE_KNOWN);
