//! `--vsock`, and what `hotbayctl add-vsock` takes.

use crate::cli::Misuse;
use crate::cli::options::{Key, Kind, body, object};
use crate::schema::vsock::VsockConfig;

const VSOCK: &[Key] = &[
    Key("cid", "cid", Kind::Number),
    Key("id", "id", Kind::Text),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
    Key("socket", "socket", Kind::Text),
];

/// Sockets to the host, as the option describes them.
pub(in crate::cli) fn vsock(option: &str, text: &str) -> Result<VsockConfig, Misuse> {
    body(option, text, object(option, text, VSOCK)?)
}
