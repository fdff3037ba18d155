//! The way out: the guest is asked, lets go, and a worker gives the function
//! back to the host.

use std::time::{Duration, Instant};

use api::mailbox::Reply;
use api::request::{Answer, Fault, Response, Status, code};
use api::schema::device::RemoveDevice;
use devices::pci::Address;
use devices::pci::bus::Reservation;

use super::occupant::Occupant;
use super::{Bay, Device, Finished, Stage};
use crate::config::device::{DeviceError, DeviceId};
use crate::config::wanted::Wanted;
use crate::events::Poster;
use crate::monitor::DeviceNotice;

/// A guest that has not let go by then is said to have timed out; it still may.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client wants taken away, and how long it waits for it.
pub struct Removal {
    id: DeviceId,
    wait: Option<Duration>,
    force: bool,
}

/// Why a device is not being removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Nobody has this name.
    #[error("there is no device {0}; vm.info lists those there are")]
    Unknown(DeviceId),
}

/// A client who waits for a device to be gone.
pub(super) struct Waiter {
    until: Instant,
    reply: Reply,
}

impl Waiter {
    /// The device is gone.
    pub(super) fn content(self) {
        self.reply.send(Ok(Response::Done));
    }
}

impl Bay {
    /// Asks the guest to let go of a device, or takes it by force, or cancels its
    /// being added; `reply` is answered at once, or when the device is gone, as the client wants.
    pub fn remove(&mut self, removal: Removal, reply: Reply) {
        let Removal { id, wait, force } = removal;
        let asked = format!("cannot remove device {id}");
        if let Err(error) = self.begin_removal(&id, force) {
            return reply.send(Err(error.fault(asked)));
        }
        match (wait, self.devices.get_mut(&id)) {
            (Some(wait), Some(device)) => {
                device.stage.wait(Waiter { until: Instant::now() + wait, reply });
            }
            (None, _) | (_, None) => reply.send(Ok(Response::Done)),
        }
    }

    /// Sees where the guest has let go since the last call.
    pub fn take_ejected(&mut self) {
        self.roots.take_ejected().into_iter().for_each(|address| self.eject(address));
    }

    /// The guest has let go at `address`: takes the function off the bus and has a
    /// worker give it back. A slot without a device, or with one on its way in
    /// or out, stays as it is.
    fn eject(&mut self, address: Address) {
        if self.roots.stale().settle(address) {
            log::info!("the guest has let go of {address}, whose device is gone");
            return;
        }
        if self.leave(address) {
            self.roots.forget(address);
        }
    }

    /// Takes the device at `address` without waiting for the guest, which goes on
    /// being asked: it must forget the device before another comes there.
    fn force(&mut self, address: Address) {
        if self.leave(address) {
            self.roots.stale().expect(address);
            self.roots.remove(address);
        }
    }

    /// Takes the device at `address`, and says nothing to the guest. Returns whether
    /// there was one to take.
    pub(super) fn leave(&mut self, address: Address) -> bool {
        let found = self.devices.iter().find(|(_, device)| device.address == address);
        let Some((id, _)) = found else { return false };
        let id = id.clone();
        let Some(device) = self.devices.get_mut(&id) else { return false };
        let (function, waiters) = match std::mem::replace(&mut device.stage, Stage::none()) {
            Stage::Attached(function) => (function, Vec::new()),
            Stage::Removing(function, waiters) => (function, waiters),
            other @ (Stage::Adding(_) | Stage::Leaving(_)) => {
                device.stage = other;
                return false;
            }
        };
        self.enter(&id, Stage::Leaving(waiters));
        let Some((on_bus, place)) = self.roots.evict(address) else { return false };
        drop(on_bus);
        log::info!("device {id} leaves {address}");
        self.give_back(id, function, place);
        true
    }

    /// The host has a device back. Returns what it was made of: descriptors that were handed over
    /// are still open with it.
    pub fn gone(&mut self, id: &DeviceId, place: Reservation) -> Option<Wanted> {
        log::info!("device {id} is gone");
        let device = self.devices.remove(id)?;
        self.roots.stale().keep(device.address, place);
        if let Stage::Leaving(waiters) = device.stage {
            let address = device.address.to_string();
            self.monitor.tell_of(id.as_str(), DeviceNotice::Removed(&address));
            waiters.into_iter().for_each(Waiter::content);
        }
        Some(device.spec)
    }

