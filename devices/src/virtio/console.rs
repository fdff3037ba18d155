//! A paravirtual console (virtio 1.2, 5.3) of one port, `hvc0` in Linux. What it is connected to is [`crate::console`]'s.
//!
//! ```text
//! guest ── transmit queue ── worker ──> Output, never blocking
//! guest <── receive queue ── worker <── input <── Console, on the event loop
//! ```
//! Input waits here until the guest has a buffer for it, and no more is taken from whoever
//! types than that. A reset forgets it, as a serial port's does.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::console::{Output, Port};
use crate::virtio::chain::{Buffers, Malformed};
use crate::virtio::{Device, Identity, Served};

/// Device type 3, a communication device of no further kind.
const IDENTITY: Identity = Identity { kind: 3, class: 0x07_8000 };
/// Entries of both queues (5.3.2): what the guest receives, and what it sends.
const ENTRIES: &[u16] = &[64; 2];
/// Number of the first.
const RECEIVE: usize = 0;

/// Most input that waits for the guest.
const INPUT: usize = 4096;
/// Most output of one request; Linux sends a page or less.
const MOST: u64 = 1 << 20;
/// Bytes of output that go on at a time.
const PIECE: usize = 4096;

/// The device, and the guest's half of the console.
pub struct Console {
    input: Mutex<Input>,
    /// The reading end of what tells of input.
    arrived: PipeReader,
    /// Written whenever the guest has taken all input there was.
    drained: EventFd,
    output: Mutex<Output>,
    received: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
}

/// What was typed and waits for a buffer.
struct Input {
    bytes: VecDeque<u8>,
    /// Has one byte in it while there is input, and never more, so that nobody waits for it.
    tell: PipeWriter,
    /// It has that byte.
    told: bool,
}

impl Console {
    /// One that is connected to nothing yet.
    ///
    /// # Errors
    /// The host has no descriptor.
    pub fn new() -> io::Result<Self> {
        let (arrived, tell) = io::pipe()?;
        Ok(Self {
            input: Mutex::new(Input { bytes: VecDeque::with_capacity(INPUT), tell, told: false }),
            arrived,
            drained: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            output: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Fills a buffer with the input there is.
    fn fill(&self, request: &Buffers<'_>) -> Served {
        let mut input = self.input();
        if input.bytes.is_empty() {
            return Served::Later;
        }
        let room = usize::try_from(request.writable.len()).unwrap_or(INPUT);
        let count = room.min(input.bytes.len());
        let bytes: Vec<u8> = input.bytes.iter().take(count).copied().collect();
        // What a guest wants in no RAM, or in no room, still waits for its next buffer.
        if count == 0 || request.writable.write(&bytes).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Served::Filled(0);
        }
        input.bytes.drain(..count);
        self.settle(&mut input);
        self.received.fetch_add(count as u64, Ordering::Relaxed);
        Served::Filled(u32::try_from(count).unwrap_or(0))
    }

    /// Sends what is in a buffer.
    fn send(&self, request: &Buffers<'_>) -> Result<u64, Malformed> {
        let length = request.readable.len();
        if length > MOST {
            return Err(Malformed::Endless);
        }
        let mut piece = [0; PIECE];
        let mut at = 0;
        while at < length {
            let end = length.min(at + PIECE as u64);
            let count = usize::try_from(end - at).unwrap_or(PIECE);
            let bytes = piece.get_mut(..count).ok_or(Malformed::Short)?;
            request.readable.part(at, end)?.read(bytes)?;
            // It never fails, and never waits.
            let _ = self.output().write(bytes);
            at = end;
        }
        Ok(length)
    }

    /// To be called when input may be at its end: whoever has more is told, and the guest's worker is not.
    fn settle(&self, input: &mut Input) {
        if input.bytes.is_empty() {
            if input.told {
                input.told = (&self.arrived).read(&mut [0]).is_err();
            }
            // It fails only at 2^64 - 1 events that nobody has taken.
            let _ = self.drained.write(1);
        }
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port for Console {
    fn drained(&self) -> &EventFd {
        &self.drained
    }

    fn room(&self) -> usize {
        INPUT.saturating_sub(self.input().bytes.len())
    }

    fn receive(&self, typed: &[u8]) {
        let mut input = self.input();
        if !input.told && !typed.is_empty() {
            // Should it fail, input waits until the guest's driver has something to say.
            input.told = input.tell.write(&[1]).is_ok();
        }
        input.bytes.extend(typed);
    }

    fn with_output(&self, act: &mut dyn FnMut(&mut Output)) {
        act(&mut self.output());
    }
}

impl Device for Console {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        // One port, of a size that nobody says.
        0
    }

    fn queues(&self) -> &[u16] {
        ENTRIES
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn forget(&self) {
        let mut input = self.input();
        if !input.bytes.is_empty() {
            input.bytes.clear();
            self.settle(&mut input);
        }
    }

    fn source(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        (queue == RECEIVE).then(|| self.arrived.as_fd())
    }

    fn serve(&self, queue: usize, _features: u64, request: &Buffers<'_>) -> Served {
        if queue == RECEIVE {
            return self.fill(request);
        }
        match self.send(request) {
            Ok(count) => self.sent.fetch_add(count, Ordering::Relaxed),
            Err(_) => self.refused.fetch_add(1, Ordering::Relaxed),
        };
        Served::Filled(0)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("read_bytes", &self.received),
            ("written_bytes", &self.sent),
            ("refused_requests", &self.refused),
        ];
        all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests;
