//! The relay thread: delivers for vectors that the kernel's table does not have
//! yet, and moves them into the table in batches.
//!
//! A guest unmasks its vectors one by one, each in a write of its own. A commit
//! for each would cost the square of their number, on the vCPU's path. Instead a
//! vector is live at once through this thread; when no new one has come for a
//! while, or when so much was relayed that the routes would have been cheaper,
//! all that wait are promoted together: one commit, then an irqfd each.
//! Nothing is lost in between, because the eventfd keeps the count and attaching
//! an irqfd delivers what it finds. Vectors that no route is left for stay here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use devices::vfio::counters::Counter;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::irq::routes::{Routes, is_interrupt};
use crate::irq::vector::{Promoted, State, Vector};
use crate::irq::vectors::Lent;
use crate::seccomp::{Filters, Kind};

/// A bring-up is over when no vector has come for so long. Waiting costs only
/// what is relayed meanwhile, so it may be long against any hiccup of a driver.
const QUIET: Duration = Duration::from_secs(1);
/// A batch for which so many messages were relayed waits no longer: together
/// they cost more than the commits that waiting may save (decision 0009).
const WORTH_A_COMMIT: u32 = 1000;
/// A guest that never rests gets its routes all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of the thread's stack.
const STACK: usize = 256 << 10;
/// Events taken at a time.
const BATCH: usize = 64;

const STOP: u64 = 0;
const TIMER: u64 = 1;
const FIRST_VECTOR: u64 = 2;

/// The thread. Dropping it ends it; vectors that it served are silent then, so
/// functions go first.
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What vectors and the thread share.
pub(super) struct Shared {
    routes: Arc<Routes>,
    epoll: Epoll,
    stop: EventFd,
    queue: Mutex<Queue>,
    /// Vectors in the epoll set by token. A token is never used again, so an
    /// event that arrives late finds nobody.
    watched: Mutex<Watched>,
    promotions: Counter,
}

/// Vectors that wait for promotion.
struct Queue {
    waiting: Vec<Weak<Vector>>,
    timer: TimerFd,
    first: Instant,
    last: Instant,
    /// Messages relayed for them.
    relayed: u32,
}

struct Watched {
    vectors: BTreeMap<u64, Weak<Vector>>,
    next: u64,
}

impl Relay {
    /// Starts the thread, confined by `filters`.
    pub fn start(routes: Arc<Routes>, filters: Arc<Filters>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(routes)?);
        let body = {
            let shared = Arc::clone(&shared);
            move || match filters.apply(Kind::Relay) {
                Ok(()) => shared.run(),
                Err(error) => log::error!("interrupts are not relayed: {error}"),
            }
        };
        let thread = Builder::new().name("relay".to_owned()).stack_size(STACK).spawn(body)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// `count` vectors that hold nothing yet.
    pub fn lend(&self, count: u16) -> Lent {
        Lent::new(Arc::clone(&self.shared), count)
    }

    /// Batches of vectors that the kernel has taken over so far.
    pub fn promotions(&self) -> u64 {
        self.shared.promotions.get()
    }

    /// The table that vectors are promoted into.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.shared.routes
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Fails only when the count is full: it is signalled then.
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the relay thread has panicked");
        }
    }
}

