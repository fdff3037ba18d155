//! `--balloon`.

use crate::cli::Misuse;
use crate::cli::options::{Key, Kind, body, object};
use crate::schema::balloon::BalloonConfig;

const BALLOON: &[Key] = &[
    Key("size", "size", Kind::Size),
    Key("deflate_on_oom", "deflate_on_oom", Kind::Switch),
    Key("free_page_reporting", "free_page_reporting", Kind::Switch),
    Key("id", "id", Kind::Text),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
];

/// A balloon, as the option describes it.
pub(super) fn balloon(option: &str, text: &str) -> Result<BalloonConfig, Misuse> {
    body(option, text, object(option, text, BALLOON)?)
}
