//! The machine's own thread: the only one that owns it. It takes calls, guest
//! events and signals one at a time, so nothing around the machine needs a lock.

use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use api::mailbox::Receiver;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use crate::control;
use crate::lifecycle::{Ending, Vmm};
use crate::signals::Signals;

/// Why the loop cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's event queue.
    #[error("cannot wait for events: {0:?}")]
    Wait(event_manager::Error),
}

/// Serves until the process is to end, and says how. The VM is gone by then.
pub fn run(vmm: Vmm, calls: Receiver, signals: Signals) -> Result<Ending, Error> {
    let mut manager = EventManager::new().map_err(Error::Wait)?;
    let id = manager.add_subscriber(Sources { vmm, calls, signals });
    loop {
        let sources = manager.subscriber_mut(id).map_err(Error::Wait)?;
        let patience = match sources.vmm.over() {
            ControlFlow::Break(ending) => return Ok(ending),
            ControlFlow::Continue(patience) => {
                let next = sources.vmm.monitor.expire();
                patience.into_iter().chain(next).min().map_or(FOREVER, milliseconds)
            }
        };
        match manager.run_with_timeout(patience) {
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(Error::Wait(error)),
            Ok(_) => {}
        }
    }
}

/// As `epoll_wait(2)` has it.
const FOREVER: i32 = -1;

/// At least one, or the loop would spin for the last fraction.
fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).map_or(i32::MAX, |millis| millis.saturating_add(1))
}

/// Everything the loop waits for, and the machine. The manager panics over
/// events of a descriptor it no longer knows, so these stay until the end.
struct Sources {
    vmm: Vmm,
    calls: Receiver,
    signals: Signals,
}

/// Which source an event is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Calls,
    Guest,
    Workers,
    Machine,
    Signals,
}

impl Source {
    const ALL: [Self; 5] = [Self::Calls, Self::Guest, Self::Workers, Self::Machine, Self::Signals];

    fn events(self, fd: RawFd) -> Events {
        Events::with_data_raw(fd, self as u32, EventSet::IN)
    }
}

impl Sources {
    fn fd(&self, source: Source) -> RawFd {
        match source {
            Source::Calls => self.calls.as_raw_fd(),
            Source::Guest => self.vmm.inbox.as_raw_fd(),
            Source::Workers => self.vmm.finished.as_raw_fd(),
            Source::Machine => self.vmm.watch.as_raw_fd(),
            Source::Signals => self.signals.as_raw_fd(),
        }
    }

    fn take(&mut self, source: Source) {
        match source {
            Source::Calls => {
                while let Some(call) = self.calls.next() {
                    control::handle(&mut self.vmm, call);
                }
            }
            Source::Guest => self.vmm.take_events(),
            Source::Workers => self.vmm.take_finished(),
            Source::Machine => self.vmm.take_ready(),
            Source::Signals => {
                self.signals.take();
                self.vmm.signalled();
            }
        }
    }
}

impl MutEventSubscriber for Sources {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for source in Source::ALL {
            let added = ops.add(source.events(self.fd(source)));
            added.expect("the machine's own descriptors can be waited for");
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let source = Source::ALL.into_iter().find(|source| *source as u32 == events.data());
        self.take(source.expect("every registered descriptor has a source"));
    }
}
