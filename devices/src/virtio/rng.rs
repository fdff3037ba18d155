//! A source of random numbers (virtio 1.2, 5.4): buffers are filled from a file of the host's.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::virtio::chain::Buffers;
use crate::virtio::{Device, Identity, Served};

/// Device type 4, of no PCI class.
const IDENTITY: Identity = Identity { kind: 4, class: 0xff_0000 };
/// Entries of its one queue.
const ENTRIES: &[u16] = &[64];
/// Most bytes for one request; a driver that wants more asks again.
const MOST: usize = 4096;

/// The device.
pub struct Rng {
    source: File,
    name: String,
    bytes: AtomicU64,
    failures: AtomicU64,
}

impl Rng {
    /// Takes what `source` has, such as `/dev/urandom`; `name` is for the log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(source: &Path, name: String) -> io::Result<Self> {
        // A source that has nothing at the moment is an error, and keeps no reset waiting.
        let source = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(source)?;
        Ok(Self { source, name, bytes: AtomicU64::new(0), failures: AtomicU64::new(0) })
    }

    /// At least one byte, or an error.
    fn take(&self, data: &mut [u8]) -> io::Result<usize> {
        match (&self.source).read(data)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// Fills the buffer with what there is; how many bytes.
    fn fill(&self, request: &Buffers<'_>) -> u32 {
        let mut data = [0; MOST];
        let room = usize::try_from(request.writable.len()).map_or(MOST, |room| room.min(MOST));
        let Some(wanted) = data.get_mut(..room).filter(|wanted| !wanted.is_empty()) else {
            return 0;
        };
        let count = match self.take(wanted) {
            Ok(count) => count,
            Err(error) => {
                self.failed(&error);
                return 0;
            }
        };
        if request.writable.write(&wanted[..count]).is_err() {
            return 0;
        }
        let filled = u32::try_from(count).unwrap_or(0);
        self.bytes.fetch_add(filled.into(), Ordering::Relaxed);
        filled
    }

    /// A guest can cause as many failures as it likes, so it is told when they have doubled.
    fn failed(&self, error: &io::Error) {
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            log::error!("{}: its source has failed, {count} times so far: {error}", self.name);
        }
    }
}

impl Device for Rng {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        ENTRIES
    }

    fn configuration(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn serve(&self, _queue: usize, _features: u64, request: &Buffers<'_>) -> Served {
        Served::Filled(self.fill(request))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = [("read_bytes", &self.bytes), ("source_errors", &self.failures)];
        all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use virtio_queue::{Queue, QueueOwnedT, QueueT};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::Memory;
    use crate::virtio::testing::*;

    /// Has `rng` serve a buffer of this length; how many bytes it filled.
    fn serve(rng: &Rng, memory: &Memory, (address, length): (u64, u32)) -> u32 {
        describe(memory, (TABLE, 0), (address, length), (WRITE, 0));
        offer(memory, 0, 1, 8);
        let low = |address| Some(u32::try_from(address).unwrap());
        let mut queue = Queue::new(8).unwrap();
        queue.set_desc_table_address(low(TABLE), None);
        queue.set_avail_ring_address(low(AVAILABLE), None);
        queue.set_ready(true);
        let chain = queue.iter(memory).unwrap().next().unwrap();
        rng.fill(&Buffers::collect(memory, chain, 8).unwrap())
    }

    /// The same; the bytes themselves.
    fn ask(rng: &Rng, memory: &Memory, (address, length): (u64, u32)) -> Vec<u8> {
        let filled = serve(rng, memory, (address, length));
        let mut bytes = vec![0; usize::try_from(filled).unwrap()];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn buffers_are_filled_in_order_until_the_source_ends() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"random").unwrap();
        let rng = Rng::open(file.path(), "_rng0".to_owned()).unwrap();
        let memory = memory();

        assert_eq!(ask(&rng, &memory, (0x5000, 4)), b"rand");
        assert_eq!(ask(&rng, &memory, (0x5000, 100)), b"om");
        assert_eq!(ask(&rng, &memory, (0x5000, 100)), b"");

        assert_eq!(rng.counters(), [("read_bytes", 6), ("source_errors", 1)]);
    }

    #[test]
    fn buffers_of_no_bytes_of_many_and_of_no_ram_are_survived() {
        let rng = Rng::open(Path::new("/dev/urandom"), "_rng0".to_owned()).unwrap();
        let memory = memory();

        assert_eq!(ask(&rng, &memory, (0x5000, 0)), b"");
        assert_eq!(ask(&rng, &memory, (0x5000, u32::MAX)).len(), MOST);
        assert_eq!(serve(&rng, &memory, (1 << 40, 16)), 0);
        assert!(Rng::open(Path::new("/nowhere"), String::new()).is_err());
    }
}
