//! Queues that somebody else serves: the host's kernel (vhost).
//!
//! The driver's notifications go there by themselves, as events of [`Events::kick`]. What
//! comes back goes through the queue's worker, which signals as for any other queue: so
//! masks, Pending bits and the ISR status are right whatever the driver does with its vectors.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::virtio::desk::{Order, Ready};
use crate::virtio::interrupts::Source;
use crate::virtio::poll;
use crate::virtio::worker::Worker;

/// Who serves a queue in place of its worker. Called by that worker.
pub trait Backend {
    /// The queue's events, the same ones always.
    fn events(&self, queue: usize) -> &Events;

    /// Serves `queue` from now on, whose rings are `rings`, for a driver that has agreed to
    /// `features`. What the driver put there before is served as well.
    ///
    /// # Errors
    /// It does not: the rings make no sense, or the host refuses. Nothing is served.
    fn start(&self, queue: usize, rings: &Queue, features: u64) -> io::Result<()>;

    /// Serves it no more: when this returns, neither rings nor buffers are touched. Also of a
    /// queue that is not served.
    fn stop(&self, queue: usize);
}

/// How one queue's driver and who serves it hear of each other.
pub struct Events {
    /// The driver has put something there.
    pub kick: Arc<EventFd>,
    /// The driver is to be told of what has been used.
    pub call: EventFd,
    /// The rings make no sense.
    pub error: EventFd,
}

impl Events {
    /// # Errors
    /// The host has no descriptor.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        Ok(Self { kick: Arc::new(event()?), call: event()?, error: event()? })
    }
}

/// The work of a queue's worker: orders on to `backend`, and what it has to say on to the
/// driver, until the device goes.
pub(super) fn watch(worker: &Worker, backend: &dyn Backend) -> io::Result<()> {
    let ended = pass_on(worker, backend);
    backend.stop(worker.index);
    ended
}

fn pass_on(worker: &Worker, backend: &dyn Backend) -> io::Result<()> {
    let (queue, desk) = (worker.index, &worker.desk);
    let Events { call, error, .. } = backend.events(queue);
    loop {
        let [ordered, called, failed] = poll::any([desk.bell(), call, error])?;
        if ordered {
            desk.hear()?;
            match desk.take() {
                Some(Order::End) => return Ok(()),
                Some(Order::Stop) => {
                    backend.stop(queue);
                    // Of a driver that wants to hear no more.
                    let _ = (call.read(), error.read());
                    desk.let_go();
                }
                Some(Order::Serve(Ready { queue: rings, features })) => {
                    if let Err(error) = backend.start(queue, &rings, features) {
                        worker.breaks(&error);
                    }
                }
                None => {}
            }
        }
        if called && call.read().is_ok() {
            worker.interrupts.signal(Source::Queue(queue));
        }
        if failed && error.read().is_ok() {
            backend.stop(queue);
            worker.breaks(&"the host's kernel cannot make sense of its rings");
        }
    }
}

#[cfg(test)]
mod tests;
