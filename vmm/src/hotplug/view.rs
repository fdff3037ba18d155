//! What clients see of the bay: snapshots, taken without any device's lock.

use std::collections::BTreeMap;

use api::schema::info::{Counters, DeviceNode, DeviceState};

use super::{Bay, Device, Stage};

impl Bay {
    /// Every device by id.
    pub fn tree(&self) -> BTreeMap<String, DeviceNode> {
        let node = |id: &str, device: &Device| DeviceNode {
            id: id.to_owned(),
            resources: Vec::new(),
            parent: None,
            children: Vec::new(),
            pci_bdf: Some(device.slot.to_string()),
            state: Some(device.state()),
            since_ms: u64::try_from(device.since.elapsed().as_millis()).ok(),
        };
        self.devices.iter().map(|(id, d)| (id.to_string(), node(id.as_str(), d))).collect()
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
            ("free_slots", count(self.bus.free_slots())),
            ("memory_slots", count(self.host.memory_slots.in_use())),
        ];
        let devices = self.devices.iter().filter_map(|(id, device)| {
            let mut counters = device.function()?.counters().list().to_vec();
            counters.push(("relayed_interrupts", device.relayed.get()));
            Some((id.to_string(), named(&counters)))
        });
        devices.chain([("__machine".to_owned(), named(&machine))]).collect()
    }
}

impl Device {
    fn state(&self) -> DeviceState {
        match self.stage {
            Stage::Adding(_) => DeviceState::Adding,
            Stage::Attached(_) => DeviceState::Attached,
            Stage::Removing(..) if self.overdue => DeviceState::TimedOut,
            Stage::Removing(..) => DeviceState::Removing,
            Stage::Leaving(_) => DeviceState::Ejected,
        }
    }
}
