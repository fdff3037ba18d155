//! What has gone in one direction, and what was lost.

use std::sync::atomic::{AtomicU64, Ordering};

use super::HEADER;
use crate::virtio::Served;

/// The header and the shortest packet: two addresses and a type.
pub(super) const SHORTEST: u64 = HEADER as u64 + 14;

/// Packets of all queues.
#[derive(Default)]
pub(super) struct Count {
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Count {
    /// A packet of `count` bytes, its header among them, has gone.
    pub(super) fn passes(&self, count: usize, served: impl FnOnce(u32) -> Served) -> Served {
        let count = u32::try_from(count).unwrap_or(0);
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(count.saturating_sub(HEADER.into()).into(), Ordering::Relaxed);
        served(count)
    }

    /// A packet is lost.
    pub(super) fn loses_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet is lost, and its buffer with it.
    pub(super) fn drop_one(&self) -> Served {
        self.loses_one();
        Served::Filled(0)
    }
}
