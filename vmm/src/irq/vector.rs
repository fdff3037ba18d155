//! One vector: its eventfd, and who reads it at the moment.
//!
//! ```text
//!                unmask, message not in the table         promotion: table committed
//!   Detached ─────────────────────────────────► Relayed ───────────────────────────► Routed
//!      ▲  ▲    (pending: delivered now)            │  ▲                                 │ │
//!      │  └───────────────── mask ─────────────────┘  └───── message changed ───────────┘ │
//!      ├──────────────────────────────── mask ────────────────────────────────────────────┘
//!      └───── unmask, message in the table ─────► Routed, without a commit
//! ```
//!
//! * **Detached** (masked): nobody reads; the eventfd's count is the Pending bit.
//! * **Relayed**: the relay thread reads the count and sends the message
//!   (`KVM_SIGNAL_MSI`); no route is needed, so a vector is live at once.
//! * **Routed**: an irqfd injects in the kernel; nobody of ours takes part.
//!
//! The lock is held across reading the count and sending the message, so a mask
//! returns only after a delivery under way, and none follows it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::irq::{Message, take};
use devices::vfio::counters::Counter;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::irq::poll::is_signalled;
use crate::irq::routes::{Gsi, Routes};

/// How a vector's events reach the guest at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// They do not: the vector is masked.
    Detached,
    /// The relay thread sends each as a message.
    Relayed,
    /// The kernel injects through this interrupt number.
    Routed(Gsi),
}

/// What a vector looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How events reach the guest.
    pub backend: Backend,
    /// Number and message that the kernel's table has for it.
    pub route: Option<(Gsi, Message)>,
    /// Signalled while masked.
    pub pending: bool,
    /// Messages that the relay thread has sent.
    pub relayed: u64,
}

/// One vector of a function.
pub(super) struct Vector {
    state: Mutex<State>,
    relayed: Counter,
    /// The same for all vectors of the function, readable without their locks.
    relayed_in_all: Arc<Counter>,
}

#[derive(Default)]
pub(super) struct State {
    event: Option<Arc<EventFd>>,
    /// Where events go; `None` while masked.
    target: Option<Message>,
    /// What the kernel's table has. Outlives a mask and a disable, so that the
    /// same message costs no commit again.
    route: Option<(Gsi, Message)>,
    attached: bool,
    /// In the relay's epoll set, under its token.
    pub(super) watched: Option<u64>,
    /// Waiting for promotion.
    pub(super) queued: bool,
    /// How often its function has given it back: a batch that began before has
    /// nothing to do with it any more.
    generation: u64,
}

/// What a batch has of a vector while the table changes: its route, if it had one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    route: Option<(Gsi, Message)>,
    generation: u64,
}

/// What came of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promoted {
    /// The kernel has it, or it is masked meanwhile.
    Done,
    /// Its message has changed meanwhile.
    Again,
    /// It was given back meanwhile; the number is nobody's.
    Orphan,
}

impl Vector {
    /// Masked, and never used.
    pub(super) fn new(relayed_in_all: Arc<Counter>) -> Self {
        Self { state: Mutex::default(), relayed: Counter::default(), relayed_in_all }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what has been signalled, if the vector is in the relay's hands.
    /// Returns whether a route would have done it, had it come already.
    pub(super) fn relay(&self, routes: &Routes) -> bool {
        let state = self.lock();
        let (Some(message), Some(event), false) = (state.target, &state.event, state.attached)
        else {
            return false;
        };
        // Empty when a promotion came first: then the kernel has delivered it.
        if take(event).is_none() {
            return false;
        }
        self.relayed.bump();
        self.relayed_in_all.bump();
        routes.send(message);
        state.queued
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let backend = match (state.target, state.route) {
            (None, _) => Backend::Detached,
            (Some(_), Some((number, _))) if state.attached => Backend::Routed(number),
            (Some(_), _) => Backend::Relayed,
        };
        let (route, pending) = (state.route, state.is_pending());
        Snapshot { backend, route, pending, relayed: self.relayed.get() }
    }
}

impl State {
    /// The eventfd, made on first use.
    pub(super) fn event(&mut self) -> io::Result<Arc<EventFd>> {
        let event = match self.event.take() {
            Some(event) => event,
            None => Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
        };
        self.event = Some(Arc::clone(&event));
        Ok(event)
    }

