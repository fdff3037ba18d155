//! The device bay: host functions on their way into the guest and out again.
//!
//! ```text
//!            reserve            built: occupy, then tell the guest
//! (none) ------------> Adding ------------------------------------> Attached
//!    ^                    | failed, or removed before it has come:     | remove: ask the guest
//!    |                    | everything undone by drop                  |
//!    |<-------------------+                                            v
//!    |     gone: closed on a worker             the guest ejects    Removing
//!    +------------------------------- Leaving <------------------------+
//!                                        ^  ejected unasked, or forced |
//!                                        +-----------------------------+
//! ```
//! The event loop owns the bay and decides; workers open, map, reset and close.
//! A device is visible to the guest last, and its id, path and slot are free
//! again only when the host has it back.

mod arrival;
mod balloon;
mod build;
mod error;
mod interrupts;
mod notices;
mod occupant;
mod own;
mod remove;
mod reset;
mod roots;
mod served;
mod stale;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::mailbox::Reply;
use api::request::Response;
use api::schema::device::PciDeviceInfo;
use devices::pci::bus::Reservation;
use devices::pci::{Address, Segment};
use devices::vfio::counters::Counter;
use devices::vfio::host::HostFunction;
use devices::vfio::iommu::{AttachError, Iommu};
use devices::vfio::room::Others;
use devices::virtio::console::Console;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::arch::x86_64::registers::Entry;
use crate::boot;
use crate::config::device::DeviceId;
use crate::config::wanted::Wanted;
use crate::events::Poster;
use crate::irq::relay::Relay;
use crate::memory::ram::Memory;
use crate::memory::slots;
use crate::memory::surplus::Surplus;
use crate::monitor::{DeviceNotice, Failure, Monitor};
use crate::seccomp::Filters;
use crate::watch::Watch;
use crate::workers::Workers;

use self::arrival::Arrival;
pub use self::balloon::ResizeError;
pub use self::build::Built;
use self::build::{Passing, What};
pub use self::error::AddError;
use self::occupant::Occupant;
use self::remove::Waiter;
pub use self::remove::{Removal, RemoveError};
pub use self::reset::Restless;
use self::roots::Roots;
pub use self::roots::{PlaceError, Root};

/// What a worker has finished.
pub enum Finished {
    /// A device was built, or could not be.
    Built(DeviceId, Result<Built, AddError>),
    /// The host has a device back; its slot goes with this.
    Gone(DeviceId, Reservation),
    /// Functions that are being reset write no memory any more.
    Quiet(Vec<DeviceId>),
    /// A reset of functions has come to its end, whether it worked or not, after so
    /// long.
    Reset(Vec<DeviceId>, Duration),
    /// What the guest boots is in its memory, or could not be read; for the boot
    /// with this number.
    Loaded(u64, Result<Entry, boot::Error>),
    /// All RAM is warm, or the host has no more to give; since the boot with this
    /// number.
    Warmed(u64, io::Result<()>),
    /// The machine has been taken apart.
    Stopped,
}

/// What devices are made with: one set for each machine.
#[derive(Clone)]
pub struct Host {
    /// Groups and mapped RAM.
    pub iommu: Arc<Iommu>,
    /// Interrupt vectors.
    pub relay: Arc<Relay>,
    /// Memory slots, of RAM and of BARs.
    pub memory_slots: slots::Slots,
    /// For interrupt lines and doorbells.
    pub vm: Arc<VmFd>,
    /// The guest's RAM, for devices of ours.
    pub memory: Memory,
    /// Where RAM goes that the guest does without.
    pub surplus: Arc<Surplus>,
    /// The guest's half of the paravirtual console, if there is to be one.
    pub console: Option<Arc<Console>>,
    /// What the threads of those may do.
    pub filters: Arc<Filters>,
    /// Ready when the host has something to say of a function.
    pub notices: Arc<Watch>,
    /// Written, and watched by `notices`, when a function has something to say.
    pub bell: Arc<EventFd>,
}

