//! A network card to be added, checked.

use std::hash::{BuildHasher, Hasher, RandomState};

use api::descriptors::{Fds, Handed};
use api::schema::net::NetConfig;
use devices::pci::{Segment, Slot};
use devices::virtio::net::{MOST_PAIRS, Mac, Offloads, TAP_NAME, VHOST_NODE};

use super::device::{DeviceError, DeviceId, segment, slot};
use super::disk::queue_size;
use crate::sandbox::{Grant, Purpose};

/// Where the host makes and hands out taps.
const TUN: &str = "/dev/net/tun";

/// A network card for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// Where its packets go.
    pub tap: Tap,
    /// The guest's address.
    pub mac: Mac,
    /// Pairs of queues, 1 to [`MOST_PAIRS`].
    pub pairs: u16,
    /// Entries of each queue, a power of two.
    pub queue_size: u16,
    /// What its driver may leave to the host.
    pub offloads: Offloads,
    /// The host's kernel carries its packets.
    pub vhost: bool,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
}

/// A tap of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tap {
    /// By name.
    Named(String),
    /// Open already, a descriptor for each pair of queues. They stay open as long as a VM has
    /// the card, so that it can boot again.
    Given(Handed),
}

impl Tap {
    /// What a client, or who started us, says of it.
    fn of(name: Option<String>, fds: Option<Fds>) -> Result<Self, DeviceError> {
        // The kernel makes a name of one with a percent sign, and folders of the others.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"/%:".contains(&byte);
        match (name, fds) {
            (Some(name), None)
                if (1..=TAP_NAME).contains(&name.len()) && name.bytes().all(plain) =>
            {
                Ok(Self::Named(name))
            }
            (Some(name), None) => Err(DeviceError::Tap(name)),
            (None, Some(Fds::Here(handed))) => Ok(Self::Given(handed)),
            (None, Some(Fds::Promised(_) | Fds::Numbers(_))) => Err(DeviceError::NumbersOnly),
            (Some(_), Some(_)) => Err(DeviceError::TwoTaps),
            (None, None) => Err(DeviceError::NoTap),
        }
    }

    /// It, or what stands for it, in a sentence.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Given(_) => "that was handed over",
        }
    }
}

impl NetSpec {
    /// What must be reachable for it.
    pub fn paths(&self) -> Vec<Grant> {
        let taps = || Grant::new("the host's taps", TUN, Purpose::Device);
        let kernel = || Grant::new("the host's kernel for cards", VHOST_NODE, Purpose::Device);
        let named = matches!(self.tap, Tap::Named(_)).then(taps);
        named.into_iter().chain(self.vhost.then(kernel)).collect()
    }
}

impl From<NetSpec> for NetConfig {
    fn from(spec: NetSpec) -> Self {
        let NetSpec { id, tap, mac, pairs, queue_size, offloads, vhost, segment, slot } = spec;
        let Offloads { csum, tso, ufo } = offloads;
        let (tap, fds) = match tap {
            Tap::Named(name) => (Some(name), None),
            Tap::Given(handed) => (None, Some(Fds::Here(handed))),
        };
        Self {
            tap,
            fds,
            id: id.map(|id| id.to_string()),
            mac: Some(mac.to_string()),
            num_queues: 2 * usize::from(pairs),
            queue_size,
            offload_tso: tso,
            offload_ufo: ufo,
            offload_csum: csum,
            x_vhost: vhost,
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
        }
    }
}

impl TryFrom<NetConfig> for NetSpec {
    type Error = DeviceError;

    fn try_from(body: NetConfig) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let NetConfig {
            tap,
            fds,
            id,
            mac,
            num_queues,
            queue_size: entries,
            offload_tso: tso,
            offload_ufo: ufo,
            offload_csum: csum,
            x_vhost: vhost,
            pci_segment,
            pci_device_id,
        } = body;
        let tap = Tap::of(tap, fds)?;
        let pairs = pairs(num_queues).ok_or(DeviceError::Pairs(num_queues))?;
        if let Tap::Given(handed) = &tap
            && handed.iter().len() != usize::from(pairs)
        {
            return Err(DeviceError::OtherPairs { given: handed.iter().len(), queues: num_queues });
        }
        let mac = match mac {
            Some(text) => Mac::parse(&text).ok_or(DeviceError::Mac(text))?,
            None => Mac::local(RandomState::new().build_hasher().finish()),
        };
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            tap,
            mac,
            pairs,
            queue_size: queue_size(entries)?,
            offloads: Offloads { csum, tso, ufo },
            vhost,
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
        })
    }
}

