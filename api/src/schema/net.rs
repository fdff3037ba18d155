//! Body of `vm.add-net`, and an entry of a VM's `net`.

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};
use crate::descriptors::Fds;

/// A network card of the guest, on a tap of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NetConfig {
    /// Name of the tap, at most 15 bytes. One that does not exist is made, if hotbay may.
    /// More than one pair of queues wants a tap that was made with several (`multi_queue`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// A tap that is open already, in place of one by name: a descriptor for each pair of queues,
    /// sent with the request. The numbers in JSON only say how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fds: Option<Fds>,
    /// Name for later requests; generated (`_net0`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The guest's address, as in `02:00:00:00:00:01`; a local one made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Queues, an even number from 2 to 62: one for each direction makes a pair.
    #[serde(default = "default_num_queues")]
    pub num_queues: usize,
    /// Entries of a queue: a power of two from 4 to 32768.
    #[serde(default = "default_queue_size")]
    pub queue_size: u16,
    /// TCP is cut into packets by who sends them on a wire.
    #[serde(default = "default_offload")]
    pub offload_tso: bool,
    /// The same with UDP.
    #[serde(default = "default_offload")]
    pub offload_ufo: bool,
    /// Checksums are left to who sends packets on a wire; the other two need it.
    #[serde(default = "default_offload")]
    pub offload_csum: bool,
    /// The host's kernel carries the packets (vhost-net) in place of threads of hotbay's.
    #[serde(default)]
    pub x_vhost: bool,
    /// Guest PCI segment to use, below the VM's `num_pci_segments`.
    #[serde(default)]
    pub pci_segment: u16,
    /// Guest PCI device number to use; the machine picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

fn default_num_queues() -> usize {
    2
}

fn default_queue_size() -> u16 {
    256
}

fn default_offload() -> bool {
    true
}

pub(super) const KNOWN: Table = &[
    ("host_mac", "null"),
    ("iommu", "false"),
    ("ip", "null"),
    ("mask", "null"),
    ("mtu", "null"),
    ("rate_limiter_config", "null"),
    ("vhost_mode", r#""Client""#),
    ("vhost_socket", "null"),
    ("vhost_user", "false"),
];
knows!(NetConfig, KNOWN);
