//! A function of a vfio-user server to be added, checked.

use std::path::PathBuf;

use api::schema::user_device::UserDeviceConfig;
use devices::pci::{Segment, Slot};

use super::device::{DeviceError, DeviceId, segment, slot};
use crate::sandbox::{Grant, Purpose};

/// A function that another process emulates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDeviceSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// Where its server listens.
    pub socket: PathBuf,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
}

impl UserDeviceSpec {
    /// What must be reachable for it.
    pub fn path(&self) -> Grant {
        Grant::new("the socket of a vfio-user server", &self.socket, Purpose::Device)
    }
}

impl From<UserDeviceSpec> for UserDeviceConfig {
    fn from(spec: UserDeviceSpec) -> Self {
        let UserDeviceSpec { id, socket, segment, slot } = spec;
        Self {
            socket,
            id: id.map(|id| id.to_string()),
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
        }
    }
}

impl TryFrom<UserDeviceConfig> for UserDeviceSpec {
    type Error = DeviceError;

    fn try_from(body: UserDeviceConfig) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let UserDeviceConfig { socket, id, pci_segment, pci_device_id } = body;
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            socket,
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_device_survives_the_way_in_and_out() {
        let body = r#"{"socket":"/run/u.sock","id":"u0","pci_segment":2,"pci_device_id":4}"#;
        let body: UserDeviceConfig = serde_json::from_str(body).unwrap();

        let spec = UserDeviceSpec::try_from(body.clone()).unwrap();

        assert_eq!(spec.segment.number(), 2);
        assert_eq!(UserDeviceConfig::from(spec), body);
    }
}
