//! Queues that somebody else serves: the host's kernel (vhost).
//!
//! The driver's notifications go there by themselves, as events of [`Events::kick`]. What
//! comes back goes to the eventfd of the queue's vector while MSI-X is on, as from a function
//! of the host's: so masks and Pending bits are right whatever the driver does with it, and an
//! interrupt wakes no thread of ours. Without a vector it comes to the queue's worker, for the
//! ISR status.

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

    /// Has `call` signalled from now on when something of `queue`, which is served, has been
    /// used; at first that is [`Events::call`].
    ///
    /// # Errors
    /// The host's.
    fn tell(&self, queue: usize, call: &EventFd) -> io::Result<()>;

    /// Serves it no more: when this returns, neither rings nor buffers are touched. Also of a
    /// queue that is not served.
    fn stop(&self, queue: usize);
}

/// How one queue's driver and who serves it hear of each other.
pub struct Events {
    /// The driver has put something there.
    pub kick: Arc<EventFd>,
    /// The driver is to be told of what has been used, by the worker.
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
    let mut line = Line::Down;
    loop {
        let [ordered, called, failed] = poll::any([desk.bell(), call, error])?;
        if ordered {
            desk.hear()?;
            match desk.take() {
                Some(Order::End) => return Ok(()),
                Some(Order::Stop) => {
                    backend.stop(queue);
                    line = Line::Down;
                    // Of a driver that wants to hear no more.
                    let _ = (call.read(), error.read());
                    desk.let_go();
                }
                Some(Order::Serve(Ready { queue: rings, features })) => {
                    match backend.start(queue, &rings, features) {
                        Ok(()) => line = Line::ToWorker,
                        Err(error) => worker.breaks(&error),
                    }
                }
                None => {}
            }
            if let Err(error) = line.lead(worker, backend) {
                backend.stop(queue);
                line = Line::Down;
                worker.breaks(&error);
            }
        }
        if called && call.read().is_ok() {
            worker.interrupts.signal(Source::Queue(queue));
        }
        if failed && error.read().is_ok() {
            backend.stop(queue);
            line = Line::Down;
            worker.breaks(&"the host's kernel cannot make sense of its rings");
        }
    }
}

/// Where who serves a queue signals.
enum Line {
    /// Nowhere: the queue is not served.
    Down,
    /// To the worker.
    ToWorker,
    /// To the queue's vector.
    ToVector(Arc<EventFd>),
}

impl Line {
    /// Leads it to where the driver wants to hear of the queue now.
    fn lead(&mut self, worker: &Worker, backend: &dyn Backend) -> io::Result<()> {
        let (queue, interrupts) = (worker.index, &worker.interrupts);
        let wanted = interrupts.trigger_of(queue);
        match (&*self, &wanted) {
            (Self::Down, _) | (Self::ToWorker, None) => return Ok(()),
            (Self::ToVector(now), Some(wanted)) if Arc::ptr_eq(now, wanted) => return Ok(()),
            (Self::ToWorker | Self::ToVector(_), _) => {}
        }
        backend.tell(queue, wanted.as_deref().unwrap_or(&backend.events(queue).call))?;
        let now = wanted.map_or(Self::ToWorker, Self::ToVector);
        if let Self::ToVector(before) = std::mem::replace(self, now) {
            interrupts.settle(&before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
