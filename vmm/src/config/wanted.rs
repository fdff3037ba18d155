//! Anything that a client may have a guest get, checked: one kind a variant.

use std::path::Path;

use api::descriptors::Handed;
use devices::pci::{Segment, Slot};
use devices::virtio::vsock::NODE;

use super::balloon::BalloonSpec;
use super::console::ConsoleSpec;
use super::device::{DeviceId, DeviceSpec, NoSegment};
use super::disk::DiskSpec;
use super::net::{NetSpec, Tap};
use super::rng::RngSpec;
use super::user_device::UserDeviceSpec;
use super::vsock::VsockSpec;
use crate::sandbox::Grant;

/// What a guest is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A function of the host's.
    Host(DeviceSpec),
    /// A disk of ours.
    Disk(DiskSpec),
    /// A network card of ours.
    Net(NetSpec),
    /// A source of random numbers.
    Rng(RngSpec),
    /// Sockets to programs of the host.
    Vsock(VsockSpec),
    /// A function that another process emulates.
    Served(UserDeviceSpec),
    /// A balloon.
    Balloon(BalloonSpec),
    /// The paravirtual console.
    Console(ConsoleSpec),
}

impl Wanted {
    /// Who it is, if that has been said.
    pub fn id(&self) -> Option<&DeviceId> {
        match self {
            Self::Host(spec) => spec.id.as_ref(),
            Self::Disk(spec) => spec.id.as_ref(),
            Self::Net(spec) => spec.id.as_ref(),
            Self::Rng(spec) => spec.id.as_ref(),
            Self::Vsock(spec) => spec.id.as_ref(),
            Self::Served(spec) => spec.id.as_ref(),
            Self::Balloon(spec) => spec.id.as_ref(),
            Self::Console(spec) => spec.id.as_ref(),
        }
    }

    /// The same, with this name.
    #[must_use]
    pub fn named(self, id: DeviceId) -> Self {
        let id = Some(id);
        match self {
            Self::Host(spec) => Self::Host(DeviceSpec { id, ..spec }),
            Self::Disk(spec) => Self::Disk(DiskSpec { id, ..spec }),
            Self::Net(spec) => Self::Net(NetSpec { id, ..spec }),
            Self::Rng(spec) => Self::Rng(RngSpec { id, ..spec }),
            Self::Vsock(spec) => Self::Vsock(VsockSpec { id, ..spec }),
            Self::Served(spec) => Self::Served(UserDeviceSpec { id, ..spec }),
            Self::Balloon(spec) => Self::Balloon(BalloonSpec { id, ..spec }),
            Self::Console(spec) => Self::Console(ConsoleSpec { id, ..spec }),
        }
    }

    /// What generated names of its kind begin with.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::Host(_) => "_vfio",
            Self::Disk(_) => "_disk",
            Self::Net(_) => "_net",
            Self::Rng(_) => "_rng",
            Self::Vsock(_) => "_vsock",
            Self::Served(_) => "_vfio_user",
            Self::Balloon(_) => "_balloon",
            // A name that no client may say.
            Self::Console(_) => "__console",
        }
    }

    /// Where the host has it, or what it calls it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Host(spec) => &spec.path,
            Self::Disk(spec) => &spec.path,
            Self::Net(spec) => Path::new(spec.tap.name()),
            Self::Rng(spec) => &spec.source,
            Self::Vsock(_) => Path::new(NODE),
            Self::Served(spec) => &spec.socket,
            Self::Balloon(_) => Path::new("balloon"),
            Self::Console(_) => Path::new("console"),
        }
    }

    /// What must be reachable for it, besides what hotbay always needs.
    pub fn grants(&self) -> Vec<Grant> {
        match self {
            // What a console goes to is opened by the machine.
            Self::Host(_) | Self::Balloon(_) | Self::Console(_) => Vec::new(),
            Self::Disk(spec) => vec![spec.path()],
            Self::Net(spec) => spec.paths(),
            Self::Rng(spec) => vec![spec.path()],
            Self::Vsock(spec) => vec![spec.path()],
            Self::Served(spec) => vec![spec.path()],
        }
    }

    /// The balloon, if it is one.
    pub fn balloon(&mut self) -> Option<&mut BalloonSpec> {
        match self {
            Self::Balloon(spec) => Some(spec),
            Self::Host(_)
            | Self::Disk(_)
            | Self::Net(_)
            | Self::Rng(_)
            | Self::Vsock(_)
            | Self::Served(_)
            | Self::Console(_) => None,
        }
    }

    /// Descriptors that were handed over for it.
    pub fn handed(&self) -> Option<&Handed> {
        match self {
            Self::Net(NetSpec { tap: Tap::Given(handed), .. }) => Some(handed),
            Self::Host(_)
            | Self::Disk(_)
            | Self::Net(_)
            | Self::Rng(_)
            | Self::Vsock(_)
            | Self::Served(_)
            | Self::Balloon(_)
            | Self::Console(_) => None,
        }
    }

    /// Whether a guest that has `other` can have this too: its driver knows one of some kinds.
    pub fn goes_with(&self, other: &Self) -> bool {
        !matches!((self, other), (Self::Vsock(_), Self::Vsock(_)))
    }

    /// On which segment, and in which slot if that matters.
    pub fn place(&self) -> (Segment, Option<Slot>) {
        match self {
            Self::Host(spec) => (spec.segment, spec.slot),
            Self::Disk(spec) => (spec.segment, spec.slot),
            Self::Net(spec) => (spec.segment, spec.slot),
            Self::Rng(spec) => (spec.segment, spec.slot),
            Self::Vsock(spec) => (spec.segment, spec.slot),
            Self::Served(spec) => (spec.segment, spec.slot),
            Self::Balloon(spec) => (spec.segment, spec.slot),
            Self::Console(spec) => (spec.segment, spec.slot),
        }
    }

    /// Refuses a segment that a VM with `segments` of them does not have.
    pub fn fits(&self, segments: u8) -> Result<(), NoSegment> {
        let (segment, _) = self.place();
        let there = segment.number() < segments;
        if there { Ok(()) } else { Err(NoSegment(segment, segments.into())) }
    }
}

impl From<DeviceSpec> for Wanted {
    fn from(spec: DeviceSpec) -> Self {
        Self::Host(spec)
    }
}

impl From<DiskSpec> for Wanted {
    fn from(spec: DiskSpec) -> Self {
        Self::Disk(spec)
    }
}

impl From<RngSpec> for Wanted {
    fn from(spec: RngSpec) -> Self {
        Self::Rng(spec)
    }
}

impl From<VsockSpec> for Wanted {
    fn from(spec: VsockSpec) -> Self {
        Self::Vsock(spec)
    }
}

impl From<NetSpec> for Wanted {
    fn from(spec: NetSpec) -> Self {
        Self::Net(spec)
    }
}

impl From<UserDeviceSpec> for Wanted {
    fn from(spec: UserDeviceSpec) -> Self {
        Self::Served(spec)
    }
}
