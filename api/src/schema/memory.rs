//! How much memory the guest has, and of what kind.

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};
use super::prefault::Prefault;
use super::whole;

/// Size when the configuration names none, in bytes: Cloud Hypervisor's 512 MiB.
pub const DEFAULT_SIZE: u64 = 512 << 20;

/// `memory` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct MemoryConfig {
    /// Bytes.
    #[serde(deserialize_with = "whole::number")]
    pub size: u64,
    /// Map it shared, so that other processes can have it too.
    #[serde(default)]
    pub shared: bool,
    /// Take it from huge pages.
    #[serde(default)]
    pub hugepages: bool,
    /// Bytes of a huge page; the host's default size when absent.
    #[serde(default, deserialize_with = "whole::maybe", skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// When every page is touched.
    #[serde(default)]
    pub prefault: Prefault,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: DEFAULT_SIZE,
            shared: false,
            hugepages: false,
            hugepage_size: None,
            prefault: Prefault::Off,
        }
    }
}

pub(super) const KNOWN: Table = &[
    ("mergeable", "false"),
    ("hotplug_method", r#""Acpi""#),
    ("hotplug_size", "null"),
    ("hotplugged_size", "null"),
    ("reserve", "false"),
    ("thp", "true"),
    ("zones", "null"),
];
knows!(MemoryConfig, KNOWN);