    /// Asks the guest for a device, or reminds it; with `force`, does not wait for it.
    pub(super) fn begin_removal(&mut self, id: &DeviceId, force: bool) -> Result<(), RemoveError> {
        let device = self.devices.get_mut(id).ok_or_else(|| RemoveError::Unknown(id.clone()))?;
        let address = device.address;
        match std::mem::replace(&mut device.stage, Stage::none()) {
            // It will have failed soon, or has come a moment ago and leaves again.
            Stage::Adding(arrival) => {
                log::info!("device {id} is not wanted any more");
                self.host.iommu.cancel(&arrival.progress);
                device.stage = Stage::Adding(arrival);
                return Ok(());
            }
            Stage::Attached(function) => {
                self.enter(id, Stage::Removing(function, Vec::new()));
                self.monitor.tell_of(id.as_str(), DeviceNotice::Removing);
            }
            // Asked again: the clock runs on, the guest is reminded.
            stage @ (Stage::Removing(..) | Stage::Leaving(_)) => device.stage = stage,
        }
        if force {
            log::warn!("device {id} is taken from the guest by force");
            self.monitor.tell_of(id.as_str(), DeviceNotice::Forced);
            self.force(address);
        } else if matches!(self.devices.get(id), Some(Device { stage: Stage::Removing(..), .. })) {
            self.roots.remove(address);
        }
        Ok(())
    }

    pub(super) fn give_back(&mut self, id: DeviceId, function: Occupant, place: Reservation) {
        let finished = self.finished.clone();
        let leaving = Return { id, parts: Some((function, place)), finished };
        if let Err(error) = self.workers.start(move || drop(leaving)) {
            // It was dropped with the job, here and now.
            log::error!("a device was closed on the event loop: {error}");
        }
    }
}

/// A function on its way back to the host. Wherever this is dropped, the function is closed and that is said.
struct Return {
    id: DeviceId,
    parts: Option<(Occupant, Reservation)>,
    finished: Poster<Finished>,
}

impl Drop for Return {
    fn drop(&mut self) {
        if let Some((function, place)) = self.parts.take() {
            function.close();
            self.finished.post(Finished::Gone(self.id.clone(), place));
        }
    }
}

/// Answers those who have waited long enough for a device to go.
pub(super) fn answer_expired(id: &DeviceId, stage: &mut Stage, now: Instant) {
    let answer = timed_out(id, stage);
    let Some(waiters) = stage.waiters() else { return };
    let expired = waiters.extract_if(.., |waiter| waiter.until <= now);
    expired.for_each(|waiter| waiter.reply.send(answer.clone()));
}

fn timed_out(id: &DeviceId, stage: &Stage) -> Answer {
    let sentence = match stage {
        Stage::Adding(_) | Stage::Leaving(_) => {
            format!("the host is not done with device {id} yet; it soon will be")
        }
        Stage::Attached(_) | Stage::Removing(..) => format!(
            "the guest has not let go of device {id} in time; it may yet, \
             or take it with \"force\": true"
        ),
    };
    Err(Fault::plain(Status::Busy, code::DEVICE_REMOVE_TIMED_OUT, sentence))
}

impl Device {
    /// Whether it is time to say that the guest does not let go.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Removing(..))
            && !self.overdue
            && now.duration_since(self.since) > PATIENCE
    }

    /// Whether something is to be said or answered later.
    pub(super) fn waits_for_time(&self) -> bool {
        match &self.stage {
            Stage::Removing(_, waiters) => !self.overdue || !waiters.is_empty(),
            Stage::Leaving(waiters) => !waiters.is_empty(),
            Stage::Adding(_) => true,
            Stage::Attached(_) => false,
        }
    }
}

impl Stage {
    /// Stands in for a stage that is being replaced.
    fn none() -> Self {
        Self::Leaving(Vec::new())
    }

    fn wait(&mut self, waiter: Waiter) {
        if let Some(waiters) = self.waiters() {
            waiters.push(waiter);
        }
    }

    /// Who waits for the device to be gone; nobody does while the guest is to keep it.
    fn waiters(&mut self) -> Option<&mut Vec<Waiter>> {
        match self {
            Self::Adding(arrival) => Some(&mut arrival.waiters),
            Self::Removing(_, waiters) | Self::Leaving(waiters) => Some(waiters),
            Self::Attached(_) => None,
        }
    }
}

impl TryFrom<RemoveDevice> for Removal {
    type Error = DeviceError;

    fn try_from(body: RemoveDevice) -> Result<Self, DeviceError> {
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let RemoveDevice { id, wait_ms, force } = body;
        let wait = wait_ms.map(Duration::from_millis);
        Ok(Self { id: id.try_into()?, wait, force: force.unwrap_or(false) })
    }
}

impl Removal {
    /// Which device.
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// That there is no such device.
    pub fn unknown(&self) -> RemoveError {
        RemoveError::Unknown(self.id.clone())
    }
}

impl RemoveError {
    /// What a client is told; `asked` says what could not be done.
    pub fn fault(&self, asked: String) -> Fault {
        match self {
            Self::Unknown(_) => Fault::new(Status::NotFound, code::DEVICE_NOT_FOUND, asked, self),
        }
    }
}
