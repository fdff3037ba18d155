//! The worker that warms a running guest's RAM when nobody else needs the processors.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::memory::ram::Prefault;
use crate::memory::warmth::{Level, Warmth};
use crate::seccomp::Filters;
use crate::workers;

/// A machine's RAM and the worker that warms it, if there is one. Dropping this
/// ends the worker and waits for it, which takes milliseconds.
pub struct Warming {
    when: Prefault,
    warmth: Arc<Warmth>,
    worker: Option<JoinHandle<()>>,
}

impl Warming {
    /// Nobody warms yet.
    pub fn new(warmth: Arc<Warmth>, when: Prefault) -> Self {
        Self { when, warmth, worker: None }
    }

    /// The RAM, if it is to be warm before the guest starts.
    pub fn at_boot(&self) -> Option<Arc<Warmth>> {
        (self.when == Prefault::AtBoot).then(|| Arc::clone(&self.warmth))
    }

    /// Whether it is to be warmed while the guest runs.
    pub fn in_background(&self) -> bool {
        self.when == Prefault::InBackground
    }

    /// How much is warm.
    pub fn level(&self) -> Level {
        self.warmth.level()
    }

    /// Starts to warm what is cold; `done` is called when all is warm, or when the
    /// host has no more memory to give.
    pub fn start(
        &mut self,
        filters: &Arc<Filters>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let warmth = Arc::clone(&self.warmth);
        let body = move || done(warmth.warm_in_background());
        self.worker = Some(workers::start_modest(filters, body)?);
        Ok(())
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.warmth.stop();
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            log::error!("the worker that warms RAM has panicked");
        }
    }
}
