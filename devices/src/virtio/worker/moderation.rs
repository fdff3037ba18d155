//! When a driver is told of requests that are done: interrupt moderation.
//!
//! An interrupt may cost more than a request that the host's page cache answers, most of all on the vCPU that takes it.
//! A driver that keeps several requests under way is told of them together, one that waits for each is told of each at
//! once. How many it keeps under way shows in how many come before it has been told of the first.

use std::time::{Duration, Instant};

/// A request that took longer is told of at once: the next one may take as long.
const QUICK: Duration = Duration::from_micros(100);
/// Most requests that the driver is told of together.
const MOST_TOGETHER: u32 = 16;
/// Longest wait for another request.
const PATIENCE: Duration = Duration::from_micros(500);
/// Most times that no more are waited for than came before, after waits in vain.
const MOST_SKIPPED: u32 = 1024;

/// What is known of one queue's driver. It looks at no clock and no queue.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    /// Requests that are done, and their driver has not been told.
    untold: u32,
    /// How many it seems to keep under way.
    under_way: u32,
    /// How often it is not tried whether those are more: from now on, and after the next try in vain.
    skip: u32,
    backoff: u32,
    /// When the driver was told last, until it has answered by a request.
    told: Option<Instant>,
    /// How long such an answer takes, if it comes soon.
    answer: Option<Duration>,
}

impl Moderation {
    /// A request has come.
    pub(super) fn begun(&mut self, now: Instant) {
        let Some(told) = self.told.take() else { return };
        let answer = now.saturating_duration_since(told);
        self.answer = match self.answer {
            _ if answer > PATIENCE => None,
            Some(before) => Some((before * 3 + answer) / 4),
            None => Some(answer),
        };
    }

    /// A request is done, which took so long; whether the driver is to be told before the next.
    pub(super) fn done(&mut self, took: Duration) -> bool {
        self.untold += 1;
        self.under_way = self.under_way.max(self.untold);
        took > QUICK || self.untold >= MOST_TOGETHER
    }

    /// Whether there is something to tell.
    pub(super) fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// The queue is empty: how long to wait for another request before the driver is told, if at all. As long as it
    /// would take to answer: if one comes, an interrupt is saved, and if none, no more than its time is lost.
    pub(super) fn patience(&mut self) -> Option<Duration> {
        match self.untold {
            0 => None,
            untold if untold < self.under_way => self.answer,
            _ if self.skip == 0 => self.answer,
            _ => {
                self.skip -= 1;
                None
            }
        }
    }

    /// The wait brought another request, or none.
    pub(super) fn waited(&mut self, found: bool) {
        match (found, self.untold < self.under_way) {
            (true, true) => {}
            (true, false) => (self.skip, self.backoff) = (0, 0),
            (false, true) => self.under_way = self.untold,
            (false, false) => {
                self.backoff = (self.backoff * 2).clamp(1, MOST_SKIPPED);
                self.skip = self.backoff;
            }
        }
    }

    /// The driver has been told of all.
    pub(super) fn told(&mut self, now: Instant) {
        self.told = Some(now);
        self.untold = 0;
    }

    /// The driver does not want to be told.
    pub(super) fn not_wanted(&mut self) {
        self.untold = 0;
    }
}

#[cfg(test)]
mod tests;
