//! A disk (virtio 1.2, 5.2): requests of a guest's driver, done to an image or a
//! block device of the host.
//!
//! What the host fails is an I/O error to the guest, and counted and logged here; what
//! the driver gets wrong is one too, and only counted.

mod request;
mod store;
mod sys;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};

use crate::virtio::chain::Buffers;
use crate::virtio::{Device, Identity, Served};
use request::Status;
pub use store::{Access, Format, OpenError, Store};

/// Bytes of a sector, the unit of positions and of the capacity, whatever the block size.
pub const SECTOR: u64 = 512;
/// Longest serial number.
pub const SERIAL: usize = VIRTIO_BLK_ID_BYTES as usize;

const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

/// Device type 2, a mass storage controller of no further kind.
const IDENTITY: Identity = Identity { kind: 2, class: 0x01_8000 };

/// Most sectors of a discard, which the host does without writing: 2 GiB.
const MOST_DISCARDED: u32 = 1 << 22;
/// Most sectors of a write of zeros, which the host may have to write: 32 MiB.
const MOST_ZEROED: u32 = 1 << 16;
/// Most ranges in a request of either.
const MOST_RANGES: u32 = 32;

/// A disk.
pub struct Disk {
    store: Store,
    name: String,
    serial: [u8; SERIAL],
    queues: Box<[u16]>,
    configuration: Box<[u8]>,
    counts: Counts,
}

/// What it has done so far.
#[derive(Default)]
struct Counts {
    read_ops: AtomicU64,
    read_bytes: AtomicU64,
    write_ops: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
    /// Requests that the host has failed.
    io_errors: AtomicU64,
    /// Requests that the driver should not have made.
    refused: AtomicU64,
}

impl Disk {
    /// A disk with as many queues as there are `sizes`, each the most entries of one.
    /// `name` is for the log; of `serial` the first [`SERIAL`] bytes count.
    pub fn new(store: Store, name: String, serial: &str, sizes: &[u16]) -> Self {
        let mut number = [0; SERIAL];
        number.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        let configuration = configuration(&store, sizes);
        let (serial, queues) = (number, sizes.into());
        Self { store, name, serial, queues, configuration, counts: Counts::default() }
    }

    /// Opens `path` for one.
    ///
    /// # Errors
    /// [`Store::open`]'s.
    pub fn open(path: &Path, access: Access) -> Result<Store, OpenError> {
        Store::open(path, access)
    }

    /// The host has failed a request. A guest can cause as many as it likes, so it is
    /// told when they have doubled.
    fn failed(&self, what: &str, error: &dyn fmt::Display) {
        let count = self.counts.io_errors.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            log::error!("disk {}: {what} has failed, {count} errors so far: {error}", self.name);
        }
    }
}

/// `virtio_blk_config` (5.2.4); fields of features that are not offered are zero.
fn configuration(store: &Store, sizes: &[u16]) -> Box<[u8]> {
    let mut bytes = vec![0; 60];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &store.sectors().to_le_bytes());
    // A request has two more: its header and its status.
    let segments = sizes.iter().copied().min().unwrap_or(0).saturating_sub(2).max(1);
    put(12, &u32::from(segments).to_le_bytes());
    put(20, &store.block_size().to_le_bytes());
    put(34, &u16::try_from(sizes.len()).unwrap_or(u16::MAX).to_le_bytes());
    let alignment = store.block_size() / 512;
    let numbers =
        [MOST_DISCARDED, MOST_RANGES, alignment, MOST_ZEROED, MOST_RANGES, 1 /* may unmap */];
    for (at, number) in (36..).step_by(4).zip(numbers) {
        put(at, &number.to_le_bytes());
    }
    bytes.into()
}

impl Disk {
    /// Does a request; how many bytes have been filled.
    fn fulfil(&self, features: u64, request: &Buffers<'_>) -> u32 {
        // The status is the last byte that the device may write (5.2.6).
        let Some(end) = request.writable.len().checked_sub(1) else {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return 0;
        };
        let (status, filled) = match self.answer(features, request, end) {
            Ok(filled) => (Status::Ok, filled),
            Err(status) => (status, 0),
        };
        let place = request.writable.part(end, end + 1);
        let written = place.and_then(|place| place.write(&[status.byte()]));
        if written.is_err() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        // The data counts as filled to its end: the status comes after it.
        u32::try_from(if filled > 0 { filled + 1 } else { 1 }).unwrap_or(u32::MAX)
    }
}

impl Device for Disk {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        let bit = |bit: u32| 1 << bit;
        let always = FLUSH | bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE);
        let written = match self.store.is_readonly() {
            true => bit(VIRTIO_BLK_F_RO),
            false => bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES),
        };
        let several = if self.queues.len() > 1 { bit(VIRTIO_BLK_F_MQ) } else { 0 };
        always | written | several
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.configuration)
    }

    fn serve(&self, _queue: usize, features: u64, request: &Buffers<'_>) -> Served {
        Served::Filled(self.fulfil(features, request))
    }

    /// Past the page cache all do, and what is no transfer does anyway.
    fn takes_long(&self, request: &Buffers<'_>) -> bool {
        self.store.is_direct() || !request::is_transfer(request)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let Counts { read_ops, read_bytes, write_ops, write_bytes, flushes, io_errors, refused } =
            &self.counts;
        let all = [
            ("read_ops", read_ops),
            ("read_bytes", read_bytes),
            ("write_ops", write_ops),
            ("write_bytes", write_bytes),
            ("flushes", flushes),
            ("io_errors", io_errors),
            ("refused_requests", refused),
        ];
        all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests;
