//! What the guest boots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// `payload` of a VM: direct kernel boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PayloadConfig {
    /// Kernel image on the host, bzImage or ELF with a PVH note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Kernel command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Initial RAM file system image on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
}

pub(super) const KNOWN: Table = &[("firmware", "null"), ("igvm", "null"), ("host_data", "null")];
knows!(PayloadConfig, KNOWN);
