//! Every function to its state at power-on, when the guest starts afresh: all at
//! once on workers, for each may take 100 ms. RAM stays pinned.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::pci::Address;
use devices::vfio::resets::{self, Step};

use super::occupant::{Occupant, Own};
use super::{Bay, Device, Finished, Stage};
use crate::config::device::DeviceId;
use crate::events::Poster;

/// Whom a guest that starts afresh has to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restless {
    /// They may still write memory: each until [`Finished::Quiet`], [`Finished::Reset`]
    /// or [`Finished::Gone`].
    pub writing: BTreeSet<DeviceId>,
    /// They are being reset: each until [`Finished::Reset`].
    pub resetting: BTreeSet<DeviceId>,
}

impl Bay {
    /// Begins to reset every function that the guest has. The vCPUs stand still.
    ///
    /// What the guest was asked to let go of goes now: the old boot holds nothing any
    /// more, and the new one is not to be bothered. (A Linux that is asked before it
    /// is up crashes, and would do so in each boot.)
    pub fn reset(&mut self) -> Restless {
        self.roots.reset();
        for address in self.asked_for() {
            self.leave(address);
        }
        let hosts = self.devices.values().filter_map(|device| device.function()?.passthrough());
        let functions = hosts.map(Arc::clone);
        let steps = resets::steps(&functions.collect::<Vec<_>>());
        let present = self.devices.iter().filter(|(_, device)| device.function().is_some());
        let resetting: BTreeSet<_> = present.map(|(id, _)| id.clone()).collect();
        let leaving = self.devices.iter().filter(|(_, d)| matches!(d.stage, Stage::Leaving(_)));
        let writing = leaving.map(|(id, _)| id.clone()).chain(resetting.clone()).collect();
        steps.into_iter().for_each(|step| self.begin_step(&Arc::new(step)));
        self.begin_own();
        Restless { writing, resetting }
    }

    fn asked_for(&self) -> Vec<Address> {
        let asked = self.devices.values().filter(|d| matches!(d.stage, Stage::Removing(..)));
        asked.map(|device| device.address).collect()
    }

    /// The same for devices of ours: each waits for the requests that it is doing.
    fn begin_own(&mut self) {
        let own = |(id, device): (&DeviceId, &Device)| {
            Some((id.clone(), Arc::clone(device.function()?.own()?)))
        };
        for (id, own) in self.devices.iter().filter_map(own).collect::<Vec<_>>() {
            let (on_worker, of) = ((Arc::clone(&own), self.finished.clone()), id.clone());
            let started = self.workers.start(move || run_own(&on_worker.0, of, &on_worker.1));
            if let Err(error) = started {
                log::error!("a device is reset on the event loop: {error}");
                run_own(&own, id, &self.finished);
            }
        }
    }

    /// Remembers how long the reset of a device took, for clients to see.
    pub fn was_reset(&mut self, id: &DeviceId, took: Duration) {
        if let Some(device) = self.devices.get_mut(id) {
            device.reset_took = Some(took);
        }
    }

    fn begin_step(&mut self, step: &Arc<Step>) {
        let names = step.names();
        let named = |device: &Device| {
            let function = device.function().and_then(Occupant::passthrough);
            function.is_some_and(|function| names.contains(&function.name()))
        };
        let whose = self.devices.iter().filter(|(_, device)| named(device));
        let ids: Vec<DeviceId> = whose.map(|(id, _)| id.clone()).collect();
        let (of, on_worker, finished) = (ids.clone(), Arc::clone(step), self.finished.clone());
        if let Err(error) = self.workers.start(move || run(&on_worker, of, &finished)) {
            log::error!("devices are reset on the event loop: {error}");
            run(step, ids, &self.finished);
        }
    }
}

/// Each function keeps what it came to, and says so.
fn run(step: &Step, ids: Vec<DeviceId>, finished: &Poster<Finished>) {
    let begun = Instant::now();
    // If one is not quiet, the reset itself may yet make it so.
    if step.quiesce().is_ok() {
        finished.post(Finished::Quiet(ids.clone()));
    }
    let _ = step.reset();
    finished.post(Finished::Reset(ids, begun.elapsed()));
}

fn run_own(own: &Own, id: DeviceId, finished: &Poster<Finished>) {
    let begun = Instant::now();
    own.function.reset();
    finished.post(Finished::Quiet(vec![id.clone()]));
    finished.post(Finished::Reset(vec![id], begun.elapsed()));
}
