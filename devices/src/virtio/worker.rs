//! A queue's worker: a value, run on a thread that the machine starts for it.

use std::fmt;
use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};

use crate::virtio::backend;
use crate::virtio::chain::Buffers;
use crate::virtio::desk::{Desk, Order, Ready};
use crate::virtio::interrupts::{Interrupts, Source};
use crate::virtio::room::{Room, Used, publish};
use crate::virtio::worker::moderation::Moderation;
use crate::virtio::{Device, Memory, Served};

mod moderation;

/// What a worker keeps between two looks at its queue, until the driver resets.
#[derive(Default)]
struct Kept<'m> {
    room: Room<'m>,
    moderation: Moderation,
}

/// What workers report: things that should not happen.
#[derive(Default)]
pub(super) struct Trouble {
    /// A ring makes no sense: nothing is served until the driver resets (2.1.2).
    pub(super) broken: AtomicBool,
    /// How often that was so.
    pub(super) breaks: AtomicU64,
    /// Chains that break a rule, and were given back unserved.
    pub(super) malformed: AtomicU64,
}

impl Trouble {
    /// Queue `index` cannot be served. A driver can reset and do that again as often as it
    /// likes, so it is told when it has doubled.
    pub(super) fn breaks(&self, index: usize, why: &dyn fmt::Display) {
        self.broken.store(true, Ordering::SeqCst);
        let count = self.breaks.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            log::warn!("virtio: queue {index} makes no sense, {count} times so far: {why}");
        }
    }
}

/// Serves one queue, whenever it is told to, until the device goes.
pub struct Worker {
    pub(super) device: Arc<dyn Device>,
    pub(super) index: usize,
    pub(super) desk: Arc<Desk>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) trouble: Arc<Trouble>,
    pub(super) memory: Memory,
}

impl Worker {
    /// Number of its queue.
    pub fn queue(&self) -> usize {
        self.index
    }

    /// Returns when the device goes.
    pub fn run(self) {
        let ended = match self.device.backend(self.index) {
            Some(backend) => backend::watch(&self, backend),
            None => self.serve_all(),
        };
        if let Err(error) = ended {
            log::error!("virtio: queue {} is not served: {error}", self.index);
        }
    }

    /// Serves the queue itself, as often as it is told to.
    fn serve_all(&self) -> io::Result<()> {
        let mut active = None;
        let mut kept = Kept::default();
        let mut pause = Pause::Empty;
        loop {
            let source = (pause == Pause::Later).then(|| self.device.source(self.index)).flatten();
            self.desk.wait(source)?;
            match self.desk.take() {
                Some(Order::End) => return Ok(()),
                Some(Order::Stop) => {
                    (active, kept) = (None, Kept::default());
                    self.desk.let_go();
                }
                Some(Order::Serve(ready)) => {
                    self.device.begin(self.index, ready.features);
                    (active, kept) = (Some(ready), Kept::default());
                }
                None => {}
            }
            pause = Pause::Empty;
            let Some(ready) = &mut active else { continue };
            match self.serve(ready, &mut kept) {
                Ok(reached) => pause = reached,
                Err(error) => {
                    active = None;
                    self.breaks(&error);
                }
            }
        }
    }

    /// The queue cannot be served, and its driver is told so.
    pub(super) fn breaks(&self, why: &dyn fmt::Display) {
        self.trouble.breaks(self.index, why);
        self.interrupts.signal(Source::Configuration);
    }

