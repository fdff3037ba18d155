//! Every verb the machine understands: the whole interface on one page.
//!
//! Names, bodies and answers are Cloud Hypervisor's (v53). A new verb is one
//! variant here, one line in the routes, one body in [`crate::schema`].

use std::error::Error;
use std::fmt::{self, Display};

use crate::schema::balloon::VmResize;
use crate::schema::device::{AddDevice, PciDeviceInfo, RemoveDevice};
use crate::schema::disk::DiskConfig;
use crate::schema::events::{Events, Follow};
use crate::schema::info::{Counters, VmInfo, VmmPing};
use crate::schema::interrupts::{Interrupts, TestInterrupt};
use crate::schema::machine::VmConfig;
use crate::schema::net::NetConfig;
use crate::schema::user_device::UserDeviceConfig;
use crate::schema::vsock::VsockConfig;

pub mod code;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `vmm.ping`: who answers? Needs no VM.
    Ping,
    /// `vmm.shutdown`: end the VM, if there is one, and the process.
    VmmShutdown,
    /// `vm.create`: remember this configuration; nothing runs yet.
    Create(Box<VmConfig>),
    /// `vm.boot`: build the machine of the configuration and start it.
    Boot,
    /// `vm.info`: configuration, state and devices.
    Info,
    /// `vm.add-device`: hand a host device to the guest.
    AddDevice(AddDevice),
    /// `vm.add-disk`: give the guest an image or a block device of the host.
    AddDisk(DiskConfig),
    /// `vm.add-net`: give the guest a network card on a tap of the host.
    AddNet(NetConfig),
    /// `vm.add-vsock`: give the guest sockets to programs of the host.
    AddVsock(VsockConfig),
    /// `vm.add-user-device`: give the guest a function that another process emulates.
    AddUserDevice(UserDeviceConfig),
    /// `vm.resize`: put RAM into the guest's balloon, or take it out.
    Resize(VmResize),
    /// `vm.check-device`: would that be refused, and why?
    CheckDevice(AddDevice),
    /// `vm.remove-device`: take it back, in agreement with the guest.
    RemoveDevice(RemoveDevice),
    /// `vm.shutdown`: stop the guest, keep the configuration.
    Shutdown,
    /// `vm.reboot`: start the guest afresh.
    Reboot,
    /// `vm.pause`: take the vCPUs out of the guest, where they stand.
    Pause,
    /// `vm.resume`: let them go on from there.
    Resume,
    /// `vm.delete`: stop the guest and forget the configuration.
    Delete,
    /// `vm.nmi`: interrupt every processor, whatever it has masked.
    Nmi,
    /// `vm.power-button`: press it.
    PowerButton,
    /// `vm.counters`: what each device did so far.
    Counters,
    /// `vm.events`: what has happened, and what happens next.
    Events(Follow),
    /// `vm.interrupts`: those of the device with this id, or of all devices.
    Interrupts(Option<String>),
    /// `vm.test-interrupt`: fire one as the device would.
    TestInterrupt(TestInterrupt),
}

/// What the machine answers when all went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Ping`].
    Ping(VmmPing),
    /// To [`Request::Info`].
    Info(Box<VmInfo>),
    /// To [`Request::AddDevice`], [`Request::AddDisk`], [`Request::AddNet`],
    /// [`Request::AddVsock`] and [`Request::AddUserDevice`] of a running VM: the guest has
    /// been told.
    Added(PciDeviceInfo),
    /// To [`Request::Counters`].
    Counters(Counters),
    /// To [`Request::Events`].
    Events(Events),
    /// To [`Request::Interrupts`].
    Interrupts(Interrupts),
    /// Done, and nothing more to say; also the answer to those before boot.
    Done,
}

/// The answer to one request.
pub type Answer = Result<Response, Fault>;

/// Whose mistake a [`Fault`] is, and what the client can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 400: the request is wrong, or the VM's state forbids it.
    BadRequest,
    /// 404: no such VM, device or path.
    NotFound,
    /// 405: the path exists, but not for this method.
    MethodNotAllowed,
    /// 413: the body is longer than any valid one.
    PayloadTooLarge,
    /// 500: the host failed.
    Internal,
    /// 501: Cloud Hypervisor has this verb, hotbay does not.
    NotImplemented,
    /// 503: not now; the same request may succeed later.
    Busy,
}

impl Status {
    /// Every status there is.
    pub const ALL: [Self; 7] = [
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::PayloadTooLarge,
        Self::Internal,
        Self::NotImplemented,
        Self::Busy,
    ];

    /// The HTTP status code (RFC 9110, section 15).
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::PayloadTooLarge => 413,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Busy => 503,
        }
    }
}

/// What the client is told when its request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whose mistake it is.
    pub status: Status,
    /// Stable name of the failure for programs, one of [`code`]'s.
    pub code: &'static str,
    /// Why, for people: from what was asked to the root cause. Never empty.
    pub chain: Vec<String>,
}

impl Fault {
    /// A fault whose cause is `error` and its chain of sources; `asked` says
    /// what could not be done ("cannot add device nic0").
    pub fn new(status: Status, code: &'static str, asked: impl Display, error: &dyn Error) -> Self {
        let mut fault = Self::plain(status, code, asked);
        let mut cause = Some(error);
        while let Some(error) = cause {
            fault.push(error.to_string());
            cause = error.source();
        }
        fault
    }

    /// A fault that one sentence explains.
    pub fn plain(status: Status, code: &'static str, sentence: impl Display) -> Self {
        Self { status, code, chain: vec![sentence.to_string()] }
    }

    /// Adds a link, unless it only repeats the one above (a transparent error).
    fn push(&mut self, link: String) {
        if self.chain.last() != Some(&link) {
            self.chain.push(link);
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.chain.join(": "))
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open VFIO group 7 of 0000:01:00.0")]
    struct Open(#[source] io::Error);

    #[test]
    fn chain_runs_from_what_was_asked_to_the_root_cause() {
        let error = Open(io::Error::from_raw_os_error(libc::EBUSY));

        let fault = Fault::new(
            Status::BadRequest,
            code::DEVICE_GROUP_BUSY,
            "cannot add device nic0",
            &error,
        );

        assert_eq!(fault.chain[0], "cannot add device nic0");
        assert_eq!(fault.chain[1], "cannot open VFIO group 7 of 0000:01:00.0");
        assert!(fault.chain[2].contains("busy"), "{fault}");
        assert_eq!(fault.chain.len(), 3);
    }
}
