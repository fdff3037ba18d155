//! What a VM's mainboard is like.

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// `platform` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PlatformConfig {
    /// PCI segments, each with room for 31 functions.
    #[serde(default = "one")]
    pub num_pci_segments: u16,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self { num_pci_segments: one() }
    }
}

fn one() -> u16 {
    1
}

pub(super) const KNOWN: Table = &[
    ("iommu_segments", "null"),
    ("iommu_address_width_bits", "64"),
    ("serial_number", "null"),
    ("uuid", "null"),
    ("oem_strings", "null"),
    ("system_serial_number", "null"),
    ("system_uuid", "null"),
    ("system_manufacturer", "null"),
    ("system_product_name", "null"),
    ("system_version", "null"),
    ("system_family", "null"),
    ("system_sku_number", "null"),
    ("chassis_asset_tag", "null"),
    ("tdx", "false"),
    ("sev_snp", "false"),
    ("iommufd", "false"),
    ("vfio_p2p_dma", "true"),
];
knows!(PlatformConfig, KNOWN);
