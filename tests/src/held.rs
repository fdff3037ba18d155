//! What a VMM holds of its host, to compare before and after: a function that is gone, or never came, has given back
//! all of it.

use std::fs;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::host::Host;
use crate::vm::Vm;
use crate::wait::{Look, until};

/// A worker that closes a function under emulation, which resets it.
const RETURN_LIMIT: Duration = Duration::from_secs(60);

/// What a VMM holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// What must be as it was.
    pub resources: Resources,
    /// Ranges of its address space; the C library keeps the stacks of threads that ended for the next ones.
    pub mappings: usize,
}

/// What a device takes, and gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Open descriptors: containers, groups, devices, eventfds.
    pub descriptors: usize,
    /// Ranges of its address space that show a device.
    pub device_mappings: usize,
    /// Threads, workers among them.
    pub threads: usize,
    /// Interrupt routes in the kernel.
    pub routes: u64,
    /// KVM's memory slots.
    pub memory_slots: u64,
    /// KVM's memory slots that are left.
    pub free_slots: u64,
    /// Ids of devices, in whatever state.
    pub devices: Vec<String>,
}

impl Held {
    /// What `vm` holds now.
    pub fn of(vm: &Vm, host: &Host) -> Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", vm.pid())).doing("read mappings")?;
        let counters = vm.counters()?;
        let machine = |name: &str| counters["__machine"][name].as_u64().unwrap_or(u64::MAX);
        let devices = vm.info()?["device_tree"].take();
        let devices = devices.as_object().into_iter().flat_map(|tree| tree.keys().cloned());
        let resources = Resources {
            descriptors: vm.settled_descriptors(host)?,
            device_mappings: maps.lines().filter(|line| line.contains("vfio")).count(),
            threads: host.threads(vm.pid())?.len(),
            routes: machine("routes"),
            memory_slots: machine("memory_slots"),
            free_slots: machine("free_slots"),
            devices: devices.collect(),
        };
        Ok(Self { resources, mappings: maps.lines().count() })
    }

    /// Waits until `vm` holds as much as it did then.
    pub fn returns(&self, vm: &Vm, host: &Host) -> Result {
        until(&format!("the return to {:?}", self.resources), RETURN_LIMIT, || {
            let now = Self::of(vm, host)?.resources;
            Ok(if now == self.resources {
                Look::Holds(())
            } else {
                Look::NotYet(format!("{now:?}"))
            })
        })
    }
}