/// How many pairs so many queues are.
fn pairs(queues: usize) -> Option<u16> {
    let pairs = u16::try_from(queues).ok().filter(|queues| queues.is_multiple_of(2))? / 2;
    (1..=MOST_PAIRS).contains(&pairs).then_some(pairs)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn spec(body: &str) -> Result<NetSpec, DeviceError> {
        NetSpec::try_from(serde_json::from_str::<NetConfig>(body).unwrap())
    }

    #[test]
    fn card_survives_the_way_in_and_out() {
        let body = r#"{"tap":"tap0","id":"a","mac":"02:00:00:00:00:0f","queue_size":64,"offload_tso":false,"x_vhost":true,"pci_device_id":4}"#;
        let there = spec(body).unwrap();

        let again = NetSpec::try_from(NetConfig::from(there.clone())).unwrap();

        assert_eq!((again.queue_size, again.offloads.tso, again.offloads.csum), (64, false, true));
        assert_eq!(again, there);
    }

    #[test]
    fn queues_are_whole_pairs_with_room_for_one_more_queue() {
        let with = |queues| spec(&format!(r#"{{"tap":"t","num_queues":{queues}}}"#));

        let most = with(62).unwrap();
        assert_eq!((most.pairs, NetConfig::from(most).num_queues), (31, 62));
        for queues in [0, 1, 3, 64, 131_074] {
            assert_eq!(with(queues), Err(DeviceError::Pairs(queues)));
        }
    }

    /// A body with so many descriptors, and the VM's view on it.
    fn handed(body: &str, count: usize) -> (NetConfig, Result<NetSpec, DeviceError>) {
        let mut body: NetConfig = serde_json::from_str(body).unwrap();
        let open = |_| std::os::fd::OwnedFd::from(tempfile::tempfile().unwrap());
        body.fds = Some(Fds::Here((0..count).map(open).collect::<Vec<_>>().into()));
        (body.clone(), NetSpec::try_from(body))
    }

    #[test]
    fn tap_that_was_handed_over_survives_the_way_in_and_out() {
        let (body, spec) = handed(r#"{"id":"a","num_queues":4}"#, 2);

        let spec = spec.unwrap();

        assert_eq!(NetConfig::from(spec.clone()).fds, body.fds);
        assert_eq!(NetSpec::try_from(NetConfig::from(spec.clone())), Ok(spec.clone()));
        assert_eq!(spec.paths(), []);
    }

    #[test]
    fn descriptors_are_as_many_as_pairs_and_in_place_of_a_name() {
        let refused = |body, count| handed(body, count).1.unwrap_err();

        let other = DeviceError::OtherPairs { given: 2, queues: 2 };
        assert_eq!(refused("{}", 2), other);
        assert_eq!(refused(r#"{"tap":"t"}"#, 1), DeviceError::TwoTaps);
        assert_eq!(spec(r#"{"fds":[3]}"#), Err(DeviceError::NumbersOnly));
        assert_eq!(spec("{}"), Err(DeviceError::NoTap));
        assert!(other.to_string().ends_with("num_queues 4"), "{other}");
    }

    #[test]
    fn kernel_that_carries_packets_must_be_reachable() {
        let paths = |body| spec(body).unwrap().paths().into_iter().map(|grant| grant.path);

        assert_eq!(paths(r#"{"tap":"t"}"#).collect::<Vec<_>>(), [Path::new(TUN)]);
        let both = [Path::new(TUN), Path::new("/dev/vhost-net")];
        assert_eq!(paths(r#"{"tap":"t","x_vhost":true}"#).collect::<Vec<_>>(), both);
    }

    #[test]
    fn address_is_made_up_once() {
        let (one, other) = (spec(r#"{"tap":"t"}"#).unwrap(), spec(r#"{"tap":"t"}"#).unwrap());

        assert_ne!(one.mac, other.mac);
        assert_eq!(NetSpec::try_from(NetConfig::from(one.clone())), Ok(one));
    }

    #[test]
    fn what_is_no_tap_and_no_address_is_refused() {
        for tap in ["", "sixteen-bytes-xx", "a/b", "tap%d", "a b"] {
            let refused = spec(&format!(r#"{{"tap":"{tap}"}}"#));
            assert_eq!(refused, Err(DeviceError::Tap(tap.to_owned())));
        }
        let refused = spec(r#"{"tap":"t","mac":"01:00:00:00:00:01"}"#);
        assert_eq!(refused, Err(DeviceError::Mac("01:00:00:00:00:01".to_owned())));
    }
}
