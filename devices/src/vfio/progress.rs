//! How far a device has come on its way in: written by the worker that makes it,
//! read by whoever looks, without a lock. And the wish that the worker give up.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What is being done for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Looking at its driver and its group.
    Checking,
    /// Waiting for its turn, and opening its group.
    Attaching,
    /// Faulting in, pinning and mapping the guest's RAM; only for the first device.
    Mapping,
    /// Opening the function itself, which resets it.
    Opening,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of RAM that are mapped.
    pub done: u64,
    /// Bytes of RAM that will be; zero when none are mapped for this device.
    pub total: u64,
}

/// Shared by a worker and those who look.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Checking, Self::Attaching, Self::Mapping, Self::Opening];
}

impl Progress {
    /// How far it is now.
    pub fn step(&self) -> Step {
        let number = self.phase.load(Ordering::Relaxed);
        let phase = Phase::ALL.into_iter().find(|phase| *phase as u8 == number);
        Step {
            phase: phase.unwrap_or(Phase::Checking),
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }

    /// The worker begins with something else.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The worker begins to map `total` bytes.
    pub fn map(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.enter(Phase::Mapping);
    }

    /// The worker has mapped `bytes` more.
    pub fn mapped(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Asks the worker to give up. It does soon, or has finished before.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it is to give up.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_come_back_as_they_were_entered() {
        let progress = Progress::default();
        for phase in Phase::ALL {
            progress.enter(phase);
            assert_eq!(progress.step(), Step { phase, done: 0, total: 0 });
        }
        progress.map(300);
        progress.mapped(100);
        progress.mapped(100);

        assert_eq!(progress.step(), Step { phase: Phase::Mapping, done: 200, total: 300 });
    }
}
