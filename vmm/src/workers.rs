//! Threads for what takes long: opening, mapping, resetting and closing
//! devices. Dropping the set waits for all of them, so nothing that they use
//! goes away under them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder, JoinHandle};

use crate::priority;
use crate::seccomp::{Filters, Kind};

/// Bytes of a worker's stack.
const STACK: usize = 256 << 10;
const NAME: &str = "worker";

/// Workers under way.
#[derive(Debug)]
pub struct Workers {
    running: Vec<JoinHandle<()>>,
    filters: Arc<Filters>,
}

impl Workers {
    /// None yet; each will confine itself.
    pub fn new(filters: Arc<Filters>) -> Self {
        Self { running: Vec::new(), filters }
    }

    /// Runs `job` on a thread of its own.
    pub fn start(&mut self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.running.retain(|worker| !worker.is_finished());
        let filters = Arc::clone(&self.filters);
        let body = move || {
            confine(&filters);
            job();
        };
        let worker = Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(body)?;
        self.running.push(worker);
        Ok(())
    }

    /// Does `job` for every item at once and waits for all.
    pub fn all<T: Send>(&self, items: Vec<T>, job: impl Fn(T) + Sync) {
        let others = items.len().saturating_sub(1);
        let items = Mutex::new(items.into_iter());
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || std::iter::from_fn(next).for_each(&job);
        let body = || {
            confine(&self.filters);
            work();
        };
        thread::scope(|scope| {
            for _ in 0..others {
                let builder = Builder::new().name(NAME.to_owned()).stack_size(STACK);
                // Without a thread for it, an item is done after the others.
                let _ = builder.spawn_scoped(scope, body);
            }
            work();
        });
    }
}

/// Runs `job` on a worker that nobody waits for: it may be stuck in the host's
/// storage. What it uses is its own, and stays as long as it needs it.
pub fn detach(filters: &Arc<Filters>, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let filters = Arc::clone(filters);
    let body = move || {
        confine(&filters);
        job();
    };
    Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(body).map(drop)
}

/// Runs `job` on a worker that leaves the processors to all others.
pub fn start_modest(
    filters: &Arc<Filters>,
    job: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let filters = Arc::clone(filters);
    let body = move || {
        confine(&filters);
        priority::step_back();
        job();
    };
    Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(body)
}

/// A worker that is not confined keeps the list of the thread that started it,
/// which is longer but a list all the same.
fn confine(filters: &Filters) {
    if let Err(error) = filters.apply(Kind::Worker) {
        log::error!("a worker runs with the event loop's list: {error}");
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in self.running.drain(..) {
            if worker.join().is_err() {
                log::error!("a worker has panicked");
            }
        }
    }
}
