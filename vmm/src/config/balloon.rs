//! A balloon to be added, checked.

use api::schema::balloon::BalloonConfig;
use devices::pci::{Segment, Slot};
use devices::virtio::balloon::{Choices, PAGE};

use super::device::{DeviceError, DeviceId, segment, slot};

/// A balloon for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalloonSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// Pages that are to be in it.
    pub pages: u32,
    /// What its driver may do.
    pub choices: Choices,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
}

impl BalloonSpec {
    /// Bytes that are to be in it.
    pub fn size(&self) -> u64 {
        u64::from(self.pages) * PAGE
    }

    /// So many pages are to be in it, of a guest with so many bytes of `ram`.
    pub fn resize(&mut self, pages: u32, ram: u64) -> Result<(), DeviceError> {
        let wanted = Self { pages, ..self.clone() };
        wanted.fits(ram)?;
        *self = wanted;
        Ok(())
    }

    /// Refuses more than a guest of so many bytes of `ram` can give.
    pub fn fits(&self, ram: u64) -> Result<(), DeviceError> {
        if self.size() < ram { Ok(()) } else { Err(DeviceError::Balloon(self.size())) }
    }
}

/// The pages of so many bytes.
pub fn pages(size: u64) -> Result<u32, DeviceError> {
    let pages = u32::try_from(size / PAGE).ok().filter(|_| size.is_multiple_of(PAGE));
    pages.ok_or(DeviceError::Balloon(size))
}

impl From<BalloonSpec> for BalloonConfig {
    fn from(spec: BalloonSpec) -> Self {
        let size = spec.size();
        let BalloonSpec { id, pages: _, choices, segment, slot } = spec;
        let Choices { deflate_on_oom, reporting } = choices;
        Self {
            size,
            deflate_on_oom,
            free_page_reporting: reporting,
            id: id.map(|id| id.to_string()),
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
        }
    }
}

impl TryFrom<BalloonConfig> for BalloonSpec {
    type Error = DeviceError;

    fn try_from(body: BalloonConfig) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let BalloonConfig {
            size,
            deflate_on_oom,
            free_page_reporting: reporting,
            id,
            pci_segment,
            pci_device_id,
        } = body;
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            pages: pages(size)?,
            choices: Choices { deflate_on_oom, reporting },
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(body: &str) -> Result<BalloonSpec, DeviceError> {
        BalloonSpec::try_from(serde_json::from_str::<BalloonConfig>(body).unwrap())
    }

    #[test]
    fn balloon_survives_the_way_in_and_out() {
        let there = spec(r#"{"size":8192,"deflate_on_oom":true,"id":"a"}"#).unwrap();

        let again = BalloonSpec::try_from(BalloonConfig::from(there.clone()));

        assert_eq!((there.pages, there.choices.deflate_on_oom, again), (2, true, Ok(there)));
    }

    #[test]
    fn sizes_are_whole_pages_and_less_than_the_ram() {
        assert_eq!(spec(r#"{"size":4097}"#), Err(DeviceError::Balloon(4097)));
        let endless = 1 << 44;
        assert_eq!(spec(&format!(r#"{{"size":{endless}}}"#)), Err(DeviceError::Balloon(endless)));

        let two = spec(r#"{"size":8192}"#).unwrap();
        assert_eq!((two.fits(12288), two.fits(8192)), (Ok(()), Err(DeviceError::Balloon(8192))));
    }
}
