//! What the machine's other threads tell the event loop: events of the guest, and
//! what workers have finished.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Something that happened in the guest or to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest turned itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A processor gave up, and with it the guest: on hardware that is a reset.
    TripleFault {
        /// Which one.
        vcpu: u8,
    },
    /// All vCPUs that were held are out of the guest. The guest has posted before
    /// what it had to say until then.
    Parked,
    /// A vCPU cannot go on.
    Fault {
        /// Which one.
        vcpu: u8,
        /// What the kernel said.
        reason: String,
    },
}

/// Thread's end: posts events.
#[derive(Debug)]
pub struct Poster<T> {
    queue: Sender<T>,
    bell: Arc<EventFd>,
}

impl<T> Clone for Poster<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: Arc::clone(&self.bell) }
    }
}

/// Event loop's end. Readable when an event waits.
#[derive(Debug)]
pub struct Inbox<T> {
    queue: Receiver<T>,
    bell: Arc<EventFd>,
}

/// Makes a connected pair.
pub fn channel<T>() -> io::Result<(Poster<T>, Inbox<T>)> {
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let (sender, receiver) = mpsc::channel();
    let inbox = Inbox { queue: receiver, bell: Arc::clone(&bell) };
    Ok((Poster { queue: sender, bell }, inbox))
}

impl<T> Poster<T> {
    /// Posts `event`. When nobody listens any more the machine is going away,
    /// and the event means nothing.
    pub fn post(&self, event: T) {
        if self.queue.send(event).is_ok() {
            // Fails only when the counter is about to overflow: it rings already.
            let _ = self.bell.write(1);
        }
    }
}

impl<T> Inbox<T> {
    /// Silences the bell and returns what has been posted.
    pub fn drain(&self) -> Vec<T> {
        // Fails only when nothing rang.
        let _ = self.bell.read();
        self.queue.try_iter().collect()
    }
}

impl<T> AsRawFd for Inbox<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}
