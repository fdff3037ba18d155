//! Where a queue's worker gets its orders: from vCPUs that bring the device up and
//! reset it, and from whoever takes it away.
//!
//! One eventfd wakes the worker for both, orders and notifications. Where somebody else
//! serves the queue, notifications go to an eventfd of theirs.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::virtio::poll;

/// A queue to serve, checked, and the features that go with it.
pub(super) struct Ready {
    pub(super) queue: Queue,
    pub(super) features: u64,
}

/// What a worker is to do.
pub(super) enum Order {
    /// Serve this queue from now on.
    Serve(Ready),
    /// Let go of it.
    Stop,
    /// Return.
    End,
}

/// The desk of one queue.
pub(super) struct Desk {
    /// Wakes the worker.
    bell: Arc<EventFd>,
    /// Wakes who serves the queue: the worker as well, or somebody else.
    notified: Arc<EventFd>,
    orders: Mutex<Orders>,
    quiet: Condvar,
    /// An order waits that ends what the worker does.
    urgent: AtomicBool,
}

#[derive(Default)]
struct Orders {
    next: Option<Order>,
    /// The worker has a queue, or will have it.
    busy: bool,
    /// There is no worker any more.
    ended: bool,
}

impl Desk {
    /// Nothing to do. `elsewhere` is where notifications go if not to the worker.
    ///
    /// # Errors
    /// The host has no descriptor.
    pub(super) fn new(elsewhere: Option<Arc<EventFd>>) -> io::Result<Self> {
        // Reads block: the worker waits for nothing else.
        let bell = Arc::new(EventFd::new(EFD_CLOEXEC)?);
        Ok(Self {
            notified: elsewhere.unwrap_or_else(|| Arc::clone(&bell)),
            bell,
            orders: Mutex::default(),
            quiet: Condvar::new(),
            urgent: AtomicBool::new(false),
        })
    }

    /// Written when there is something in the queue.
    pub(super) fn notified(&self) -> &Arc<EventFd> {
        &self.notified
    }

    /// There is something in the queue.
    pub(super) fn notify(&self) {
        // It fails only at 2^64 - 1 events that nobody has taken.
        let _ = self.notified.write(1);
    }

    /// Wakes the worker.
    fn ring(&self) {
        // As above.
        let _ = self.bell.write(1);
    }

    /// The driver wants to hear of the queue in another way: the worker tells who serves it, if
    /// that is somebody else.
    pub(super) fn listens_elsewhere(&self) {
        if !Arc::ptr_eq(&self.bell, &self.notified) {
            self.ring();
        }
    }

    /// Has the worker serve a queue.
    pub(super) fn serve(&self, ready: Ready) {
        let mut orders = self.lock();
        if orders.ended || matches!(orders.next, Some(Order::End)) {
            return;
        }
        orders.next = Some(Order::Serve(ready));
        orders.busy = true;
        self.ring();
    }

    /// Has the worker let go of its queue, after the request that it is doing.
    pub(super) fn stop(&self) {
        let mut orders = self.lock();
        match orders.next {
            // It has not begun.
            Some(Order::Serve(_)) => {
                orders.next = None;
                orders.busy = false;
            }
            None if orders.busy => {
                orders.next = Some(Order::Stop);
                self.urgent.store(true, Ordering::SeqCst);
            }
            Some(Order::Stop | Order::End) | None => {}
        }
        self.ring();
    }

    /// Has the worker return, after the request that it is doing.
    pub(super) fn end(&self) {
        self.lock().next = Some(Order::End);
        self.urgent.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the worker has no queue.
    pub(super) fn is_quiet(&self) -> bool {
        !self.lock().busy
    }

    /// Waits until the worker has no queue, as long as its request takes.
    pub(super) fn wait_until_quiet(&self) {
        let orders = self.lock();
        let waited = self.quiet.wait_while(orders, |orders| orders.busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The worker waits for orders, notifications, or `source` to be readable.
    ///
    /// # Errors
    /// It cannot: a descriptor is not what it was.
    pub(super) fn wait(&self, source: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if let Some(source) = source
            && let [false, _] = poll::any([&*self.bell, &source])?
        {
            return Ok(());
        }
        self.hear()
    }

    /// Where the worker waits for orders along with what else it waits for.
    pub(super) fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// The worker takes note of the bell, or waits for it.
    ///
    /// # Errors
    /// It cannot: a descriptor is not what it was.
    pub(super) fn hear(&self) -> io::Result<()> {
        loop {
            match self.bell.read() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    /// The worker takes its order.
    pub(super) fn take(&self) -> Option<Order> {
        let mut orders = self.lock();
        self.urgent.store(false, Ordering::SeqCst);
        orders.next.take()
    }

    /// Whether the worker should look for an order before its next request.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::SeqCst)
    }

    /// The worker has let go of its queue.
    pub(super) fn let_go(&self) {
        self.lock().busy = false;
        self.quiet.notify_all();
    }

    /// The worker has returned: nobody need wait for it.
    pub(super) fn ended(&self) {
        self.lock().ended = true;
        self.let_go();
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_queue::QueueT;

    fn ready() -> Ready {
        Ready { queue: Queue::new(16).unwrap(), features: 0 }
    }

    #[test]
    fn queue_that_was_not_begun_is_stopped_at_once() {
        let desk = Desk::new(None).unwrap();
        desk.serve(ready());
        assert!(!desk.is_quiet());

        desk.stop();

        assert!(desk.is_quiet());
        assert!(desk.take().is_none());
    }

    #[test]
    fn queue_in_the_workers_hands_is_quiet_when_it_lets_go() {
        let desk = Desk::new(None).unwrap();
        desk.serve(ready());
        assert!(matches!(desk.take(), Some(Order::Serve(_))));

        desk.stop();

        assert!(desk.is_urgent() && !desk.is_quiet());
        assert!(matches!(desk.take(), Some(Order::Stop)));
        desk.let_go();
        assert!(desk.is_quiet() && !desk.is_urgent());
        desk.wait_until_quiet();
    }

    #[test]
    fn end_goes_before_everything_and_nothing_begins_after_it() {
        let desk = Desk::new(None).unwrap();
        desk.serve(ready());
        desk.end();
        desk.serve(ready());
        desk.stop();

        assert!(matches!(desk.take(), Some(Order::End)));
        desk.ended();
        desk.serve(ready());
        assert!(desk.is_quiet());
    }
}