impl Shared {
    fn new(routes: Arc<Routes>) -> io::Result<Self> {
        let (epoll, timer) = (Epoll::new()?, TimerFd::new().map_err(io::Error::from)?);
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        for (fd, token) in [(stop.as_raw_fd(), STOP), (timer.as_raw_fd(), TIMER)] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))?;
        }
        let now = Instant::now();
        let queue = Queue { waiting: Vec::new(), timer, first: now, last: now, relayed: 0 };
        let watched = Watched { vectors: BTreeMap::new(), next: FIRST_VECTOR };
        let (queue, watched) = (Mutex::new(queue), Mutex::new(watched));
        Ok(Self { routes, epoll, stop, queue, watched, promotions: Counter::default() })
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Takes `vector` into the relay's hands until it is promoted or masked.
    pub(super) fn take(&self, vector: &Arc<Vector>, state: &mut State) -> io::Result<()> {
        let fd = state.event()?.as_raw_fd();
        match state.watched {
            // Reports again what was signalled while nobody listened.
            Some(token) => self.watch(ControlOperation::Modify, fd, token)?,
            None => {
                let token = self.register(vector);
                if let Err(error) = self.watch(ControlOperation::Add, fd, token) {
                    lock(&self.watched).vectors.remove(&token);
                    return Err(error);
                }
                state.watched = Some(token);
            }
        }
        if !state.queued {
            match lock(&self.queue).push(Arc::downgrade(vector)) {
                Ok(()) => state.queued = true,
                Err(error) => log::warn!("a vector stays with the relay thread: {error}"),
            }
        }
        Ok(())
    }

    /// Takes a vector's eventfd out of the epoll set, and forgets what was pending.
    pub(super) fn release(&self, state: &mut State) -> io::Result<()> {
        if let Some(token) = state.watched {
            let fd = state.event()?.as_raw_fd();
            self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default())?;
            lock(&self.watched).vectors.remove(&token);
        }
        state.forget(&self.routes)
    }

    /// Edge-triggered: a masked vector with a count must not keep waking us.
    fn watch(&self, operation: ControlOperation, fd: RawFd, token: u64) -> io::Result<()> {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        self.epoll.ctl(operation, fd, EpollEvent::new(events, token))
    }

    fn register(&self, vector: &Arc<Vector>) -> u64 {
        let mut watched = lock(&self.watched);
        let token = watched.next;
        watched.next += 1;
        watched.vectors.insert(token, Arc::downgrade(vector));
        token
    }

    fn run(&self) {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            // Fails only when a signal interrupts it.
            let count = self.epoll.wait(-1, &mut events).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    STOP => return,
                    TIMER => self.look_at_queue(),
                    token => self.relay(token),
                }
            }
        }
    }

    fn relay(&self, token: u64) {
        let vector = lock(&self.watched).vectors.get(&token).and_then(Weak::upgrade);
        let waiting = vector.is_some_and(|vector| vector.relay(&self.routes));
        if waiting && lock(&self.queue).count_message() {
            self.look_at_queue();
        }
    }

    fn look_at_queue(&self) {
        let waiting = lock(&self.queue).due();
        if !waiting.is_empty() {
            let again = self.promote(&waiting);
            let mut queue = lock(&self.queue);
            for vector in again {
                if let Err(error) = queue.push(Arc::downgrade(vector)) {
                    log::error!("a vector stays with the relay thread: {error}");
                }
            }
        }
    }

    /// Routes every vector that still wants it with one commit, then lets the
    /// kernel take over each. Returns those whose message has changed meanwhile.
    ///
    /// No lock is held across the commit. Numbers belong to the batch meanwhile:
    /// a guest that goes back to a vector's last message must not attach to a
    /// number that is just being given another.
    fn promote<'a>(&self, waiting: &'a [Arc<Vector>]) -> Vec<&'a Arc<Vector>> {
        let mut batch = Vec::with_capacity(waiting.len());
        for vector in waiting {
            let mut state = vector.lock();
            state.queued = false;
            if let Some(message) = state.relayed_to().filter(|m| is_interrupt(*m)) {
                batch.push((vector, state.lend_route(), message));
            }
        }
        if batch.is_empty() {
            return Vec::new();
        }
        let wanted: Vec<_> = batch.iter().map(|(_, loan, to)| (loan.number(), *to)).collect();
        let numbers = match self.routes.assign(&wanted) {
            Ok(numbers) => numbers,
            Err(error) => {
                log::warn!("{} vectors stay with the relay thread: {error}", batch.len());
                let unchanged = batch.iter();
                let orphans =
                    unchanged.filter_map(|(vector, loan, _)| vector.lock().return_route(*loan));
                self.routes.release(&orphans.collect::<Vec<_>>());
                return Vec::new();
            }
        };
        self.promotions.bump();
        let (mut again, mut orphans) = (Vec::new(), Vec::new());
        for ((vector, loan, message), number) in batch.into_iter().zip(numbers) {
            let Some(number) = number else { continue };
            let mut state = vector.lock();
            match state.promote(loan, (number, message), &self.routes) {
                Ok(Promoted::Again) if !state.queued => {
                    state.queued = true;
                    again.push(vector);
                }
                Ok(Promoted::Done | Promoted::Again) => {}
                Ok(Promoted::Orphan) => orphans.push(number),
                Err(error) => log::warn!("a vector stays with the relay thread: {error}"),
            }
        }
        self.routes.release(&orphans);
        again
    }
}

impl Queue {
    fn push(&mut self, vector: Weak<Vector>) -> io::Result<()> {
        self.last = Instant::now();
        if self.waiting.is_empty() {
            self.first = self.last;
            self.relayed = 0;
            self.timer.reset(QUIET, None)?;
        }
        self.waiting.push(vector);
        Ok(())
    }

    /// One more was relayed for them. Returns whether they shall wait no longer.
    fn count_message(&mut self) -> bool {
        self.relayed = self.relayed.saturating_add(1);
        self.is_worth_a_commit()
    }

    fn is_worth_a_commit(&self) -> bool {
        self.relayed >= WORTH_A_COMMIT
    }

    /// Those who wait, if the time has come; otherwise the timer is set anew.
    fn due(&mut self) -> Vec<Arc<Vector>> {
        let quiet = self.last.elapsed();
        let waits = quiet < QUIET && self.first.elapsed() < LONGEST_WAIT;
        if waits && !self.is_worth_a_commit() {
            match self.timer.reset(QUIET - quiet, None) {
                Ok(()) => return Vec::new(),
                Err(error) => log::warn!("no time to batch routes: {error}"),
            }
        }
        // Setting it, not reading it: it may have been set anew since it was reported,
        // and a read would wait.
        if let Err(error) = self.timer.clear() {
            log::warn!("the batch timer cannot be stopped: {error}");
        }
        self.waiting.drain(..).filter_map(|vector| vector.upgrade()).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