/// The machine's devices.
///
/// Fields are in teardown order: nothing is being built any more, then the
/// devices go, then what they were made with.
pub struct Bay {
    workers: Workers,
    devices: BTreeMap<DeviceId, Device>,
    roots: Roots,
    host: Host,
    finished: Poster<Finished>,
    monitor: Monitor,
    next_id: u32,
}

/// A device the bay knows of.
struct Device {
    spec: Wanted,
    /// Which function of the host's it is, if it is one.
    function: Option<HostFunction>,
    address: Address,
    stage: Stage,
    since: Instant,
    /// The guest has been asked to let go, and has not for a while.
    overdue: bool,
    /// Interrupts that the relay thread has delivered for it.
    relayed: Arc<Counter>,
    /// What the host has said of it.
    heard: notices::Heard,
    /// How long its last reset took, if there was one.
    reset_took: Option<Duration>,
}

/// Where a device is between arriving and leaving.
enum Stage {
    /// A worker builds it.
    Adding(Arrival),
    /// The guest has it.
    Attached(Occupant),
    /// The guest has been asked to let go.
    Removing(Occupant, Vec<Waiter>),
    /// A worker gives it back to the host.
    Leaving(Vec<Waiter>),
}

impl Bay {
    /// An empty bay on these buses, the first of segment 0; what `workers` have finished is posted, and what
    /// becomes of devices, the monitor is told.
    pub fn new(
        roots: Vec<Root>,
        host: Host,
        (finished, monitor): (Poster<Finished>, Monitor),
        workers: Workers,
    ) -> Self {
        let devices = BTreeMap::new();
        let roots = Roots::new(roots);
        Self { workers, devices, roots, host, finished, monitor, next_id: 0 }
    }

    /// Starts to add a device; `reply` is answered when the guest has been told
    /// (or at once, with an error, when it cannot be begun).
    pub fn add(&mut self, spec: Wanted, reply: Reply) {
        let asked = asked(spec.id());
        match self.reserve(spec) {
            Ok(plan) => self.begin(plan, Some(reply)),
            Err(error) => reply.send(Err(error.fault(asked))),
        }
    }

    /// Finds out whether [`Self::add`] would be refused; nothing is added.
    pub fn check(&mut self, spec: Wanted, reply: Reply) {
        let asked = asked(spec.id());
        let plan = match self.reserve(spec) {
            Ok(plan) => plan,
            Err(error) => return reply.send(Err(error.fault(asked))),
        };
        self.on_worker(&asked.clone(), reply, move |reply| {
            let checked = plan.preflight();
            reply.send(checked.map(|()| Response::Done).map_err(|error| error.fault(asked)));
        });
    }

    /// Starts to add a device that the machine boots with.
    pub fn add_at_boot(&mut self, spec: Wanted) -> Result<(), AddError> {
        let plan = self.reserve(spec)?;
        self.begin(plan, None);
        Ok(())
    }

    /// Takes over what a worker built. `tell`: the guest runs and must be told.
    /// Returns the device's id and name on the host, or why there is none.
    pub fn commit(
        &mut self,
        id: DeviceId,
        outcome: Result<Built, AddError>,
        tell: bool,
    ) -> Result<PciDeviceInfo, AddError> {
        let Some(device) = self.devices.get_mut(&id) else { return Err(AddError::Taken(id)) };
        let Stage::Adding(arrival) = &mut device.stage else {
            // Only a device being added has a worker that builds it.
            return Err(AddError::Taken(id));
        };
        let (reply, address) = (arrival.reply.take(), device.address);
        let waiters = std::mem::take(&mut arrival.waiters);
        let cancelled = arrival.progress.is_cancelled();
        let info = PciDeviceInfo { id: id.to_string(), bdf: address.to_string() };
        match outcome {
            // Cancelled too late for the worker to see: it goes the way it would have come.
            Ok(Built { place, function, .. }) if cancelled => {
                self.enter(&id, Stage::Leaving(waiters));
                self.give_back(id.clone(), function, place);
                Err(self.refuse(&id, AttachError::Cancelled.into(), reply))
            }
            Ok(Built { place, function, relayed }) => {
                device.relayed = relayed;
                // Nothing below can fail: the guest may scan the bus the moment we occupy.
                place.occupy(function.on_bus());
                self.enter(&id, Stage::Attached(function));
                if tell {
                    self.roots.added(address);
                }
                log::info!("device {id} is at {address}");
                self.monitor.tell_of(&info.id, DeviceNotice::Added(&info.bdf));
                reply.into_iter().for_each(|r| r.send(Ok(Response::Added(info.clone()))));
                // What was said while nobody could be asked.
                self.hear(&id);
                Ok(info)
            }
            Err(error) => {
                self.devices.remove(&id);
                let error = self.refuse(&id, error, reply);
                waiters.into_iter().for_each(Waiter::content);
                Err(error)
            }
        }
    }

