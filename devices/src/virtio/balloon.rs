//! A balloon (virtio 1.2, 5.5): pages that the guest does without are the host's until it
//! wants them back.
//!
//! ```text
//! target (the host's wish) -> the driver puts pages in (inflate) or takes some out (deflate)
//!                          -> actual (what it has come to)
//! ```
//! With reporting, the driver names pages as well that happen to be free; those it may use again
//! without a word. Where pages are given back to is the machine's to know ([`Surplus`]), and
//! whether they can be.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::memory::Surplus;
use crate::virtio::chain::Buffers;
use crate::virtio::{Device, Identity, Served};

/// The driver may take pages out by itself (5.5.3).
const DEFLATE_ON_OOM: u32 = 2;
/// There is a queue for pages that are free.
const REPORTING: u32 = 5;

/// Device type 5, of no PCI class.
const IDENTITY: Identity = Identity { kind: 5, class: 0xff_0000 };
/// Entries of each queue: pages that go in, pages that come out, and those that are reported.
const ENTRIES: &[u16] = &[128; 3];
/// Numbers of the first and the last.
const INFLATE: usize = 0;
const REPORT: usize = 2;

/// A balloon's unit, whatever the guest's pages are (5.5.6).
pub const PAGE: u64 = 4096;
/// Most pages of one request; Linux puts 256 in one.
const MOST: usize = 16 << 10;
/// Where the driver writes how many pages it has put in (5.5.4).
const ACTUAL_AT: u64 = 4;

/// What a driver may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// It may take pages out when the guest has no others.
    pub deflate_on_oom: bool,
    /// It may name pages that are free.
    pub reporting: bool,
}

/// The device.
pub struct Balloon {
    surplus: Arc<dyn Surplus>,
    choices: Choices,
    name: String,
    target: AtomicU32,
    actual: AtomicU32,
    given: AtomicU64,
    kept: AtomicU64,
    failures: AtomicU64,
}

impl Balloon {
    /// An empty one, to be filled with `target` pages; `name` is for the log.
    pub fn new(surplus: Arc<dyn Surplus>, choices: Choices, target: u32, name: String) -> Self {
        Self {
            surplus,
            choices,
            name,
            target: AtomicU32::new(target),
            actual: AtomicU32::new(0),
            given: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Wants so many pages in it. The driver is yet to be told.
    pub fn set_target(&self, pages: u32) {
        self.target.store(pages, Ordering::SeqCst);
    }

    /// How many pages are to be in it.
    pub fn target(&self) -> u32 {
        self.target.load(Ordering::SeqCst)
    }

    /// How many the driver says are in it.
    pub fn actual(&self) -> u32 {
        self.actual.load(Ordering::SeqCst)
    }

    /// Pages that the driver names by number.
    fn inflate(&self, request: &Buffers<'_>) {
        let Some(length) = usize::try_from(request.readable.len()).ok().filter(|n| *n <= 4 * MOST)
        else {
            return self.failed(&"the list of pages is too long");
        };
        let mut bytes = vec![0; length - length % 4];
        if request.readable.read(&mut bytes).is_err() {
            return self.failed(&"the list of pages is not in the RAM");
        }
        let number = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
        let mut pages: Vec<u64> = bytes.as_chunks().0.iter().map(number).collect();
        pages.sort_unstable();
        // Linux takes them as they come; next to each other they are one call.
        for run in pages.chunk_by(|page, next| *next == *page + 1) {
            let first = run.first().copied().unwrap_or_default();
            self.give_back(first * PAGE, run.len() as u64 * PAGE);
        }
    }

    /// Pages that are the buffers themselves.
    fn report(&self, request: &Buffers<'_>) {
        for (address, length) in request.writable.ranges() {
            let whole = address.is_multiple_of(PAGE) && length.is_multiple_of(PAGE);
            match whole && length > 0 {
                true => self.give_back(address, length),
                false => self.failed(&"a range that is reported is not made of pages"),
            }
        }
    }

    fn give_back(&self, address: u64, size: u64) {
        match self.surplus.give_back(address, size) {
            Ok(true) => drop(self.given.fetch_add(size, Ordering::Relaxed)),
            Ok(false) => drop(self.kept.fetch_add(size, Ordering::Relaxed)),
            Err(error) => self.failed(&error),
        }
    }

    /// A guest can cause as many failures as it likes, so it is told when they have doubled.
    fn failed(&self, why: &dyn std::fmt::Display) {
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            log::warn!("{}: pages were not given back, {count} times so far: {why}", self.name);
        }
    }
}

impl Device for Balloon {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        let Choices { deflate_on_oom, reporting } = self.choices;
        u64::from(deflate_on_oom) << DEFLATE_ON_OOM | u64::from(reporting) << REPORTING
    }

    fn queues(&self) -> &[u16] {
        // Without the last one, if it has no use: queues are numbered without a gap.
        if self.choices.reporting { ENTRIES } else { &ENTRIES[..REPORT] }
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        [self.target(), self.actual()].map(u32::to_le_bytes).concat().into()
    }

    fn configure(&self, offset: u64, data: &[u8]) {
        // The driver writes the whole of it (5.5.6.1).
        if let (ACTUAL_AT, Ok(actual)) = (offset, data.try_into()) {
            self.actual.store(u32::from_le_bytes(actual), Ordering::SeqCst);
        }
    }

    fn forget(&self) {
        self.actual.store(0, Ordering::SeqCst);
    }

    fn serve(&self, queue: usize, _features: u64, request: &Buffers<'_>) -> Served {
        match queue {
            INFLATE => self.inflate(request),
            REPORT => self.report(request),
            // What comes out is the guest's again when it touches it.
            _ => {}
        }
        Served::Filled(0)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("given_back_bytes", &self.given),
            ("kept_bytes", &self.kept),
            ("refused_requests", &self.failures),
        ];
        let mut counters: Vec<_> =
            all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect();
        counters.push(("balloon_bytes", u64::from(self.actual()) * PAGE));
        counters
    }
}

#[cfg(test)]
mod tests;
