//! `--disk`, and what `hotbayctl add-disk` takes.

use crate::cli::Misuse;
use crate::cli::options::{Key, Kind, body, object};
use crate::schema::disk::DiskConfig;

const DISK: &[Key] = &[
    Key("path", "path", Kind::Text),
    Key("id", "id", Kind::Text),
    Key("readonly", "readonly", Kind::Switch),
    Key("direct", "direct", Kind::Switch),
    Key("num_queues", "num_queues", Kind::Number),
    Key("queue_size", "queue_size", Kind::Number),
    Key("serial", "serial", Kind::Text),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
    Key("vhost_user", "vhost_user", Kind::Switch),
    Key("socket", "vhost_socket", Kind::Text),
    Key("disable_io_uring", "disable_io_uring", Kind::Switch),
    Key("disable_aio", "disable_aio", Kind::Switch),
    Key("backing_files", "backing_files", Kind::Switch),
    Key("sparse", "sparse", Kind::Switch),
    Key("rate_limit_group", "rate_limit_group", Kind::Text),
    Key("image_type", "image_type", Kind::Word(IMAGE_TYPES)),
];

const IMAGE_TYPES: &[(&str, &str)] = &[
    ("raw", "Raw"),
    ("unknown", "Unknown"),
    ("qcow2", "Qcow2"),
    ("fixed_vhd", "FixedVhd"),
    ("vhdx", "Vhdx"),
];

/// A disk, as the option describes it.
pub(in crate::cli) fn disk(option: &str, text: &str) -> Result<DiskConfig, Misuse> {
    body(option, text, object(option, text, DISK)?)
}
