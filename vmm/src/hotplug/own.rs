//! What a worker does to make a device of ours: straight on, each step undone by drop.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::vfio::bars::GuestSpaces;
use devices::vfio::counters::Counter;
use devices::virtio::balloon::Balloon;
use devices::virtio::block::Disk;
use devices::virtio::function::{Function, Machine};
use devices::virtio::net::{self, Card, Net};
use devices::virtio::rng::Rng;
use devices::virtio::vsock::Vsock;
use devices::virtio::{Device, Worker};

use super::build::Built;
use super::occupant::{Occupant, Own};
use super::roots::Place;
use super::{AddError, Host};
use crate::config::balloon::BalloonSpec;
use crate::config::device::DeviceId;
use crate::config::disk::DiskSpec;
use crate::config::net::{NetSpec, Tap};
use crate::config::rng::RngSpec;
use crate::config::vsock::VsockSpec;
use crate::kvm::doorbells::IoEvents;
use crate::seccomp::{Filters, Kind};

/// Bytes of a queue's thread's stack.
const STACK: usize = 256 << 10;

/// What a device's threads are called, and may do.
#[derive(Clone, Copy)]
struct Threads(&'static str, Kind);

/// Opens and locks the image, and starts a thread for each queue. They wait until the
/// guest's driver has set their queues up.
pub(super) fn disk(
    id: &DeviceId,
    spec: DiskSpec,
    place: Place,
    host: &Host,
) -> Result<Built, AddError> {
    let DiskSpec { path, access, queues, queue_size, serial, .. } = spec;
    let store = Disk::open(&path, access).map_err(|error| AddError::Disk(path, error))?;
    let sizes = vec![queue_size; queues.into()];
    let serial = serial.unwrap_or_else(|| id.to_string());
    let disk = Disk::new(store, id.to_string(), &serial, &sizes);
    build(Arc::new(disk), Threads("disk", Kind::Disk), place, host)
}

/// Takes the tap, and starts a thread for each queue.
pub(super) fn net(
    id: &DeviceId,
    spec: NetSpec,
    place: Place,
    host: &Host,
) -> Result<Built, AddError> {
    let NetSpec { tap, mac, pairs, queue_size, offloads, vhost, .. } = spec;
    let taps = match &tap {
        Tap::Named(name) => net::open(name, pairs),
        Tap::Given(handed) => net::take(handed.iter()),
    };
    let taps = taps.map_err(|error| AddError::Tap(tap.name().to_owned(), error))?;
    let card = Card { mac, offloads, entries: queue_size };
    let net = Net::new(taps, id.to_string(), card).map_err(AddError::Queues)?;
    if vhost {
        let net = net.carried(&host.memory).map_err(AddError::Vhost)?;
        return build(Arc::new(net), Threads("net", Kind::VhostNet), place, host);
    }
    build(Arc::new(net), Threads("net", Kind::Net), place, host)
}

/// Opens the source, and starts a thread for the queue.
pub(super) fn rng(
    id: &DeviceId,
    spec: RngSpec,
    place: Place,
    host: &Host,
) -> Result<Built, AddError> {
    let source = spec.source;
    let rng = Rng::open(&source, id.to_string());
    let rng = rng.map_err(|error| AddError::Source(source, error))?;
    build(Arc::new(rng), Threads("rng", Kind::Rng), place, host)
}

/// Takes the guest's address from the host's kernel, and starts the threads that speak with it.
pub(super) fn vsock(spec: &VsockSpec, place: Place, host: &Host) -> Result<Built, AddError> {
    let vsock = Vsock::open(spec.cid, host.memory.clone()).map_err(AddError::Vsock)?;
    build(Arc::new(vsock), Threads("vsock", Kind::Vsock), place, host)
}

/// Starts the threads of a balloon.
pub(super) fn balloon(
    id: &DeviceId,
    spec: &BalloonSpec,
    place: Place,
    host: &Host,
) -> Result<Built, AddError> {
    let surplus = Arc::clone(&host.surplus);
    let balloon = Arc::new(Balloon::new(surplus, spec.choices, spec.pages, id.to_string()));
    let named = Threads("balloon", Kind::Balloon);
    let (mut own, relayed) = own(Arc::clone(&balloon) as _, named, place.spaces, host)?;
    own.balloon = Some(balloon);
    let function = Occupant::Own(Arc::new(own));
    Ok(Built { function, place: place.reservation, relayed })
}

/// Starts the threads of the console that the machine was made with.
pub(super) fn console(place: Place, host: &Host) -> Result<Built, AddError> {
    let console = host.console.clone().expect("a console is wanted of a machine that has one");
    build(console, Threads("console", Kind::Console), place, host)
}

fn build(
    device: Arc<dyn Device>,
    named: Threads,
    place: Place,
    host: &Host,
) -> Result<Built, AddError> {
    let (own, relayed) = own(device, named, place.spaces, host)?;
    let function = Occupant::Own(Arc::new(own));
    Ok(Built { function, place: place.reservation, relayed })
}

/// The device with its threads, and how many interrupts are relayed for it.
fn own(
    device: Arc<dyn Device>,
    named: Threads,
    spaces: GuestSpaces,
    host: &Host,
) -> Result<(Own, Arc<Counter>), AddError> {
    let vectors = host.relay.lend(Function::vectors(&*device));
    let relayed = vectors.relayed();
    let machine = Machine {
        vectors: Box::new(vectors),
        memory: host.memory.clone(),
        spaces,
        doorbells: Arc::new(IoEvents(Arc::clone(&host.vm))),
    };
    let (function, workers) = Function::new(device, machine).map_err(AddError::Queues)?;
    // Whatever fails from here on, those that were started end with this.
    let mut own = Own { function: Arc::new(function), threads: Vec::new(), balloon: None };
    for worker in workers {
        own.threads.push(start(worker, named, &host.filters).map_err(AddError::Queues)?);
    }
    Ok((own, relayed))
}

/// A queue's thread. One that cannot confine itself serves nothing.
fn start(
    worker: Worker,
    Threads(name, kind): Threads,
    filters: &Arc<Filters>,
) -> io::Result<JoinHandle<()>> {
    let filters = Arc::clone(filters);
    let body = move || match filters.apply(kind) {
        Ok(()) => worker.run(),
        Err(error) => log::error!("queue {} of {name} is not served: {error}", worker.queue()),
    };
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body)
}
