//! A device to be added, checked.

use std::fmt;
use std::path::PathBuf;

use api::schema::device::AddDevice;
use api::schema::disk::ImageType;
use devices::pci::{Segment, Slot};
use devices::vfio::interrupts::Choices;
use devices::virtio::net::MOST_PAIRS;

/// Longest id.
const LONGEST: usize = 64;
/// Beginning of ids that only hotbay gives.
const RESERVED: &str = "__";
/// BARs 0 to 5; the ROM is never mapped.
const BARS: u32 = 6;

/// Name by which a client knows a device: 1 to 64 of `[a-zA-Z0-9_.:-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId(String);

/// A host function for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Who it is; the machine picks a name when absent.
    pub id: Option<DeviceId>,
    /// Where sysfs has it.
    pub path: PathBuf,
    /// On which of the guest's segments.
    pub segment: Segment,
    /// Where on it the guest wants it; any slot when absent.
    pub slot: Option<Slot>,
    /// BARs that stay trapped.
    pub unmapped: Vec<u8>,
    /// How its interrupts are handled.
    pub interrupts: Choices,
    /// Threads that map RAM for it, if it is the first; at least one.
    pub map_threads: Option<usize>,
}

/// A device is to sit on a PCI segment that its VM does not have; how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no PCI segment {0}, the VM has {1}: give a lower pci_segment, or create the VM with a higher \
     num_pci_segments"
)]
pub struct NoSegment(pub Segment, pub usize);

/// What was wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Empty, too long, or with odd characters.
    #[error("device id {0:?} is not 1 to {LONGEST} of [a-zA-Z0-9_.:-]")]
    Id(String),
    /// Only hotbay gives such ids.
    #[error("device id {0:?} begins with {RESERVED}, which is reserved; choose another")]
    Reserved(String),
    /// No such slot on any bus.
    #[error("pci_device_id {0} is not 1 to 31")]
    Slot(u8),
    /// No machine has so many.
    #[error("pci_segment {0} is not 0 to {last}", last = Segment::MOST - 1)]
    Segment(u16),
    /// No such BAR.
    #[error("x_exclude_mmap_bars names BAR {0}, but BARs are 0 to 5")]
    Bar(u32),
    /// Nobody would do it.
    #[error("x_map_threads is 0; give at least 1, or leave it out")]
    NoThreads,
    /// None, or more than a device can have.
    #[error("num_queues {0} is not 1 to 64")]
    Queues(usize),
    /// Not whole pairs, or more than a card can have.
    #[error("num_queues {0} of a network card is not an even number from 2 to {most}", most = 2 * MOST_PAIRS)]
    Pairs(usize),
    /// Too few, too many, or no power of two.
    #[error("queue_size {0} is not a power of two from 4 to 32768")]
    QueueSize(u16),
    /// No interface has such a name.
    #[error(
        "tap {0:?} is no name of an interface: 1 to 15 letters, digits and signs, but none of / % :"
    )]
    Tap(String),
    /// Cloud Hypervisor has them.
    #[error(
        "image_type {0:?} is not offered; make a raw image of it (qemu-img convert -O raw) and say Raw"
    )]
    Image(ImageType),
    /// Neither a name nor descriptors.
    #[error("a network card needs `tap`, a name, or the descriptors of one (SCM_RIGHTS, or fd=N)")]
    NoTap,
    /// Both.
    #[error("`tap` and descriptors exclude each other; give one of them")]
    TwoTaps,
    /// Numbers are no descriptors of ours.
    #[error(
        "numbers in `fds` say nothing to this process; send the descriptors with vm.add-net \
         (SCM_RIGHTS), before vm.boot or after, or give `tap`"
    )]
    NumbersOnly,
    /// Not one for each pair of queues.
    #[error(
        "{given} descriptors do not go with num_queues {queues}; give one for each pair of queues, and \
         num_queues {}",
        2 * given
    )]
    OtherPairs {
        /// Descriptors.
        given: usize,
        /// Queues.
        queues: usize,
    },
    /// No address, or that of a group.
    #[error("mac {0:?} is not the address of one card, as in 02:00:00:00:00:01")]
    Mac(String),
    /// Nobody's, the host's, or everybody's.
    #[error("cid {0} is not 3 to 4294967294: the others are not guests'")]
    Cid(u32),
    /// A part of a page, or more than the guest can do without.
    #[error("balloon size {0} is not a multiple of 4096 less than the VM's memory")]
    Balloon(u64),
    /// A guest cannot read it whole.
    #[error("serial {0:?} is longer than 20 bytes")]
    Serial(String),
}

/// The segment of a request.
pub(super) fn segment(number: u16) -> Result<Segment, DeviceError> {
    let segment = u8::try_from(number).ok().and_then(Segment::new);
    segment.ok_or(DeviceError::Segment(number))
}

/// The slot of a request, if it names one; slot 0 is the host bridge's.
pub(super) fn slot(number: Option<u8>) -> Result<Option<Slot>, DeviceError> {
    let slot = |number| Slot::new(number).filter(|_| number > 0);
    number.map(|number| slot(number).ok_or(DeviceError::Slot(number))).transpose()
}

