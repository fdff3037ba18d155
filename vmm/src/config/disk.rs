//! A disk to be added, checked.

use std::path::PathBuf;

use api::schema::disk::{DiskConfig, ImageType};
use devices::pci::{Segment, Slot};
use devices::virtio::MOST_QUEUES;
use devices::virtio::block::{Access, Format, SERIAL};

use super::device::{DeviceError, DeviceId, segment, slot};
use crate::sandbox::{Grant, Purpose};

/// Entries of the shortest queue: a request's head, its data and its status, and a power of two.
const FEWEST_ENTRIES: u16 = 4;
/// Entries of the longest queue (virtio 1.2, 2.7).
const MOST_ENTRIES: u16 = 32768;

/// A disk for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// The image or block device.
    pub path: PathBuf,
    /// How it is used.
    pub access: Access,
    /// How many queues, 1 to [`MOST_QUEUES`].
    pub queues: u16,
    /// Entries of each, a power of two.
    pub queue_size: u16,
    /// Its serial number; its id when absent.
    pub serial: Option<String>,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
}

impl DiskSpec {
    /// What must be reachable for it.
    pub fn path(&self) -> Grant {
        let purpose = if self.access.readonly { Purpose::Read } else { Purpose::Device };
        Grant::new("the disk", &self.path, purpose)
    }
}

impl From<DiskSpec> for DiskConfig {
    fn from(spec: DiskSpec) -> Self {
        let DiskSpec { id, path, access, queues, queue_size, serial, segment, slot } = spec;
        Self {
            path,
            id: id.map(|id| id.to_string()),
            readonly: access.readonly,
            direct: access.direct,
            image_type: match access.format {
                Format::Unsaid => ImageType::Unknown,
                Format::Raw => ImageType::Raw,
            },
            num_queues: queues.into(),
            queue_size,
            serial,
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
        }
    }
}

impl TryFrom<DiskConfig> for DiskSpec {
    type Error = DeviceError;

    fn try_from(body: DiskConfig) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let DiskConfig {
            path,
            id,
            readonly,
            direct,
            image_type,
            num_queues,
            queue_size,
            serial,
            pci_segment,
            pci_device_id,
        } = body;
        let queues = u16::try_from(num_queues).ok().filter(|n| (1..=MOST_QUEUES).contains(n));
        if let Some(long) = serial.as_ref().filter(|serial| serial.len() > SERIAL) {
            return Err(DeviceError::Serial(long.clone()));
        }
        let format = match image_type {
            ImageType::Unknown => Format::Unsaid,
            ImageType::Raw => Format::Raw,
            ImageType::Qcow2 | ImageType::FixedVhd | ImageType::Vhdx => {
                return Err(DeviceError::Image(image_type));
            }
        };
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            path,
            access: Access { readonly, direct, format },
            queues: queues.ok_or(DeviceError::Queues(num_queues))?,
            queue_size: self::queue_size(queue_size)?,
            serial,
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
        })
    }
}

/// Entries of a queue, as a request says.
pub(super) fn queue_size(entries: u16) -> Result<u16, DeviceError> {
    let fits = entries.is_power_of_two() && (FEWEST_ENTRIES..=MOST_ENTRIES).contains(&entries);
    if fits { Ok(entries) } else { Err(DeviceError::QueueSize(entries)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rest: &str) -> Result<DiskSpec, DeviceError> {
        let body = format!(r#"{{"path":"/a.raw"{rest}}}"#);
        DiskSpec::try_from(serde_json::from_str::<DiskConfig>(&body).unwrap())
    }

    #[test]
    fn disk_survives_the_way_in_and_out() {
        let body = r#","id":"a","readonly":true,"image_type":"Raw","num_queues":3,"serial":"s","pci_device_id":4"#;
        let there = spec(body).unwrap();

        let again = DiskSpec::try_from(DiskConfig::from(there.clone())).unwrap();

        assert_eq!((again.queues, again.access.readonly), (3, true));
        assert_eq!(again, there);
    }

    #[test]
    fn queues_are_1_to_64_of_4_to_32768_entries() {
        for queues in [0, 65, 70_000] {
            let refused = spec(&format!(r#","num_queues":{queues}"#));
            assert_eq!(refused, Err(DeviceError::Queues(queues)));
        }
        for size in [0, 2, 100, 65_535] {
            let refused = spec(&format!(r#","queue_size":{size}"#));
            assert_eq!(refused, Err(DeviceError::QueueSize(size)));
        }
        assert_eq!(spec(r#","queue_size":32768"#).map(|spec| spec.queue_size), Ok(32768));
    }

    #[test]
    fn image_that_is_not_raw_is_refused_by_its_type() {
        let refused = spec(r#","image_type":"Qcow2""#).unwrap_err();

        assert_eq!(refused, DeviceError::Image(ImageType::Qcow2));
        assert!(refused.to_string().contains("qemu-img convert -O raw"), "{refused}");
    }

    #[test]
    fn serial_number_has_at_most_20_bytes() {
        let long = "x".repeat(21);
        assert_eq!(spec(&format!(r#","serial":"{long}""#)), Err(DeviceError::Serial(long)));
    }
}
