//! Answers on their way from the machine's threads to the HTTP thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::mailbox::Reply;
use crate::request::Answer;

/// Queue of answers, each with the token of the connection that waits for it.
/// Its descriptor is readable while there is something to fetch.
#[derive(Debug)]
pub(super) struct Finished {
    answers: Mutex<Vec<(u64, Answer)>>,
    stopping: AtomicBool,
    wake: EventFd,
}

impl Finished {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            answers: Mutex::new(Vec::new()),
            stopping: AtomicBool::new(false),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        }))
    }

    /// A reply whose answer comes back here under `token`.
    pub(super) fn reply(self: &Arc<Self>, token: u64) -> Reply {
        let finished = self.clone();
        Reply::new(move |answer| {
            finished.answers.lock().unwrap_or_else(PoisonError::into_inner).push((token, answer));
            finished.wake();
        })
    }

    /// Asks the HTTP thread to end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Takes everything there is: the answers, and whether to end.
    pub(super) fn fetch(&self) -> (Vec<(u64, Answer)>, bool) {
        // Before looking: whatever is queued later wakes us again.
        let _ = self.wake.read();
        // The order matters: what was answered before the stop must not be left.
        let stopping = self.stopping.load(Ordering::Acquire);
        let answers =
            std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        (answers, stopping)
    }

    fn wake(&self) {
        // Fails only at a count of 2^64 - 2: the thread is awake anyway.
        let _ = self.wake.write(1);
    }
}

impl AsRawFd for Finished {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}