impl DeviceId {
    /// The `number`th name for a device whose client gave none; `prefix` tells its kind.
    pub fn generated(prefix: &str, number: u32) -> Self {
        Self(format!("{prefix}{number}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DeviceId {
    type Error = DeviceError;

    fn try_from(id: String) -> Result<Self, DeviceError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        if id.starts_with(RESERVED) {
            return Err(DeviceError::Reserved(id));
        }
        let valid = (1..=LONGEST).contains(&id.len()) && id.chars().all(plain);
        if valid { Ok(Self(id)) } else { Err(DeviceError::Id(id)) }
    }
}

impl From<DeviceSpec> for AddDevice {
    fn from(spec: DeviceSpec) -> Self {
        let DeviceSpec { id, path, segment, slot, unmapped, interrupts, map_threads } = spec;
        Self {
            path,
            id: id.map(|DeviceId(id)| id),
            pci_segment: segment.number().into(),
            pci_device_id: slot.map(Slot::number),
            x_exclude_mmap_bars: unmapped.into_iter().map(u32::from).collect(),
            x_msix_noresize: interrupts.no_resize,
            x_exact_pending: interrupts.exact_pending,
            x_map_threads: map_threads.and_then(|threads| u8::try_from(threads).ok()),
        }
    }
}

impl TryFrom<AddDevice> for DeviceSpec {
    type Error = DeviceError;

    fn try_from(body: AddDevice) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let AddDevice {
            path,
            id,
            pci_segment,
            pci_device_id,
            x_exclude_mmap_bars,
            x_msix_noresize,
            x_exact_pending,
            x_map_threads,
        } = body;
        let bar = |bar: u32| {
            let valid = u8::try_from(bar).ok().filter(|_| bar < BARS);
            valid.ok_or(DeviceError::Bar(bar))
        };
        if x_map_threads == Some(0) {
            return Err(DeviceError::NoThreads);
        }
        Ok(Self {
            id: id.map(DeviceId::try_from).transpose()?,
            path,
            segment: segment(pci_segment)?,
            slot: slot(pci_device_id)?,
            unmapped: x_exclude_mmap_bars.into_iter().map(bar).collect::<Result<_, _>>()?,
            interrupts: Choices { no_resize: x_msix_noresize, exact_pending: x_exact_pending },
            map_threads: x_map_threads.map(usize::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(id: &str) -> AddDevice {
        let path = PathBuf::from("/sys/bus/pci/devices/0000:01:00.0");
        AddDevice {
            path,
            id: Some(id.to_owned()),
            pci_segment: 0,
            pci_device_id: None,
            x_exclude_mmap_bars: Vec::new(),
            x_msix_noresize: false,
            x_exact_pending: false,
            x_map_threads: None,
        }
    }

    #[test]
    fn ids_are_short_and_plain_and_not_ours() {
        assert_eq!(DeviceSpec::try_from(body("nic0")).unwrap().id.unwrap().as_str(), "nic0");
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(65), "__x"] {
            assert!(DeviceSpec::try_from(body(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slot_zero_and_slots_past_the_bus_are_refused() {
        for number in [0, 32, 255] {
            let body = AddDevice { pci_device_id: Some(number), ..body("a") };
            assert_eq!(DeviceSpec::try_from(body), Err(DeviceError::Slot(number)));
        }
    }

    #[test]
    fn segment_is_one_that_a_machine_can_have() {
        let on = |pci_segment| DeviceSpec::try_from(AddDevice { pci_segment, ..body("a") });
        assert_eq!(on(15).map(|spec| spec.segment.number()), Ok(15));
        assert_eq!(on(16), Err(DeviceError::Segment(16)));
        assert_eq!(on(256), Err(DeviceError::Segment(256)));
    }

    #[test]
    fn switches_of_interrupts_survive_the_way_in_and_out() {
        for (x_msix_noresize, x_exact_pending) in [(true, false), (false, true)] {
            let body = AddDevice { x_msix_noresize, x_exact_pending, ..body("a") };
            let spec = DeviceSpec::try_from(body.clone()).unwrap();
            let choices = Choices { no_resize: x_msix_noresize, exact_pending: x_exact_pending };
            assert_eq!((spec.interrupts, AddDevice::from(spec)), (choices, body));
        }
    }

    #[test]
    fn threads_that_map_ram_are_at_least_one() {
        let with = |threads| AddDevice { x_map_threads: Some(threads), ..body("a") };

        let spec = DeviceSpec::try_from(with(3)).unwrap();
        assert_eq!((spec.map_threads, AddDevice::from(spec)), (Some(3), with(3)));
        assert_eq!(DeviceSpec::try_from(with(0)), Err(DeviceError::NoThreads));
    }

    #[test]
    fn bars_past_the_last_are_refused() {
        let body = AddDevice { x_exclude_mmap_bars: vec![0, 6], ..body("a") };

        assert_eq!(DeviceSpec::try_from(body), Err(DeviceError::Bar(6)));
    }
}