    /// A device has not come: says so to whom it may concern.
    fn refuse(&self, id: &DeviceId, error: AddError, reply: Option<Reply>) -> AddError {
        let fault = error.fault(asked(Some(id)));
        log::warn!("{fault}");
        let failure = Failure { code: fault.code, message: &fault.chain.join(": ") };
        self.monitor.tell_of(id.as_str(), DeviceNotice::AddFailed(failure));
        reply.into_iter().for_each(|reply| reply.send(Err(fault.clone())));
        error
    }

    /// Whether a worker still builds something.
    pub fn is_building(&self) -> bool {
        self.devices.values().any(|device| matches!(device.stage, Stage::Adding(_)))
    }

    /// The devices that the guest has, as they could be asked for again.
    pub fn specs(&self) -> Vec<Wanted> {
        let present = self.devices.values().filter(|device| device.function().is_some());
        present.map(|device| device.spec.clone()).collect()
    }

    /// Descriptors that the event loop watches.
    pub fn watched(&self) -> impl Iterator<Item = RawFd> {
        self.roots.watched().chain([self.host.notices.as_raw_fd()])
    }

    /// What devices are made with.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Does what time demands: reminds a guest that has not looked, answers
    /// those who have waited long enough. Returns whether there is more to come.
    pub fn tick(&mut self) -> bool {
        let now = Instant::now();
        for (id, device) in &mut self.devices {
            remove::answer_expired(id, &mut device.stage, now);
            if let Some(news) = device.news() {
                self.monitor.tell_of(id.as_str(), news);
            }
            if device.is_due(now) {
                device.overdue = true;
                // It may have been asked before it had a driver to hear it.
                self.roots.remove(device.address);
                self.monitor.tell_of(id.as_str(), DeviceNotice::TimedOut);
            }
        }
        self.roots.remind() || self.devices.values().any(Device::waits_for_time)
    }

    /// Checks what can be checked at once and takes the slot; the rest is the
    /// worker's.
    fn reserve(&mut self, spec: Wanted) -> Result<build::Plan, AddError> {
        let id = match spec.id() {
            Some(id) if self.devices.contains_key(id) => return Err(AddError::Taken(id.clone())),
            Some(id) => id.clone(),
            None => self.free_id(spec.prefix()),
        };
        if !self.devices.values().all(|device| spec.goes_with(&device.spec)) {
            return Err(AddError::Second);
        }
        let (segment, slot) = spec.place();
        let what = match spec.named(id.clone()) {
            Wanted::Host(spec) => {
                let function = self.find(&spec.path)?;
                What::Host(Passing { spec, function, others: self.others(segment) })
            }
            Wanted::Disk(spec) => What::Disk(spec),
            Wanted::Net(spec) => What::Net(spec),
            Wanted::Rng(spec) => What::Rng(spec),
            Wanted::Vsock(spec) => What::Vsock(spec),
            Wanted::Served(spec) => {
                self.is_free(&spec.socket)?;
                What::Served(spec, self.others(segment))
            }
            Wanted::Balloon(spec) => What::Balloon(spec),
            Wanted::Console(spec) => What::Console(spec),
        };
        let place = self.roots.reserve(segment, slot)?;
        Ok(build::Plan { id, what, place, host: self.host.clone() })
    }

