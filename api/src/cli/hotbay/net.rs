//! `--net`, and what `hotbayctl add-net` takes.

use crate::cli::Misuse;
use crate::cli::options::{Key, Kind, body, object};
use crate::schema::net::NetConfig;

const NET: &[Key] = &[
    Key("tap", "tap", Kind::Text),
    Key("id", "id", Kind::Text),
    Key("mac", "mac", Kind::Text),
    Key("num_queues", "num_queues", Kind::Number),
    Key("queue_size", "queue_size", Kind::Number),
    Key("offload_tso", "offload_tso", Kind::Switch),
    Key("offload_ufo", "offload_ufo", Kind::Switch),
    Key("offload_csum", "offload_csum", Kind::Switch),
    Key("x_vhost", "x_vhost", Kind::Switch),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
    Key("ip", "ip", Kind::Text),
    Key("mask", "mask", Kind::Text),
    Key("host_mac", "host_mac", Kind::Text),
    Key("mtu", "mtu", Kind::Number),
    Key("vhost_user", "vhost_user", Kind::Switch),
    Key("socket", "vhost_socket", Kind::Text),
];

/// A network card, as the option describes it.
pub(in crate::cli) fn net(option: &str, text: &str) -> Result<NetConfig, Misuse> {
    body(option, text, object(option, text, NET)?)
}