    pub(super) fn is_pending(&self) -> bool {
        self.target.is_none() && self.event.as_ref().is_some_and(|event| is_signalled(event))
    }

    /// Takes what has been signalled while masked, and sends nothing for it.
    pub(super) fn drain(&self) {
        if let (None, Some(event)) = (self.target, &self.event) {
            take(event);
        }
    }

    /// Sends events to `message` from now on. Returns whether the relay has to
    /// do it until the table has the message.
    pub(super) fn aim(&mut self, message: Message, routes: &Routes) -> io::Result<bool> {
        if self.target == Some(message) {
            return Ok(false);
        }
        self.detach(routes)?;
        self.target = Some(message);
        if self.route.is_some_and(|(_, routed)| routed == message)
            && let Err(error) = self.attach(routes)
        {
            log::warn!("a vector goes to the relay thread: {error}");
        }
        Ok(!self.attached)
    }

    /// Takes back an aim that nobody could be found for.
    pub(super) fn drop_aim(&mut self) {
        self.target = None;
    }

    /// Stops delivery; nothing arrives after the return.
    pub(super) fn mask(&mut self, routes: &Routes) -> io::Result<()> {
        self.target = None;
        self.detach(routes)
    }

    /// Where events go while the relay sends them; `None` if it does not.
    pub(super) fn relayed_to(&self) -> Option<Message> {
        self.target.filter(|_| !self.attached)
    }

    /// Gives the route away while the table changes: until it is back, nobody
    /// attaches to its number, and who gives the vector back does not free it.
    pub(super) fn lend_route(&mut self) -> Loan {
        Loan { route: self.route.take(), generation: self.generation }
    }

    /// The table has not changed. Returns the number if nobody has it now.
    pub(super) fn return_route(&mut self, loan: Loan) -> Option<Gsi> {
        if self.generation != loan.generation {
            return loan.number();
        }
        self.route = loan.route;
        None
    }

    /// The table has `message` under `number`: the kernel takes over, if that is
    /// still what the guest wants.
    pub(super) fn promote(
        &mut self,
        loan: Loan,
        route: (Gsi, Message),
        routes: &Routes,
    ) -> io::Result<Promoted> {
        if self.generation != loan.generation {
            return Ok(Promoted::Orphan);
        }
        self.route = Some(route);
        if self.relayed_to() == Some(route.1) {
            self.attach(routes)?;
        }
        Ok(if self.relayed_to().is_some() { Promoted::Again } else { Promoted::Done })
    }

    /// The function gives the vector back. Returns the number that goes with it.
    pub(super) fn give_back(&mut self) -> Option<Gsi> {
        self.generation += 1;
        self.route.take().map(|(number, _)| number)
    }

    /// Forgets what was pending; the number stays, and so does the eventfd: it is
    /// closed with the function, by a worker, and not here by a vCPU.
    pub(super) fn forget(&mut self, routes: &Routes) -> io::Result<()> {
        self.mask(routes)?;
        self.drain();
        self.watched = None;
        Ok(())
    }

    fn attach(&mut self, routes: &Routes) -> io::Result<()> {
        let event = self.event()?;
        if let (Some((number, _)), false) = (self.route, self.attached) {
            routes.attach(&event, number)?;
            self.attached = true;
        }
        Ok(())
    }

    fn detach(&mut self, routes: &Routes) -> io::Result<()> {
        if let (Some(event), Some((number, _)), true) = (&self.event, self.route, self.attached) {
            routes.detach(event, number)?;
            self.attached = false;
        }
        Ok(())
    }
}

impl Loan {
    /// Interrupt number that the vector had.
    pub(super) fn number(&self) -> Option<Gsi> {
        self.route.map(|(number, _)| number)
    }
}
