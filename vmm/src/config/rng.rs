//! A source of random numbers to be added, checked.

use std::path::PathBuf;

use api::schema::rng::RngConfig;
use devices::pci::{Segment, Slot};

use super::device::{DeviceError, DeviceId, segment, slot};
use crate::sandbox::{Grant, Purpose};

/// A source of random numbers for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RngSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// The host's file that they come from.
    pub source: PathBuf,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
}

impl RngSpec {
    /// What must be reachable for it.
    pub fn path(&self) -> Grant {
        Grant::new("the source of random numbers", &self.source, Purpose::Read)
    }
}

impl From<RngSpec> for RngConfig {
    fn from(spec: RngSpec) -> Self {
        let RngSpec { id, source, segment, slot } = spec;
        Self {
            src: source,
            id: id.map(|id| id.to_string()),
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
        }
    }
}

impl TryFrom<RngConfig> for RngSpec {
    type Error = DeviceError;

    fn try_from(body: RngConfig) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let RngConfig { src, id, pci_segment, pci_device_id } = body;
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            source: src,
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
        })
    }
}