    /// Functions of a segment, for which there is room: what others emulate, once it has come.
    fn others(&self, segment: Segment) -> Others {
        let near = || self.devices.values().filter(|device| device.address.segment == segment);
        let served = |device: &Device| match device.function() {
            Some(Occupant::Served(served)) => served.function.needs().to_vec(),
            Some(Occupant::Host(_) | Occupant::Own(_)) | None => Vec::new(),
        };
        let of_host = near().filter_map(|device| device.function.clone()).collect();
        Others { of_host, of_servers: near().flat_map(served).collect() }
    }

    /// The function at `path`, which is not ours already.
    fn find(&self, path: &Path) -> Result<HostFunction, AddError> {
        let function = HostFunction::find(path)?;
        let has_it = |device: &Device| device.function.as_ref() == Some(&function);
        match self.devices.iter().find(|(_, device)| has_it(device)) {
            Some((holder, _)) => Err(AddError::InUse(function.name().to_owned(), holder.clone())),
            None => Ok(function),
        }
    }

    /// A server has one client: us, perhaps.
    fn is_free(&self, socket: &Path) -> Result<(), AddError> {
        let has_it =
            |device: &Device| matches!(&device.spec, Wanted::Served(spec) if spec.socket == socket);
        match self.devices.iter().find(|(_, device)| has_it(device)) {
            Some((holder, _)) => Err(AddError::InUse(socket.display().to_string(), holder.clone())),
            None => Ok(()),
        }
    }

    fn begin(&mut self, plan: build::Plan, reply: Option<Reply>) {
        let (id, address) = (plan.id.clone(), plan.place.address);
        let arrival = Arrival::new(reply);
        let progress = Arc::clone(&arrival.progress);
        let (spec, function) = plan.what.about();
        let path = spec.path().to_string_lossy().into_owned();
        self.monitor.tell_of(id.as_str(), DeviceNotice::Adding(&path));
        let device = Device {
            spec,
            function,
            address,
            stage: Stage::Adding(arrival),
            since: Instant::now(),
            overdue: false,
            relayed: Arc::default(),
            heard: notices::Heard::default(),
            reset_took: None,
        };
        self.devices.insert(id.clone(), device);
        let finished = self.finished.clone();
        let built = id.clone();
        let started = self
            .workers
            .start(move || finished.post(Finished::Built(built, plan.build(&progress))));
        if let Err(error) = started {
            // The same way as any failure of the worker's.
            self.finished.post(Finished::Built(id, Err(AddError::Worker(error))));
        }
    }

    fn free_id(&mut self, prefix: &str) -> DeviceId {
        loop {
            let id = DeviceId::generated(prefix, self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            if !self.devices.contains_key(&id) {
                return id;
            }
        }
    }

    fn enter(&mut self, id: &DeviceId, stage: Stage) {
        if let Some(device) = self.devices.get_mut(id) {
            device.stage = stage;
            device.since = Instant::now();
            device.overdue = false;
        }
    }
}

impl Drop for Bay {
    fn drop(&mut self) {
        // Workers are waited for; one that maps RAM would take seconds.
        self.host.iommu.stop();
        // No vCPU runs any more. Each close may take 100 ms: all at once.
        let devices = std::mem::take(&mut self.devices).into_values();
        let functions = devices.filter_map(|device| {
            drop(self.roots.evict(device.address));
            device.function().cloned()
        });
        let functions = functions.collect();
        self.workers.all(functions, drop);
    }
}

impl Device {
    /// What the monitor is to be told of its way in.
    fn news(&mut self) -> Option<DeviceNotice<'static>> {
        if let Stage::Adding(arrival) = &mut self.stage { arrival.news() } else { None }
    }

    fn function(&self) -> Option<&Occupant> {
        match &self.stage {
            Stage::Attached(function) | Stage::Removing(function, _) => Some(function),
            Stage::Adding(_) | Stage::Leaving(_) => None,
        }
    }
}

fn asked(id: Option<&DeviceId>) -> String {
    id.map_or_else(|| "cannot add the device".to_owned(), |id| format!("cannot add device {id}"))
}
