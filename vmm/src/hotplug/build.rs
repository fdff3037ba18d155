//! What a worker does to make a device: straight on, each step undone by drop.

use std::sync::Arc;

use devices::pci::Address;
use devices::pci::bus::Reservation;
use devices::vfio::bars::GuestSpaces;
use devices::vfio::counters::Counter;
use devices::vfio::function::{Opened, Passthrough};
use devices::vfio::host::HostFunction;
use devices::vfio::interrupts::Choices;
use devices::vfio::iommu::AttachError;
use devices::vfio::progress::{Phase, Progress};
use devices::vfio::room::{self, Others};

use super::occupant::Occupant;
use super::roots::Place;
use super::{AddError, Host, own, served};
use crate::config::balloon::BalloonSpec;
use crate::config::console::ConsoleSpec;
use crate::config::device::{DeviceId, DeviceSpec};
use crate::config::disk::DiskSpec;
use crate::config::net::NetSpec;
use crate::config::rng::RngSpec;
use crate::config::user_device::UserDeviceSpec;
use crate::config::vsock::VsockSpec;
use crate::config::wanted::Wanted;
use crate::irq::lines::Pin;
use crate::watch::Source;

/// A device to build: checked, with its slot taken.
pub(super) struct Plan {
    pub(super) id: DeviceId,
    pub(super) what: What,
    pub(super) place: Place,
    pub(super) host: Host,
}

/// What is to be built.
pub(super) enum What {
    /// A function of the host's, handed on.
    Host(Passing),
    /// A disk of ours.
    Disk(DiskSpec),
    /// A network card of ours.
    Net(NetSpec),
    /// A source of random numbers.
    Rng(RngSpec),
    /// Sockets to programs of the host.
    Vsock(VsockSpec),
    /// A function that another process emulates, and those beside it.
    Served(UserDeviceSpec, Others),
    /// A balloon.
    Balloon(BalloonSpec),
    /// The paravirtual console.
    Console(ConsoleSpec),
}

impl What {
    /// What was asked for, and which function of the host's that is, if it is one.
    pub(super) fn about(&self) -> (Wanted, Option<HostFunction>) {
        match self {
            Self::Host(Passing { spec, function, .. }) => {
                (Wanted::Host(spec.clone()), Some(function.clone()))
            }
            Self::Disk(spec) => (Wanted::Disk(spec.clone()), None),
            Self::Net(spec) => (Wanted::Net(spec.clone()), None),
            Self::Rng(spec) => (Wanted::Rng(spec.clone()), None),
            Self::Vsock(spec) => (Wanted::Vsock(spec.clone()), None),
            Self::Served(spec, _) => (Wanted::Served(spec.clone()), None),
            Self::Balloon(spec) => (Wanted::Balloon(spec.clone()), None),
            Self::Console(spec) => (Wanted::Console(spec.clone()), None),
        }
    }
}

/// A host function on its way in.
pub(super) struct Passing {
    pub(super) spec: DeviceSpec,
    pub(super) function: HostFunction,
    /// Those that its segment has or is getting.
    pub(super) others: Others,
}

/// A device ready to be shown to the guest. Fields are in teardown order.
pub struct Built {
    pub(super) function: Occupant,
    pub(super) place: Reservation,
    pub(super) relayed: Arc<Counter>,
}

impl Plan {
    /// Finds out whether [`Self::build`] would be refused, without opening the
    /// function or mapping RAM. The slot is free again before the answer. Of a
    /// device of ours there is nothing to find out but by opening what is behind it.
    pub(super) fn preflight(self) -> Result<(), AddError> {
        let Self { what, place, host, .. } = self;
        let What::Host(passing) = what else { return Ok(()) };
        let number = passing.check(&place)?;
        drop(place);
        Ok(host.iommu.check(number, &Progress::default())?)
    }

    /// Makes the guest's side of it; `progress` moves, and is asked whether to go on.
    pub(super) fn build(self, progress: &Progress) -> Result<Built, AddError> {
        let Self { id, what, place, host } = self;
        match what {
            What::Host(passing) => passing.build(place, &host, progress),
            What::Disk(spec) => {
                progress.enter(Phase::Opening);
                own::disk(&id, spec, place, &host)
            }
            What::Net(spec) => {
                progress.enter(Phase::Opening);
                own::net(&id, spec, place, &host)
            }
            What::Rng(spec) => {
                progress.enter(Phase::Opening);
                own::rng(&id, spec, place, &host)
            }
            What::Vsock(spec) => {
                progress.enter(Phase::Opening);
                own::vsock(&spec, place, &host)
            }
            What::Served(spec, others) => {
                progress.enter(Phase::Opening);
                served::build(spec, place, &others, &host)
            }
            What::Balloon(spec) => {
                progress.enter(Phase::Opening);
                own::balloon(&id, &spec, place, &host)
            }
            What::Console(_) => {
                progress.enter(Phase::Opening);
                own::console(place, &host)
            }
        }
    }
}

impl Passing {
    /// What can be found out without opening anything; the number of its group.
    fn check(&self, place: &Place) -> Result<u32, AddError> {
        let number = self.function.check()?;
        let own = room::of_host(&self.function);
        self.others.leave_room(self.function.name(), &own, &place.spaces.apertures)?;
        Ok(number)
    }

    /// Opens the function. The first device of a machine waits here for all RAM to be
    /// pinned.
    fn build(self, place: Place, host: &Host, progress: &Progress) -> Result<Built, AddError> {
        let number = self.check(&place)?;
        let Self { spec, function: on_host, others: _ } = self;
        let Place { address, reservation: place, spaces } = place;
        let group = host.iommu.attach(number, progress, spec.map_threads)?;
        if progress.is_cancelled() {
            return Err(AttachError::Cancelled.into());
        }
        progress.enter(Phase::Opening);
        let name = on_host.name();
        let failed = |error| AddError::Open(name.to_owned(), error);
        let opened = Opened::new(group, &on_host, Arc::clone(&host.bell)).map_err(failed)?;
        let guests = Guests { host, address, spaces };
        let (function, relayed) = guests.finish(opened, spec.interrupts, &spec.unmapped)?;
        Ok(Built { function: Occupant::Host(function), place, relayed })
    }
}

/// The guest's side of a function that is open: where it goes, and what it is made with.
pub(super) struct Guests<'a> {
    pub(super) host: &'a Host,
    pub(super) address: Address,
    pub(super) spaces: GuestSpaces,
}

impl Guests<'_> {
    /// Lends it interrupts and listens to what is said of it. BARs in `unmapped` stay
    /// trapped. Beside the function, what the relay thread has delivered for it.
    pub(super) fn finish(
        self,
        opened: Opened,
        choices: Choices,
        unmapped: &[u8],
    ) -> Result<(Arc<Passthrough>, Arc<Counter>), AddError> {
        let Self { host, address, spaces } = self;
        let vectors = host.relay.lend(opened.abilities().vectors());
        let relayed = vectors.relayed();
        let line = opened.pin().map(|pin| {
            let pin = Pin::of(Arc::clone(&host.vm), address.slot, pin);
            Box::new(pin) as Box<dyn devices::irq::Line>
        });
        let guests = (Box::new(vectors) as Box<_>, line, choices);
        let function = Arc::new(opened.finish(spaces, guests, unmapped));
        for descriptor in function.notices().descriptors() {
            let watched = host.notices.add_edges(descriptor, Source::Devices);
            watched.map_err(|error| AddError::Open(function.name().to_owned(), error))?;
        }
        Ok((function, relayed))
    }
}
