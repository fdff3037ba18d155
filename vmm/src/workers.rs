//! Threads for what takes long: opening, mapping, resetting and closing
//! devices. Dropping the set waits for all of them, so nothing that they use
//! goes away under them.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Bytes of a worker's stack.
const STACK: usize = 256 << 10;

/// Workers under way.
#[derive(Debug, Default)]
pub struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Runs `job` on a thread of its own.
    pub fn start(&mut self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.0.retain(|worker| !worker.is_finished());
        let worker = Builder::new().name("worker".to_owned()).stack_size(STACK).spawn(job)?;
        self.0.push(worker);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in self.0.drain(..) {
            if worker.join().is_err() {
                log::error!("a worker has panicked");
            }
        }
    }
}
