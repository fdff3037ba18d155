//! Lets the vCPU threads run, holds them back, and ends them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::arch::x86_64::registers::Entry;

/// What the vCPU threads are to do. Each opening has a number: a thread resets
/// its processor once for each, and a stalled one waits for the next. A gate that
/// is held is still in its opening; let go, the threads go on where they stood.
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
    Held(Entry),
    Ended,
}

/// A permission to run, and which opening it is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) start: Start,
    opening: u64,
}

/// How a processor with a pass begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// After a reset, the first one from here.
    Afresh(Entry),
    /// Where it stood when the gate was held.
    Again,
}

/// How a thread came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It was called, and can go on.
    Called,
    /// It can not go on before it is reset.
    Stalled,
}

/// Whether all threads are out of a gate that is held. It is said once for each
/// hold: to the last thread that leaves, or to who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Held {
    /// They are, from now on.
    AllOut,
    /// Some are still inside, or the gate is not held.
    NotYet,
}

impl Gate {
    /// Waits until a thread that came out as `last` says may run (at first, it has
    /// none); `None` when it is to end. It is inside from then on until it calls
    /// [`Gate::left`].
    pub(super) fn wait(&self, last: Option<(Pass, Left)>) -> Option<Pass> {
        let done = last.map_or(0, |(pass, _)| pass.opening);
        let can_go_on = last.is_some_and(|(_, left)| left == Left::Called);
        let mut state = self.state();
        loop {
            let start = match state.phase {
                Phase::Open(entry) if state.opening > done => Some(Start::Afresh(entry)),
                Phase::Open(_) if can_go_on => Some(Start::Again),
                Phase::Ended => return None,
                Phase::Open(_) | Phase::Held(_) | Phase::Closed => None,
            };
            if let Some(start) = start {
                state.inside += 1;
                return Some(Pass { start, opening: state.opening });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether a thread inside may stay.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state().phase, Phase::Open(_))
    }

    /// A thread is no longer in the guest.
    pub(super) fn left(&self) -> Held {
        let mut state = self.state();
        state.inside -= 1;
        state.held()
    }

    /// Lets the threads in for the next opening; none is inside.
    pub(super) fn open(&self, entry: Entry) {
        let mut state = self.state();
        state.phase = Phase::Open(entry);
        state.opening += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Calls the threads out of an open gate; they can go on later.
    pub(super) fn hold(&self) -> Held {
        let mut state = self.state();
        let Phase::Open(entry) = state.phase else { return Held::NotYet };
        state.phase = Phase::Held(entry);
        state.held()
    }

    /// Lets the threads of a gate that is held go on.
    pub(super) fn let_go(&self) {
        let mut state = self.state();
        let Phase::Held(entry) = state.phase else { return };
        state.phase = Phase::Open(entry);
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        self.state().phase = Phase::Ended;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn held(&self) -> Held {
        match self.phase {
            Phase::Held(_) if self.inside == 0 => Held::AllOut,
            Phase::Held(_) | Phase::Open(_) | Phase::Closed | Phase::Ended => Held::NotYet,
        }
    }
}
