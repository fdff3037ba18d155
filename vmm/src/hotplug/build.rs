//! What a worker does to make a device: straight on, each step undone by drop.

use std::sync::Arc;

use devices::pci::bus::Reservation;
use devices::vfio::counters::Counter;
use devices::vfio::function::{Opened, Passthrough};
use devices::vfio::host::HostFunction;
use devices::vfio::iommu::AttachError;
use devices::vfio::progress::{Phase, Progress};
use devices::vfio::room;

use super::roots::Place;
use super::{AddError, Host};
use crate::config::device::{DeviceId, DeviceSpec};
use crate::irq::lines::Pin;
use crate::watch::Source;

/// A device to build: checked, with its slot taken.
pub(super) struct Plan {
    pub(super) id: DeviceId,
    pub(super) spec: DeviceSpec,
    pub(super) function: HostFunction,
    /// Those that its segment has or is getting.
    pub(super) others: Vec<HostFunction>,
    pub(super) place: Place,
    pub(super) host: Host,
}

/// A device ready to be shown to the guest. Fields are in teardown order.
pub struct Built {
    pub(super) function: Arc<Passthrough>,
    pub(super) place: Reservation,
    pub(super) relayed: Arc<Counter>,
}

impl Plan {
    /// What can be found out without opening anything; the number of its group.
    fn check(&self) -> Result<u32, AddError> {
        let number = self.function.check()?;
        room::fits(&self.function, &self.others, &self.place.spaces.apertures)?;
        Ok(number)
    }

    /// Finds out whether [`Self::build`] would be refused, without opening the
    /// function or mapping RAM. The slot is free again before the answer.
    pub(super) fn preflight(self) -> Result<(), AddError> {
        let number = self.check()?;
        let Self { place, host, .. } = self;
        drop(place);
        Ok(host.iommu.check(number, &Progress::default())?)
    }

    /// Opens the function and makes the guest's side of it; `progress` moves, and is
    /// asked whether to go on. The first device of
    /// a machine waits here for all RAM to be pinned.
    pub(super) fn build(self, progress: &Progress) -> Result<Built, AddError> {
        let number = self.check()?;
        let Self { id: _, spec, function: on_host, others: _, place, host } = self;
        let Place { address, reservation: place, spaces } = place;
        let group = host.iommu.attach(number, progress, spec.map_threads)?;
        if progress.is_cancelled() {
            return Err(AttachError::Cancelled.into());
        }
        progress.enter(Phase::Opening);
        let name = on_host.name();
        let failed = |error| AddError::Open(name.to_owned(), error);
        let opened = Opened::new(group, &on_host, Arc::clone(&host.bell)).map_err(failed)?;
        let vectors = host.relay.lend(opened.abilities().vectors());
        let relayed = vectors.relayed();
        let line = opened.pin().map(|pin| {
            let pin = Pin::of(Arc::clone(&host.vm), address.slot, pin);
            Box::new(pin) as Box<dyn devices::irq::Line>
        });
        let guests = (Box::new(vectors) as Box<_>, line, spec.interrupts);
        let function = Arc::new(opened.finish(spaces, guests, &spec.unmapped));
        for descriptor in function.notices().descriptors() {
            host.notices.add_edges(descriptor, Source::Devices).map_err(failed)?;
        }
        Ok(Built { function, place, relayed })
    }
}
