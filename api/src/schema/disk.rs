//! Body of `vm.add-disk`, and an entry of a VM's `disks`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// A disk of the guest: an image or a block device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DiskConfig {
    /// The image or device. It is locked while the guest has it.
    pub path: PathBuf,
    /// Name for later requests; generated (`_disk0`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The guest cannot write it; others may read it meanwhile.
    #[serde(default)]
    pub readonly: bool,
    /// Reads and writes go past the host's page cache.
    #[serde(default)]
    pub direct: bool,
    /// What the image is.
    #[serde(default)]
    pub image_type: ImageType,
    /// Queues, each with a thread of its own: 1 to 64.
    #[serde(default = "default_num_queues")]
    pub num_queues: usize,
    /// Entries of a queue: a power of two from 4 to 32768.
    #[serde(default = "default_queue_size")]
    pub queue_size: u16,
    /// What the guest sees as the disk's serial number, at most 20 bytes; the id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Guest PCI segment to use, below the VM's `num_pci_segments`.
    #[serde(default)]
    pub pci_segment: u16,
    /// Guest PCI device number to use; the machine picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

/// What the bytes of an image mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageType {
    /// Raw; one that begins as a qcow2 image does is refused.
    #[default]
    Unknown,
    /// They are the disk's, whatever they are.
    Raw,
    /// QEMU's format, refused with what to do.
    Qcow2,
    /// Connectix' formats, refused too.
    FixedVhd,
    /// As above.
    Vhdx,
}

fn default_num_queues() -> usize {
    1
}

fn default_queue_size() -> u16 {
    128
}

pub(super) const KNOWN: Table = &[
    ("backing_files", "false"),
    ("disable_aio", "false"),
    ("disable_io_uring", "false"),
    ("iommu", "false"),
    ("lock_granularity", r#""ByteRange""#),
    ("queue_affinity", "null"),
    ("rate_limit_group", "null"),
    ("rate_limiter_config", "null"),
    ("sparse", "true"),
    ("vhost_socket", "null"),
    ("vhost_user", "false"),
];
knows!(DiskConfig, KNOWN);
