//! What clients see of the bay: snapshots, taken without any device's lock.

use std::collections::BTreeMap;
use std::time::Instant;

use api::schema::info::{
    AddPhase, AddProgress, Counters, DeviceNode, DeviceReset, DeviceState, ResetResult,
};
use devices::vfio::function::Passthrough;
use devices::vfio::health::Condition;
use devices::vfio::progress::{Phase, Step};
use devices::vfio::resets::{self, Method};

use super::{Bay, Device, Stage};
use crate::config::device::DeviceId;

impl Bay {
    /// Every device by id.
    pub fn tree(&self) -> BTreeMap<String, DeviceNode> {
        let mut resets = self.resets();
        let node = |(id, device): (&DeviceId, &Device)| {
            let took = device.reset_took.map(|took| took.as_millis());
            let took_ms = took.and_then(|millis| u64::try_from(millis).ok());
            let reset = resets.remove(id).map(|reset| DeviceReset { took_ms, ..reset });
            (id.to_string(), DeviceNode { reset, ..device.node(id) })
        };
        self.devices.iter().map(node).collect()
    }

    /// How each device that the guest has would be reset now, and was.
    fn resets(&self) -> BTreeMap<&DeviceId, DeviceReset> {
        let present =
            self.devices.iter().filter_map(|(id, d)| Some((id, &**d.function()?.passthrough()?)));
        let (ids, functions): (Vec<_>, Vec<&Passthrough>) = present.unzip();
        let resets = resets::methods(&functions).into_iter().zip(&functions);
        let each = resets.map(|(method, function)| reset(method, &function.health().condition()));
        ids.into_iter().zip(each).collect()
    }

    /// What each device has cost the host, and the machine's interrupt routes.
    pub fn counters(&self) -> Counters {
        let named = |list: &[(&str, u64)]| {
            list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let routes = self.host.relay.routes();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let machine = [
            ("route_commits", routes.commits()),
            ("promotions", self.host.relay.promotions()),
            ("irqfds", routes.irqfds()),
            ("routes", count(routes.len())),
            ("free_slots", count(self.roots.free_slots())),
            ("ram_pieces_mapped", self.host.iommu.pieces_mapped()),
            ("memory_slots", count(self.host.memory_slots.in_use())),
        ];
        let devices = self.devices.iter().filter_map(|(id, device)| {
            let mut counters = device.function()?.counters();
            counters.push(("relayed_interrupts", device.relayed.get()));
            Some((id.to_string(), named(&counters)))
        });
        devices.chain([("__machine".to_owned(), named(&machine))]).collect()
    }
}

impl Device {
    /// All but its reset, which depends on the other devices.
    fn node(&self, id: &DeviceId) -> DeviceNode {
        let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).ok();
        DeviceNode {
            id: id.to_string(),
            resources: Vec::new(),
            parent: None,
            children: Vec::new(),
            pci_bdf: Some(self.address.to_string()),
            state: Some(self.state()),
            since_ms: ms(self.since),
            wanted_back_ms: self.heard.wanted.and_then(ms),
            host_errors: Some(self.heard.errors).filter(|errors| *errors > 0),
            failure: self.function().and_then(|f| f.passthrough()?.health().condition().failure),
            reset: None,
            progress: self.progress(),
        }
    }

    fn progress(&self) -> Option<AddProgress> {
        let Stage::Adding(arrival) = &self.stage else { return None };
        let Step { phase, done, total } = arrival.progress.step();
        let phase = match phase {
            Phase::Checking => AddPhase::Checking,
            Phase::Attaching => AddPhase::Attaching,
            Phase::Mapping => AddPhase::Mapping,
            Phase::Opening => AddPhase::Opening,
        };
        Some(AddProgress { phase, bytes_done: done, bytes_total: total })
    }

    fn state(&self) -> DeviceState {
        match &self.stage {
            Stage::Adding(arrival) if arrival.progress.is_cancelled() => DeviceState::Cancelled,
            Stage::Adding(_) => DeviceState::Adding,
            Stage::Attached(_) => DeviceState::Attached,
            Stage::Removing(..) if self.overdue => DeviceState::TimedOut,
            Stage::Removing(..) => DeviceState::Removing,
            Stage::Leaving(_) => DeviceState::Ejected,
        }
    }
}

/// A function's reset in the API's words.
fn reset(method: Method, condition: &Condition) -> DeviceReset {
    let (method, reason) = match method {
        Method::Alone(name) => (name, None),
        Method::Together => ("hot_reset".to_owned(), None),
        Method::Nothing(why) => ("none".to_owned(), Some(why)),
    };
    let (last, error) = match &condition.last_reset {
        None => (None, None),
        Some(Ok(())) => (Some(ResetResult::Done), None),
        Some(Err(why)) => (Some(ResetResult::Failed), Some(why.clone())),
    };
    DeviceReset { method, reason, last, error, took_ms: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(method: Method, last_reset: Option<Result<(), String>>) -> DeviceReset {
        reset(method, &Condition { failure: None, last_reset })
    }

    #[test]
    fn method_and_last_result_are_told_in_words() {
        let flr = told(Method::Alone("flr".to_owned()), None);
        let hot = told(Method::Together, Some(Ok(())));

        assert_eq!((flr.method.as_str(), flr.last), ("flr", None));
        assert_eq!((hot.method.as_str(), hot.last), ("hot_reset", Some(ResetResult::Done)));
        assert_eq!((hot.reason, hot.error), (None, None));
    }

    #[test]
    fn what_has_no_reset_and_what_failed_say_why() {
        let why = "its bus is the root bus".to_owned();
        let none = told(Method::Nothing(why.clone()), Some(Err("no answer".to_owned())));

        assert_eq!((none.method.as_str(), none.reason), ("none", Some(why)));
        assert_eq!(none.last, Some(ResetResult::Failed));
        assert_eq!(none.error.as_deref(), Some("no answer"));
    }
}
