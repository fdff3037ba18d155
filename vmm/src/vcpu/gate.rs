//! Lets the vCPU threads run, holds them back, and ends them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::arch::x86_64::registers::Entry;

/// What the vCPU threads are to do. Each opening has a number: a thread resets
/// its processor once for each, and a stalled one waits for the next.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    opening: u64,
    /// Threads between [`Gate::wait`] and the next.
    inside: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Open(Entry),
    Ended,
}

/// A permission to run: where to start, and which opening it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) entry: Entry,
    opening: u64,
}

impl Gate {
    /// Waits for the first opening after the one of `last`; `None` when the
    /// thread is to end. The thread is inside from then on until it calls
    /// [`Gate::left`].
    pub(super) fn wait(&self, last: Option<Pass>) -> Option<Pass> {
        let done = last.map_or(0, |pass| pass.opening);
        let mut state = self.state();
        loop {
            match state.phase {
                Phase::Open(entry) if state.opening > done => {
                    state.inside += 1;
                    return Some(Pass { entry, opening: state.opening });
                }
                Phase::Ended => return None,
                Phase::Open(_) | Phase::Closed => {
                    let waited = self.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Whether a thread inside may stay.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state().phase, Phase::Open(_))
    }

    /// A thread is no longer in the guest.
    pub(super) fn left(&self) {
        self.state().inside -= 1;
        self.changed.notify_all();
    }

    pub(super) fn open(&self, entry: Entry) {
        let mut state = self.state();
        state.phase = Phase::Open(entry);
        state.opening += 1;
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state().phase = Phase::Closed;
    }

    pub(super) fn end(&self) {
        self.state().phase = Phase::Ended;
        self.changed.notify_all();
    }

    /// Returns when no thread is inside.
    pub(super) fn await_parked(&self) {
        let waited = self.changed.wait_while(self.state(), |state| state.inside > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
