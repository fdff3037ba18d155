//! Guest RAM that is faulted in before it is needed: at boot, in the background, or
//! for the first device, which has all of it pinned.
//!
//! RAM is warmed in small steps, so that whoever needs the process's memory map in
//! between (a vCPU that faults, a thread that starts) gets it after milliseconds,
//! and a wish to give up is heard. What is warm is remembered: nobody does it twice.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use devices::memory::{self, RamRange};

use super::ram::{self, Memory};
use crate::priority;

/// Bytes faulted in at once: the size of a huge page that the kernel may take.
const STEP: u64 = 2 << 20;

/// A machine's RAM, and what of it is known to be warm. Keeps the RAM mapped.
pub struct Warmth {
    _memory: Memory,
    pieces: Vec<Piece>,
    total: u64,
    warm: AtomicU64,
    /// Callers that somebody waits for; the background lets them go first.
    urgent: Mutex<usize>,
    changed: Condvar,
    stopped: AtomicBool,
}

/// RAM without a hole, and which of its steps are warm.
struct Piece {
    range: RamRange,
    warm: Vec<AtomicBool>,
}

/// How much is warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Bytes that hotbay has faulted in.
    pub warm: u64,
    /// Bytes there are.
    pub total: u64,
}

impl Warmth {
    /// All of `memory`, cold.
    pub fn new(memory: &Memory) -> Self {
        let piece = |range: RamRange| {
            let steps = 0..range.size.div_ceil(STEP);
            Piece { range, warm: steps.map(|_| AtomicBool::new(false)).collect() }
        };
        let pieces: Vec<_> = ram::ranges(memory).map(piece).collect();
        let total = pieces.iter().map(|piece| piece.range.size).sum();
        Self {
            _memory: memory.clone(),
            pieces,
            total,
            warm: AtomicU64::new(0),
            urgent: Mutex::new(0),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// How much is warm by now.
    pub fn level(&self) -> Level {
        Level { warm: self.warm.load(Ordering::Relaxed), total: self.total }
    }

    /// Ends warming that is under way, and all that comes: the machine is going away.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // With the lock, so that nobody is between looking and waiting.
        let _urgent = lock(&self.urgent);
        self.changed.notify_all();
    }

    /// Warms what is still cold, and steps back while somebody is in a hurry. Call
    /// it from a thread of low priority. Returns early when the machine goes away.
    pub fn warm_in_background(&self) -> io::Result<()> {
        let stop = || {
            let mut urgent = lock(&self.urgent);
            while *urgent > 0 && !self.is_stopped() {
                urgent = self.changed.wait(urgent).unwrap_or_else(PoisonError::into_inner);
            }
            self.is_stopped()
        };
        self.pieces.iter().try_for_each(|piece| piece.warm(0..piece.warm.len(), self, &stop))
    }

    /// Warms all of it at once, as somebody waits for it. Returns early when the
    /// machine goes away.
    pub fn warm_now(&self) -> io::Result<()> {
        let _hurry = self.hurry();
        let stop = || self.is_stopped();
        self.pieces.iter().try_for_each(|piece| piece.warm(0..piece.warm.len(), self, &stop))
    }

    /// Some of these bytes are cold again.
    pub(super) fn cools(&self, guest: u64, size: u64) {
        let holds = |piece: &&Piece| {
            piece.range.guest <= guest && guest - piece.range.guest < piece.range.size
        };
        let Some(piece) = self.pieces.iter().find(holds) else { return };
        for step in piece.steps(&RamRange { guest, size, ..piece.range }) {
            if piece.warm[step].swap(false, Ordering::Relaxed) {
                let cold = STEP.min(piece.range.size - step as u64 * STEP);
                self.warm.fetch_sub(cold, Ordering::Relaxed);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Keeps the background back until dropped.
    fn hurry(&self) -> Hurry<'_> {
        *lock(&self.urgent) += 1;
        Hurry(self)
    }
}

impl memory::Warmth for Warmth {
    fn warm(&self, range: &RamRange, give_up: &dyn Fn() -> bool) -> io::Result<()> {
        let _hurry = self.hurry();
        let stop = || self.is_stopped() || give_up();
        let whole = self.pieces.iter().find(|piece| piece.holds(range));
        // Only RAM is warmed, and a piece of it lies in one of ours.
        whole.map_or(Ok(()), |piece| piece.warm(piece.steps(range), self, &stop))
    }

    fn step_back(&self) {
        priority::step_back();
    }
}

impl Piece {
    fn holds(&self, range: &RamRange) -> bool {
        let end = self.range.guest + self.range.size;
        (self.range.guest..end).contains(&range.guest)
    }

    fn steps(&self, range: &RamRange) -> Range<usize> {
        let first = range.guest - self.range.guest;
        let number = |step: u64| usize::try_from(step).unwrap_or(usize::MAX);
        let end = number((first + range.size).div_ceil(STEP)).min(self.warm.len());
        number(first / STEP)..end
    }

    /// Warms these steps, until `stop` says so.
    fn warm(&self, steps: Range<usize>, all: &Warmth, stop: &dyn Fn() -> bool) -> io::Result<()> {
        for (step, warm) in steps.clone().zip(&self.warm[steps]) {
            if stop() {
                return Ok(());
            }
            if warm.load(Ordering::Relaxed) {
                continue;
            }
            let start = step as u64 * STEP;
            let size = STEP.min(self.range.size - start);
            ram::populate(&self.range, start, size)?;
            if !warm.swap(true, Ordering::Relaxed) {
                all.warm.fetch_add(size, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Somebody waits for warm RAM.
struct Hurry<'a>(&'a Warmth);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        *lock(&self.0.urgent) -= 1;
        self.0.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
