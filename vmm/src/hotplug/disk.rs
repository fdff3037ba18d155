//! What a worker does to make a disk: straight on, each step undone by drop.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::virtio::block::Disk;
use devices::virtio::function::{Function, Machine};
use devices::virtio::{Device, Worker};

use super::build::Built;
use super::occupant::{Occupant, Own};
use super::roots::Place;
use super::{AddError, Host};
use crate::config::device::DeviceId;
use crate::config::disk::DiskSpec;
use crate::kvm::doorbells::IoEvents;
use crate::seccomp::{Filters, Kind};

/// Bytes of a queue's thread's stack.
const STACK: usize = 256 << 10;
const NAME: &str = "disk";

/// Opens and locks the image, and starts a thread for each queue. They wait until the
/// guest's driver has set their queues up.
pub(super) fn build(
    id: &DeviceId,
    spec: DiskSpec,
    place: Place,
    host: &Host,
) -> Result<Built, AddError> {
    let DiskSpec { path, access, queues, queue_size, serial, .. } = spec;
    let store = Disk::open(&path, access).map_err(|error| AddError::Disk(path, error))?;
    let sizes = vec![queue_size; queues.into()];
    let serial = serial.unwrap_or_else(|| id.to_string());
    let disk: Arc<dyn Device> = Arc::new(Disk::new(store, id.to_string(), &serial, &sizes));
    let vectors = host.relay.lend(Function::vectors(&*disk));
    let relayed = vectors.relayed();
    let machine = Machine {
        vectors: Box::new(vectors),
        memory: host.memory.clone(),
        spaces: place.spaces,
        doorbells: Arc::new(IoEvents(Arc::clone(&host.vm))),
    };
    let (function, workers) = Function::new(disk, machine).map_err(AddError::Queues)?;
    // Whatever fails from here on, those that were started end with this.
    let mut own = Own { function: Arc::new(function), threads: Vec::new() };
    for worker in workers {
        own.threads.push(start(worker, &host.filters).map_err(AddError::Queues)?);
    }
    let function = Occupant::Own(Arc::new(own));
    Ok(Built { function, place: place.reservation, relayed })
}

/// A queue's thread. One that cannot confine itself serves nothing.
fn start(worker: Worker, filters: &Arc<Filters>) -> io::Result<JoinHandle<()>> {
    let filters = Arc::clone(filters);
    let body = move || match filters.apply(Kind::Disk) {
        Ok(()) => worker.run(),
        Err(error) => log::error!("queue {} of a disk is not served: {error}", worker.queue()),
    };
    Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(body)
}
