//! Sockets between a guest and the host, to be added, checked.

use api::schema::vsock::VsockConfig;
use devices::pci::{Segment, Slot};
use devices::virtio::vsock::{CIDS, NODE};

use super::device::{DeviceError, DeviceId, segment, slot};
use crate::sandbox::{Grant, Purpose};

/// Sockets to programs of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// The guest's address among the guests of the host, one of [`CIDS`].
    pub cid: u32,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
}

impl VsockSpec {
    /// What must be reachable for it.
    pub fn path(&self) -> Grant {
        Grant::new("the host's end of guests' sockets", NODE, Purpose::Device)
    }
}

impl From<VsockSpec> for VsockConfig {
    fn from(spec: VsockSpec) -> Self {
        let VsockSpec { id, cid, segment, slot } = spec;
        Self {
            cid,
            id: id.map(|id| id.to_string()),
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
        }
    }
}

impl TryFrom<VsockConfig> for VsockSpec {
    type Error = DeviceError;

    fn try_from(body: VsockConfig) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let VsockConfig { cid, id, pci_segment, pci_device_id } = body;
        if !CIDS.contains(&cid) {
            return Err(DeviceError::Cid(cid));
        }
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            cid,
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(body: &str) -> Result<VsockSpec, DeviceError> {
        VsockSpec::try_from(serde_json::from_str::<VsockConfig>(body).unwrap())
    }

    #[test]
    fn sockets_survive_the_way_in_and_out() {
        let there = spec(r#"{"cid":7,"id":"a","pci_device_id":4}"#).unwrap();

        let again = VsockSpec::try_from(VsockConfig::from(there.clone()));

        assert_eq!((there.cid, again), (7, Ok(there)));
    }

    #[test]
    fn addresses_that_no_guest_can_have_are_refused() {
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(spec(&format!(r#"{{"cid":{cid}}}"#)), Err(DeviceError::Cid(cid)));
        }
    }
}
