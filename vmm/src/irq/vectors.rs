//! Vectors lent to one PCI function.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use devices::irq::{Change, Message, Route, Vectors};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::irq::poll::is_signalled;

use crate::irq::routes::{Gsi, Routes};

/// A function's vectors, those that it has used so far.
pub struct Lent {
    routes: Arc<Routes>,
    count: u16,
    vectors: BTreeMap<u16, Vector>,
}

/// What one vector holds. A number outlives a disable, so that a driver that
/// enables again with the same messages costs no commit.
#[derive(Default)]
struct Vector {
    event: Option<Arc<EventFd>>,
    routed: Option<(Gsi, Message)>,
    attached: bool,
}

impl Lent {
    /// `count` vectors that hold nothing yet.
    pub fn new(routes: Arc<Routes>, count: u16) -> Self {
        Self { routes, count, vectors: BTreeMap::new() }
    }

    fn vector(&mut self, index: u16) -> io::Result<&mut Vector> {
        if index >= self.count {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(self.vectors.entry(index).or_default())
    }

    /// Routes and then attaches everything that `changes` wakes.
    fn wake(&mut self, changes: &[(u16, Message)]) -> io::Result<()> {
        let mut wanted = Vec::with_capacity(changes.len());
        for (index, message) in changes {
            let number = self.vector(*index)?.routed.map(|(number, _)| number);
            wanted.push((number, *message));
        }
        let numbers = self.routes.assign(&wanted)?;
        let mut outcome = Ok(());
        for ((index, message), number) in changes.iter().zip(numbers) {
            let routes = Arc::clone(&self.routes);
            let vector = self.vector(*index)?;
            vector.routed = Some((number, *message));
            outcome = outcome.and(vector.attach(&routes));
        }
        outcome
    }
}

impl Vectors for Lent {
    fn count(&self) -> u16 {
        self.count
    }

    fn apply(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut woken = Vec::new();
        let mut outcome = Ok(());
        for change in changes {
            let routes = Arc::clone(&self.routes);
            match change.route {
                Route::Masked => outcome = outcome.and(self.vector(change.vector)?.detach(&routes)),
                Route::To(message) => woken.push((change.vector, message)),
            }
        }
        if woken.is_empty() { outcome } else { outcome.and(self.wake(&woken)) }
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        self.vector(vector)?.event()
    }

    fn pending(&self, vector: u16) -> bool {
        let vector = self.vectors.get(&vector).filter(|vector| !vector.attached);
        vector.and_then(|vector| vector.event.as_ref()).is_some_and(|event| is_signalled(event))
    }

    fn reset(&mut self) {
        for (index, vector) in &mut self.vectors {
            if let Err(error) = vector.detach(&self.routes) {
                log::error!("vector {index} stays attached: {error}");
            }
            vector.event = None;
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.reset();
        let routed = self.vectors.values().filter_map(|vector| vector.routed);
        self.routes.release(routed.map(|(number, _)| number));
    }
}

impl Vector {
    fn event(&mut self) -> io::Result<Arc<EventFd>> {
        let event = match self.event.take() {
            Some(event) => event,
            None => Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
        };
        self.event = Some(Arc::clone(&event));
        Ok(event)
    }

    fn attach(&mut self, routes: &Routes) -> io::Result<()> {
        let event = self.event()?;
        if let (Some((number, _)), false) = (self.routed, self.attached) {
            routes.attach(&event, number)?;
            self.attached = true;
        }
        Ok(())
    }

    fn detach(&mut self, routes: &Routes) -> io::Result<()> {
        if let (Some(event), Some((number, _)), true) = (&self.event, self.routed, self.attached) {
            routes.detach(event, number)?;
            self.attached = false;
        }
        Ok(())
    }
}
