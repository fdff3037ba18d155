//! Interrupts, seen from the device's side: ports that the machine implements.

mod sys;
#[cfg(any(test, feature = "fuzzing"))]
pub mod testing;

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

pub use self::sys::take;

/// Where one message-signalled interrupt goes: the address and data a guest
/// writes in its table (PCI 3.0, 6.8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Guest-physical address of the write that raises the interrupt.
    pub address: u64,
    /// Value of that write.
    pub data: u32,
}

/// What one vector does when its event fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Keep quiet; an event stays pending.
    Masked,
    /// Deliver this message.
    To(Message),
}

/// One vector's new route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Index within the function's own vectors.
    pub vector: u16,
    /// What it does from now on.
    pub route: Route,
}

/// A change that could not be made; its next change is tried afresh.
#[derive(Debug)]
pub struct Unapplied {
    /// Which vector stays silent.
    pub vector: u16,
    /// Why.
    pub error: io::Error,
}

/// How a vector's events reach the guest at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// They do not: the vector is masked, or was never used.
    #[default]
    Detached,
    /// A thread of the machine's sends each as a message.
    Relayed,
    /// They become interrupts without any thread of the machine's.
    Routed,
}

/// What the machine has of one vector; all of it absent or zero before its first use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// How events reach the guest.
    pub way: Way,
    /// Interrupt number that the vector has. It outlives a mask.
    pub number: Option<u32>,
    /// Events that were relayed so far.
    pub relayed: u64,
}

/// Message-signalled vectors lent to one PCI function, all masked at first.
/// Dropping them gives them back.
pub trait Vectors: Send {
    /// How many were lent.
    fn count(&self) -> u16;

    /// Applies all changes, so that a guest that wakes a thousand vectors with
    /// one write costs one kernel call and not a thousand.
    ///
    /// A vector going from masked to a message delivers at once, and exactly
    /// once, what was signalled while it was masked. When a vector has become
    /// masked by the return of this call, nothing more is delivered.
    ///
    /// # Errors
    /// The changes that could not be made; all others were.
    fn apply(&mut self, changes: &[Change]) -> Result<(), Vec<Unapplied>>;

    /// The eventfd that raises `vector` when it is written; made on first use,
    /// then kept: a vCPU that gives a vector up closes nothing.
    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>>;

    /// Whether `vector`, being masked, has been signalled: its Pending bit.
    fn pending(&self, vector: u16) -> bool;

    /// Forgets what `vector`, being masked, has been signalled.
    fn forget(&mut self, vector: u16);

    /// What becomes of `vector`'s events, for people to look at.
    fn delivery(&self, vector: u16) -> Delivery;

    /// Masks every vector and forgets what was pending: nothing signalled before is
    /// delivered after. Eventfds stay, and interrupt numbers too, for a driver that
    /// enables again with the same messages.
    fn reset(&mut self);

    /// [`Vectors::reset`], and the numbers go too: nothing is left of the vectors.
    fn give_back(&mut self);
}

/// A level-triggered interrupt line (PCI INTx) lent to one function.
/// Dropping it disconnects it and lowers the line.
pub trait Line: Send {
    /// Number the guest finds the line under (its global system interrupt).
    fn number(&self) -> u32;

    /// Connects the line and returns its two ends: the device writes the first
    /// eventfd to raise it; the second is written when the guest has
    /// acknowledged, and then the device may raise it again.
    fn connect(&mut self) -> io::Result<LineEnds<'_>>;

    /// Disconnects and lowers the line.
    fn disconnect(&mut self);
}

/// Both ends of a connected [`Line`].
#[derive(Clone, Copy)]
pub struct LineEnds<'a> {
    /// Written by the device to raise the line.
    pub trigger: &'a EventFd,
    /// Written by the interrupt controller when the guest has acknowledged.
    pub resample: &'a EventFd,
}
