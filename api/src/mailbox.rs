//! One-way queue from API threads to the machine's event loop, and the way back.
//!
//! A [`Call`] carries the request and a [`Reply`], a value that the machine may
//! answer at once or keep until the work is done. Neither end ever waits for
//! the other: the queue is bounded, and a full or abandoned one answers 503.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::request::{Answer, Fault, Request, Status, code};

/// Calls that may wait; one more is answered 503.
const CAPACITY: usize = 1024;

/// One request together with the way its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where to answer.
    pub reply: Reply,
}

/// The right, and the duty, to answer one request once. It may be stored and
/// moved between threads; dropped unanswered, it answers 503.
pub struct Reply(Option<Box<dyn FnOnce(Answer) + Send>>);

impl Reply {
    /// A reply that hands the answer to `deliver`, on the thread that answers.
    /// `deliver` must neither block nor panic.
    pub fn new(deliver: impl FnOnce(Answer) + Send + 'static) -> Self {
        Self(Some(Box::new(deliver)))
    }

    /// A reply and the place where its answer arrives, for callers that wait.
    pub fn channel() -> (Self, mpsc::Receiver<Answer>) {
        let (sender, receiver) = mpsc::channel();
        // A caller that no longer waits is not an error.
        (Self::new(move |answer| drop(sender.send(answer))), receiver)
    }

    /// Answers. A client that has hung up is not an error.
    pub fn send(mut self, answer: Answer) {
        self.deliver(answer);
    }

    fn deliver(&mut self, answer: Answer) {
        if let Some(deliver) = self.0.take() {
            deliver(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.deliver(Err(stopping()));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Makes a connected pair.
///
/// # Errors
/// When the host has no file descriptor left for the eventfd.
pub fn mailbox() -> io::Result<(Sender, Receiver)> {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue { calls: VecDeque::new(), closed: false }),
        wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
    });
    Ok((Sender(shared.clone()), Receiver(shared)))
}

/// API-thread end.
#[derive(Clone)]
pub struct Sender(Arc<Shared>);

impl Sender {
    /// Queues the request and returns at once; the answer goes to `reply`,
    /// which is answered 503 right here if the queue is full or nobody listens.
    pub fn ask(&self, request: Request, reply: Reply) {
        let refused = match self.0.admit() {
            Ok(mut queue) => {
                queue.calls.push_back(Call { request, reply });
                // Fails only at a count of 2^64 - 2: the receiver is awake anyway.
                let _ = self.0.wake.write(1);
                return;
            }
            Err(fault) => fault,
        };
        reply.send(Err(refused));
    }
}

/// Event-loop end. Its descriptor is readable while calls are queued.
pub struct Receiver(Arc<Shared>);

impl Receiver {
    /// The oldest queued call, or `None` (which also makes the descriptor
    /// unreadable) when there is none. Never blocks.
    pub fn next(&self) -> Option<Call> {
        let mut queue = self.0.lock();
        let call = queue.calls.pop_front();
        if call.is_none() {
            // Not readable is what we want; there is no other failure.
            let _ = self.0.wake.read();
        }
        call
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let abandoned = {
            let mut queue = self.0.lock();
            queue.closed = true;
            std::mem::take(&mut queue.calls)
        };
        // Outside the lock: each dropped reply delivers its 503.
        drop(abandoned);
    }
}

struct Shared {
    queue: Mutex<Queue>,
    wake: EventFd,
}

struct Queue {
    calls: VecDeque<Call>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue, if one more call may enter it.
    fn admit(&self) -> Result<MutexGuard<'_, Queue>, Fault> {
        let queue = self.lock();
        if queue.closed {
            return Err(stopping());
        }
        if queue.calls.len() >= CAPACITY {
            return Err(busy());
        }
        Ok(queue)
    }
}

fn stopping() -> Fault {
    Fault::plain(Status::Busy, code::VMM_STOPPING, "the machine stopped before it could answer")
}

fn busy() -> Fault {
    Fault::plain(
        Status::Busy,
        code::API_BUSY,
        format_args!("{CAPACITY} requests are waiting already; try again later"),
    )
}

#[cfg(test)]
mod tests;
