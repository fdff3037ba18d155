//! `--net`, and what `hotbayctl add-net` takes.

use crate::cli::Misuse;
use crate::cli::options::{Key, Kind, body, object};
use crate::descriptors::Fds;
use crate::schema::net::NetConfig;

const NET: &[Key] = &[
    Key("tap", "tap", Kind::Text),
    Key("fd", "fds", Kind::Numbers),
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

/// Takes over the descriptors that the option names.
pub(in crate::cli) fn take_over(
    option: &str,
    text: &str,
    card: &mut NetConfig,
) -> Result<(), Misuse> {
    let taken = card.fds.as_mut().map_or(Ok(()), Fds::take_over);
    taken.map_err(|error| Misuse(format!("{option} {text}: cannot take the descriptor: {error}")))
}

/// A network card, as the option describes it.
pub(in crate::cli) fn net(option: &str, text: &str) -> Result<NetConfig, Misuse> {
    let mut fields = object(option, text, NET)?;
    let numbers = fields.remove("fds").map(|numbers| body(option, text, numbers)).transpose()?;
    let card: NetConfig = body(option, text, fields)?;
    Ok(NetConfig { fds: numbers.map(Fds::Numbers), ..card })
}
