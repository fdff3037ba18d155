//! All guest RAM faulted in and mapped, once, by several threads.
//!
//! The kernel maps for one thread at a time (a container has one lock), but lets
//! others fault pages in meanwhile. So each thread takes a piece, makes it
//! resident step by step, and maps it: while one maps, the others fault in. They
//! keep processors busy for seconds, so the guest's vCPUs and the API go first.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use vfio_ioctls::VfioContainer;

use super::{AttachError, lock};
use crate::memory::{RamRange, Warmth};
use crate::vfio::counters::Counter;
use crate::vfio::progress::Progress;
use crate::vfio::sys::dma;

/// Bytes of the smallest piece: that much is mapped before a wish to give up is
/// looked at, and shown as progress.
const SMALLEST_PIECE: u64 = 32 << 20;
/// Pieces of very large guests: a container takes 65,535 mappings.
const MOST_PIECES: u64 = 4096;
/// Threads that fault RAM in; more than a few only contend.
const MOST_THREADS: usize = 4;

/// Tells when to give up, by its error.
pub(super) type GoOn<'a> = dyn Fn() -> Result<(), AttachError> + Sync + 'a;

/// RAM on its way into a container.
pub(super) struct Mapping<'a> {
    pieces: Vec<RamRange>,
    container: &'a VfioContainer,
    warmth: &'a dyn Warmth,
    progress: &'a Progress,
    go_on: &'a GoOn<'a>,
    /// The next piece to take.
    next: AtomicUsize,
    mapped: &'a Counter,
    failure: Mutex<Option<AttachError>>,
}

impl<'a> Mapping<'a> {
    /// All of `ram`, into `container`.
    pub(super) fn new(
        ram: &[RamRange],
        container: &'a VfioContainer,
        warmth: &'a dyn Warmth,
        (progress, mapped, go_on): (&'a Progress, &'a Counter, &'a GoOn<'a>),
    ) -> Self {
        let total = ram.iter().map(|range| range.size).sum();
        progress.map(total);
        let pieces = ram.iter().flat_map(|range| split(range, piece_size(total))).collect();
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        Self { pieces, container, warmth, progress, go_on, next, mapped, failure }
    }

    /// Maps all pieces with this many threads, or as many as make sense on this host,
    /// for which the calling one waits. The first failure stops them all.
    pub(super) fn run(&self, threads: Option<usize>) -> Result<(), AttachError> {
        let sensible = || {
            let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
            processors.min(MOST_THREADS)
        };
        let threads = threads.unwrap_or_else(sensible).min(self.pieces.len());
        thread::scope(|scope| {
            let help = || {
                self.warmth.step_back();
                self.work();
            };
            let start =
                |_| thread::Builder::new().name("populate".into()).spawn_scoped(scope, help);
            let helpers = (0..threads).filter_map(|number| start(number).ok()).count();
            if helpers == 0 {
                // A host without room for a thread: this one, which steps back from nothing,
                // has more to do later.
                self.work();
            }
        });
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().map_or(Ok(()), Err)
    }

    fn work(&self) {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = self.map(piece) {
                self.next.store(self.pieces.len(), Ordering::Relaxed);
                lock(&self.failure).get_or_insert(error);
            }
        }
    }

    fn map(&self, piece: &RamRange) -> Result<(), AttachError> {
        let give_up = || (self.go_on)().is_err() || lock(&self.failure).is_some();
        // A kernel that cannot (before 5.14) faults pages in while it pins them.
        if let Err(error) = self.warmth.warm(piece, &give_up) {
            log::debug!("cannot fault guest RAM in beforehand: {error}");
        }
        (self.go_on)()?;
        dma::map(self.container, piece).map_err(|source| {
            let (guest, size) = (piece.guest, piece.size);
            AttachError::Map { guest, size, source }
        })?;
        self.progress.mapped(piece.size);
        self.mapped.bump();
        Ok(())
    }
}

/// Bytes of the pieces of a guest with `total` bytes.
fn piece_size(total: u64) -> u64 {
    (total / MOST_PIECES).next_power_of_two().max(SMALLEST_PIECE)
}

/// Cuts a range into pieces of `unit` bytes.
fn split(range: &RamRange, unit: u64) -> Vec<RamRange> {
    let piece = |start: u64| {
        let host = usize::try_from(start).ok().map(|start| {
            let address = range.host.addr().checked_add(start);
            address.map_or(range.host, |address| range.host.with_addr(address))
        });
        let size = unit.min(range.size - start);
        RamRange { guest: range.guest + start, size, host: host.unwrap_or(range.host) }
    };
    (0..range.size.div_ceil(unit)).map(|index| piece(index * unit)).collect()
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn pieces_cover_a_range_without_gap_or_overlap() {
        let host = NonNull::without_provenance(0x10_0000_0000_usize.try_into().unwrap());
        let unit = piece_size(GIB);
        let range = RamRange { guest: 1 << 32, size: 2 * unit + 0x1000, host };

        let pieces = split(&range, unit);

        let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
        assert_eq!(sizes, [unit, unit, 0x1000]);
        assert_eq!(pieces[2].guest, (1 << 32) + 2 * unit);
        assert_eq!(pieces[2].host.addr().get() as u64, 0x10_0000_0000 + 2 * unit);
    }

    #[test]
    fn pieces_are_small_and_never_too_many_for_a_container() {
        assert_eq!(piece_size(GIB), SMALLEST_PIECE);
        for total in [100 * GIB, 1024 * GIB, 12 * 1024 * GIB] {
            assert!(total / piece_size(total) <= MOST_PIECES);
        }
    }
}
