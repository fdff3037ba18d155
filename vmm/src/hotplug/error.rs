//! Why a device was not added, and what a client is told of it.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use api::request::{Fault, Status, code};
use devices::pci::bus::SlotError;
use devices::vfio::host::HostError;
use devices::vfio::iommu::AttachError;
use devices::vfio::room::NoRoom;
use devices::vfio::user::ServerError;
use devices::virtio::block::OpenError;
use devices::virtio::net::{TapError, VhostError};
use devices::virtio::vsock::VsockError;

use super::PlaceError;
use crate::config::device::{DeviceError, DeviceId};

/// Why a device was not added. Nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The request contradicts itself.
    #[error(transparent)]
    Spec(#[from] DeviceError),
    /// The client used this name before.
    #[error("there is a device {0} already; choose another id, or remove it first")]
    Taken(DeviceId),
    /// The machine has this function, whatever path it was given by.
    #[error("{0} is in this VM already, as device {1}")]
    InUse(String, DeviceId),
    /// No place on the bus.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The function cannot be had.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The guest has too few addresses for its BARs.
    #[error(transparent)]
    Room(#[from] NoRoom),
    /// Its group, or the RAM that goes with the first one.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The function itself.
    #[error("cannot open {0} through VFIO")]
    Open(String, #[source] io::Error),
    /// The image or block device of a disk.
    #[error("cannot use {} as a disk", .0.display())]
    Disk(PathBuf, #[source] OpenError),
    /// The tap of a network card.
    #[error("cannot use the tap {0}")]
    Tap(String, #[source] TapError),
    /// The server that emulates a function.
    #[error("cannot use the vfio-user server at {}", .0.display())]
    Server(PathBuf, #[source] ServerError),
    /// Where random numbers come from.
    #[error("cannot take random numbers from {}", .0.display())]
    Source(PathBuf, #[source] io::Error),
    /// The host's end of a guest's sockets.
    #[error(transparent)]
    Vsock(VsockError),
    /// The host's kernel does not carry a card's packets.
    #[error(transparent)]
    Vhost(VhostError),
    /// A guest's driver knows one only.
    #[error("this VM has a vsock already, and a guest knows one only; remove that first")]
    Second,
    /// What serves a device of ours.
    #[error("cannot make the queues of the device")]
    Queues(#[source] io::Error),
    /// The host has no thread left.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

impl AddError {
    /// What a client is told; `asked` says what could not be done.
    pub fn fault(&self, asked: impl Display) -> Fault {
        let (status, code) = self.class();
        Fault::new(status, code, asked, self)
    }

    /// Whose mistake it is, and its code.
    pub fn class(&self) -> (Status, &'static str) {
        match self {
            Self::Spec(DeviceError::Id(_) | DeviceError::Reserved(_)) => {
                (Status::BadRequest, code::DEVICE_BAD_ID)
            }
            Self::Spec(
                DeviceError::Slot(_)
                | DeviceError::Segment(_)
                | DeviceError::Bar(_)
                | DeviceError::NoThreads
                | DeviceError::Queues(_)
                | DeviceError::Pairs(_)
                | DeviceError::QueueSize(_)
                | DeviceError::Tap(_)
                | DeviceError::Image(_)
                | DeviceError::NoTap
                | DeviceError::TwoTaps
                | DeviceError::NumbersOnly
                | DeviceError::OtherPairs { .. }
                | DeviceError::Mac(_)
                | DeviceError::Cid(_)
                | DeviceError::Balloon(_)
                | DeviceError::Serial(_),
            ) => (Status::BadRequest, code::DEVICE_BAD_REQUEST),
            Self::Taken(_) => (Status::BadRequest, code::DEVICE_ID_TAKEN),
            Self::InUse(..) | Self::Second => (Status::BadRequest, code::DEVICE_IN_USE),
            Self::Place(PlaceError::NoSlot(_, SlotError::Taken(_)) | PlaceError::NoSegment(..)) => {
                (Status::BadRequest, code::DEVICE_BAD_REQUEST)
            }
            Self::Place(PlaceError::NoSlot(_, SlotError::Full)) | Self::Room(_) => {
                (Status::BadRequest, code::DEVICE_NO_ROOM)
            }
            Self::Host(error) => host_class(error),
            Self::Attach(error) => attach_class(error),
            Self::Open(_, error) if denied(error) => (Status::Internal, code::DEVICE_PERMISSION),
            Self::Open(_, error) if error.kind() == io::ErrorKind::InvalidData => {
                (Status::Internal, code::DEVICE_BROKEN)
            }
            Self::Disk(_, error) => disk_class(error),
            Self::Source(_, error) => open_class(error),
            Self::Tap(_, error) => tap_class(error),
            Self::Vsock(error) => vsock_class(error),
            Self::Vhost(VhostError::Denied(_)) => (Status::Internal, code::DEVICE_PERMISSION),
            Self::Server(_, error) => server_class(error),
            Self::Open(..) | Self::Vhost(_) | Self::Queues(_) | Self::Worker(_) => {
                (Status::Internal, code::DEVICE_HOST_FAILED)
            }
        }
    }
}

fn host_class(error: &HostError) -> (Status, &'static str) {
    let code = match error {
        HostError::NotFound(..) => return (Status::NotFound, code::DEVICE_BAD_PATH),
        HostError::NotPci(_) => code::DEVICE_BAD_PATH,
        HostError::NoIommu(_) => code::DEVICE_NO_IOMMU,
        HostError::NotBound { .. } => code::DEVICE_NOT_BOUND,
        HostError::GroupShared { .. } => code::DEVICE_GROUP_NOT_VIABLE,
    };
    (Status::BadRequest, code)
}

fn attach_class(error: &AttachError) -> (Status, &'static str) {
    match error {
        AttachError::Busy(_) => (Status::BadRequest, code::DEVICE_GROUP_BUSY),
        AttachError::NotViable(_) => (Status::BadRequest, code::DEVICE_GROUP_NOT_VIABLE),
        AttachError::Open(_, error) if denied(error) => (Status::Internal, code::DEVICE_PERMISSION),
        // The kernel says ENOMEM when the limit of locked memory stands in the way.
        AttachError::Map { source, .. }
            if denied(source) || source.raw_os_error() == Some(libc::ENOMEM) =>
        {
            (Status::Internal, code::DEVICE_PERMISSION)
        }
        AttachError::Stopping => (Status::Busy, code::VMM_STOPPING),
        AttachError::Cancelled => (Status::Busy, code::DEVICE_CANCELLED),
        AttachError::LockLimit { .. } => (Status::Internal, code::DEVICE_PERMISSION),
        AttachError::OutOfReach { .. } => (Status::Internal, code::DEVICE_NO_ROOM),
        AttachError::Unsafe(_) => (Status::Internal, code::DEVICE_NO_IOMMU),
        AttachError::Open(..)
        | AttachError::Container(_)
        | AttachError::Join(..)
        | AttachError::Map { .. } => (Status::Internal, code::DEVICE_HOST_FAILED),
    }
}

fn disk_class(error: &OpenError) -> (Status, &'static str) {
    match error {
        OpenError::Open(error) => open_class(error),
        OpenError::NoDisk | OpenError::Empty(_) | OpenError::Qcow2 => {
            (Status::BadRequest, code::DEVICE_BAD_PATH)
        }
        OpenError::Taken => (Status::BadRequest, code::DEVICE_IN_USE),
        OpenError::Lock(_) | OpenError::Inspect(_) => (Status::Internal, code::DEVICE_HOST_FAILED),
    }
}

fn tap_class(error: &TapError) -> (Status, &'static str) {
    match error {
        TapError::Busy => (Status::BadRequest, code::DEVICE_IN_USE),
        TapError::Kind
        | TapError::Single
        | TapError::NoTap(_)
        | TapError::Without(..)
        | TapError::Two(..) => (Status::BadRequest, code::DEVICE_BAD_PATH),
        TapError::Denied => (Status::Internal, code::DEVICE_PERMISSION),
        TapError::Open(error) if denied(error) => (Status::Internal, code::DEVICE_PERMISSION),
        TapError::Open(_) | TapError::Attach(_) => (Status::Internal, code::DEVICE_HOST_FAILED),
    }
}

fn vsock_class(error: &VsockError) -> (Status, &'static str) {
    match error {
        VsockError::Taken(_) => (Status::BadRequest, code::DEVICE_IN_USE),
        VsockError::Denied(_) => (Status::Internal, code::DEVICE_PERMISSION),
        VsockError::Absent(_) | VsockError::Open(_) | VsockError::Refused(_) => {
            (Status::Internal, code::DEVICE_HOST_FAILED)
        }
    }
}

fn server_class(error: &ServerError) -> (Status, &'static str) {
    match error {
        ServerError::NotShared(_) => (Status::BadRequest, code::DEVICE_BAD_REQUEST),
        ServerError::Connect(error) if error.kind() == io::ErrorKind::TimedOut => {
            (Status::BadRequest, code::DEVICE_IN_USE)
        }
        ServerError::Connect(error) if error.kind() == io::ErrorKind::InvalidInput => {
            (Status::BadRequest, code::DEVICE_BAD_PATH)
        }
        ServerError::Connect(error) => open_class(error),
        ServerError::Greet(_) | ServerError::Lend(_) => (Status::Internal, code::DEVICE_BROKEN),
    }
}

/// A file of the client's choice was not opened.
fn open_class(error: &io::Error) -> (Status, &'static str) {
    if error.kind() == io::ErrorKind::NotFound {
        (Status::NotFound, code::DEVICE_BAD_PATH)
    } else if denied(error) {
        (Status::Internal, code::DEVICE_PERMISSION)
    } else {
        (Status::Internal, code::DEVICE_HOST_FAILED)
    }
}

fn denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enomem_means_the_lock_limit_only_where_ram_is_mapped() {
        let enomem = || io::Error::from_raw_os_error(libc::ENOMEM);
        let map = AttachError::Map { guest: 0, size: 0x1000, source: enomem() };

        assert_eq!(AddError::Attach(map).class().1, code::DEVICE_PERMISSION);
        let open = AddError::Open("0000:01:00.0".to_owned(), enomem());
        assert_eq!(open.class().1, code::DEVICE_HOST_FAILED);
    }
}
