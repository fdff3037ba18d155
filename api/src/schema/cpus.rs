//! How many processors the guest has.

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// `cpus` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct CpusConfig {
    /// Processors present at boot, at least 1.
    pub boot_vcpus: u32,
    /// Processors there may ever be, at least `boot_vcpus`.
    pub max_vcpus: u32,
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self { boot_vcpus: 1, max_vcpus: 1 }
    }
}

pub(super) const KNOWN: Table = &[
    ("topology", "null"),
    ("kvm_hyperv", "false"),
    ("max_phys_bits", "46"),
    ("nested", "true"),
    ("affinity", "null"),
    ("features", r#"{"amx":false}"#),
    ("core_scheduling", r#""Vm""#),
];
knows!(CpusConfig, KNOWN);
