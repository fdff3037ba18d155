//! The thread that writes events. It alone waits for whoever reads them.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Monitor, OpenError, sys};
use crate::sandbox;
use crate::seccomp::{Filters, Kind};

/// Events that wait for a slow reader. More are dropped.
pub(super) const ROOM: usize = 1024;
/// Bytes of the thread's stack.
const STACK: usize = 256 << 10;

/// What the thread is given.
#[derive(Debug)]
pub(super) enum Message {
    /// An event to write.
    Text(String),
    /// That there is nothing more to write.
    End,
}

/// The thread. Dropping this writes what there is room for, and joins it.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    ending: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts a thread that writes what the monitor is told to `file`, which does
    /// not block. Start it before the calling thread confines itself.
    pub fn start(file: File, filters: &Arc<Filters>) -> Result<(Self, Monitor), OpenError> {
        let ending = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(OpenError::Thread)?;
        let ending = Arc::new(ending);
        let (queue, messages) = mpsc::sync_channel(ROOM);
        let (pen, filters) = (Pen { file, ending: Arc::clone(&ending) }, Arc::clone(filters));
        let body = move || match (sandbox::close_off(), filters.apply(Kind::Monitor)) {
            (Ok(()), Ok(())) => pen.run(&messages),
            (Err(error), _) => log::error!("no events are written: {error}"),
            (_, Err(error)) => log::error!("no events are written: {error}"),
        };
        let thread = Builder::new().name("monitor".to_owned()).stack_size(STACK).spawn(body);
        let thread = Some(thread.map_err(OpenError::Thread)?);
        let monitor = Monitor::to(queue.clone());
        Ok((Self { queue, ending, thread }, monitor))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // From here on the thread waits for no reader, so the queue empties soon.
        if self.ending.write(1).is_ok() {
            // Fails only when the thread has ended already.
            let _ = self.queue.send(Message::End);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the event monitor's thread has panicked");
        }
    }
}

struct Pen {
    file: File,
    ending: Arc<EventFd>,
}

impl Pen {
    fn run(self, messages: &Receiver<Message>) {
        while let Ok(Message::Text(text)) = messages.recv() {
            if let Err(error) = self.write(text.as_bytes()) {
                log::warn!("no more events are written: {error}");
                return;
            }
        }
    }

    fn write(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match (&self.file).write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.await_room()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the reader has made room; fails when the process is about to end.
    fn await_room(&self) -> io::Result<()> {
        if sys::has_room(&self.file, &*self.ending)? {
            return Ok(());
        }
        Err(io::Error::other("they are read too slowly, and the process ends"))
    }
}
