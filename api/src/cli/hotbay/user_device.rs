//! `--user-device`, and what `hotbayctl add-user-device` takes.

use crate::cli::Misuse;
use crate::cli::options::{Key, Kind, body, object};
use crate::schema::user_device::UserDeviceConfig;

const USER_DEVICE: &[Key] = &[
    Key("socket", "socket", Kind::Text),
    Key("id", "id", Kind::Text),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
];

/// A function of a vfio-user server, as the option describes it.
pub(in crate::cli) fn user_device(option: &str, text: &str) -> Result<UserDeviceConfig, Misuse> {
    body(option, text, object(option, text, USER_DEVICE)?)
}