    /// Serves what there is, until notifications are on again, the device has to wait, or an
    /// order has come.
    fn serve<'m>(&'m self, ready: &mut Ready, kept: &mut Kept<'m>) -> Result<Pause, Error> {
        let Kept { room, moderation } = kept;
        if let Some(want) = self.device.merges(self.index, ready.features) {
            return self.fill(ready, room, want);
        }
        let (Ready { queue, features }, memory) = (ready, &self.memory);
        loop {
            queue.disable_notification(memory)?;
            while !self.desk.is_urgent() {
                let Some(chain) = queue.iter(memory)?.next() else {
                    if !moderation.has_untold() {
                        break;
                    }
                    if !self.another_comes(queue, moderation)? {
                        // It may answer while it is told: notifications stay off until the next look.
                        self.tell(queue, moderation)?;
                    }
                    continue;
                };
                let (head, begun) = (chain.head_index(), Instant::now());
                moderation.begun(begun);
                if head >= queue.size() {
                    return Err(Error::InvalidDescriptorIndex);
                }
                let served = match Buffers::collect(memory, chain, queue.size()) {
                    Ok(request) => {
                        if self.device.takes_long(&request) {
                            self.tell(queue, moderation)?;
                        }
                        self.device.serve(self.index, *features, &request)
                    }
                    Err(error) => {
                        self.trouble.malformed.fetch_add(1, Ordering::Relaxed);
                        log::debug!("virtio: queue {}: {error}", self.index);
                        Served::Filled(0)
                    }
                };
                let Served::Filled(filled) = served else {
                    // Back into the queue. Notifications stay off: the driver has nothing to tell.
                    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                    self.tell(queue, moderation)?;
                    return Ok(Pause::Later);
                };
                queue.add_used(memory, head, filled)?;
                if moderation.done(begun.elapsed()) {
                    self.tell(queue, moderation)?;
                }
            }
            self.tell(queue, moderation)?;
            if self.desk.is_urgent() || !queue.enable_notification(memory)? {
                return Ok(Pause::Empty);
            }
        }
    }

    /// The same, of a queue whose requests may fill several chains; `most` bytes of them are
    /// kept at hand if the driver has so many.
    fn fill<'m>(
        &'m self,
        Ready { queue, features }: &mut Ready,
        room: &mut Room<'m>,
        most: u64,
    ) -> Result<Pause, Error> {
        let (memory, mut want) = (&self.memory, most);
        loop {
            queue.disable_notification(memory)?;
            while !self.desk.is_urgent() {
                let mut refused = Vec::new();
                let gathered = room.gather((memory, queue), want, &mut refused)?;
                self.refuse(queue, &refused)?;
                match (room.is_empty(), refused.is_empty()) {
                    (true, true) => break,
                    (true, false) => continue,
                    (false, _) => {}
                }
                match self.device.fill(self.index, *features, room) {
                    Served::Filled(bytes) => {
                        want = most;
                        self.give_back(queue, &room.take(bytes))?;
                    }
                    Served::Later => return Ok(Pause::Later),
                    Served::More(_) if gathered == 0 => break,
                    Served::More(bytes) => want = most.max(bytes),
                }
            }
            if self.desk.is_urgent() || !queue.enable_notification(memory)? {
                return Ok(Pause::Empty);
            }
        }
    }

    /// Gives chains that break a rule back unfilled.
    fn refuse(&self, queue: &mut Queue, refused: &[Used]) -> Result<(), Error> {
        let count = u64::try_from(refused.len()).unwrap_or(u64::MAX);
        self.trouble.malformed.fetch_add(count, Ordering::Relaxed);
        // One by one: they belong to no common request.
        refused.iter().try_for_each(|chain| self.give_back(queue, &[*chain]))
    }

    fn give_back(&self, queue: &mut Queue, used: &[Used]) -> Result<(), Error> {
        if publish(queue, &self.memory, used)? {
            self.interrupts.signal(Source::Queue(self.index));
        }
        Ok(())
    }
}

impl Worker {
    /// Waits for another request, as long as it is worth while.
    fn another_comes(&self, queue: &Queue, moderation: &mut Moderation) -> Result<bool, Error> {
        let Some(patience) = moderation.patience() else { return Ok(false) };
        let begun = Instant::now();
        let mut found = false;
        while !found && begun.elapsed() < patience && !self.desk.is_urgent() {
            hint::spin_loop();
            found = queue.avail_idx(&self.memory, Ordering::Acquire)?.0 != queue.next_avail();
        }
        moderation.waited(found);
        Ok(found)
    }

    /// Tells the driver of requests that are done, if it wants to know.
    fn tell(&self, queue: &mut Queue, moderation: &mut Moderation) -> Result<(), Error> {
        if !moderation.has_untold() {
            return Ok(());
        }
        if queue.needs_notification(&self.memory)? {
            moderation.told(Instant::now());
            self.interrupts.signal(Source::Queue(self.index));
        } else {
            moderation.not_wanted();
        }
        Ok(())
    }
}

#[cfg(feature = "fuzzing")]
impl Worker {
    /// Serves on this thread what a driver has put into queue `index` of `device`; whether
    /// the ring made sense.
    pub fn once(
        device: Arc<dyn Device>,
        index: usize,
        (memory, queue, features): (Memory, Queue, u64),
        vectors: Box<dyn crate::irq::Vectors>,
    ) -> io::Result<bool> {
        let interrupts = Arc::new(Interrupts::new(vectors, device.queues().len()));
        let desk = Arc::new(Desk::new(None)?);
        device.begin(index, features);
        let worker = Self { device, index, desk, interrupts, trouble: Arc::default(), memory };
        Ok(worker.serve(&mut Ready { queue, features }, &mut Kept::default()).is_ok())
    }
}

/// Why a worker has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// The queue is empty: the driver will notify.
    Empty,
    /// The device has nothing for the next request.
    Later,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.ended();
    }
}

#[cfg(test)]
mod tests;
