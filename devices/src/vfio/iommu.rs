//! Groups attached to the machine's IOMMU domain, with guest RAM mapped.
//!
//! "RAM is mapped" is a fact of the domain and kept nowhere else: the domain
//! lives while a group is attached to it, and a failed first attempt leaves
//! none behind. The first group to attach makes a domain and pays for pinning
//! all guest RAM; later groups find it mapped.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use vfio_ioctls::{VfioContainer, VfioError};

use crate::memory::RamRange;
use crate::vfio::counters::Counter;
use crate::vfio::sys::dma;
use crate::vfio::sys::group::{Group, set_type1};

/// RAM is mapped in pieces of this size: progress can be seen, and a failure
/// stops the rest. 65,535 mappings of it are 8 TiB.
const PIECE: u64 = 128 << 20;
/// Threads that fault RAM in; more than a few only contend.
const MOST_THREADS: usize = 4;

/// Told of groups that come and go: the hypervisor wants to know which devices
/// its guest may reach (cache coherency, interrupt posting).
pub trait GroupWatch: Send + Sync {
    /// `group` has joined the domain.
    fn attached(&self, group: BorrowedFd<'_>) -> io::Result<()>;

    /// `group` is about to leave.
    fn detaching(&self, group: BorrowedFd<'_>);
}

/// Why a group could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// `/dev/vfio/<group>` did not open.
    #[error("cannot open /dev/vfio/{0}")]
    Open(u32, #[source] io::Error),
    /// Somebody else has the group.
    #[error("VFIO group {0} is in use; stop the process that has /dev/vfio/{0} open")]
    Busy(u32),
    /// A function of the group is bound to a host driver.
    #[error("IOMMU group {0} has functions that are not bound to vfio-pci; bind all of them")]
    NotViable(u32),
    /// No container.
    #[error("cannot open /dev/vfio/vfio; load the module vfio_iommu_type1")]
    Container(#[source] VfioError),
    /// A step that the kernel refused.
    #[error("cannot {1} VFIO group {0}")]
    Join(u32, &'static str, #[source] io::Error),
    /// Guest RAM could not be pinned and mapped.
    #[error(
        "cannot pin {size} bytes of guest RAM at {guest:#x} for DMA; \
         if the lock limit is the cause, raise it (ulimit -l, LimitMEMLOCK=) above the guest's RAM"
    )]
    Map {
        /// Guest-physical address of the piece.
        guest: u64,
        /// Its bytes.
        size: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The IOMMU does not isolate interrupts.
    #[error(
        "the IOMMU of VFIO group {0} does not remap interrupts, so a device could forge them; \
         switch interrupt remapping on in the firmware, or accept the risk with the option \
         allow_unsafe_interrupts=1 of the module vfio_iommu_type1"
    )]
    Unsafe(u32),
    /// The machine is going away.
    #[error("the machine is stopping")]
    Cancelled,
}

/// One machine's view of the host's IOMMU.
pub struct Iommu {
    ram: Vec<RamRange>,
    watch: Arc<dyn GroupWatch>,
    domain: Mutex<Weak<Domain>>,
    pieces_mapped: Counter,
    cancelled: AtomicBool,
}

/// A container with a type 1 domain in which all guest RAM is mapped.
struct Domain {
    container: VfioContainer,
    groups: Mutex<BTreeMap<u32, Weak<Attachment>>>,
}

/// A group in the domain; dropping the last reference takes it out.
///
/// Fields are in teardown order: the group closes, then perhaps the domain.
pub struct Attachment {
    group: Group,
    number: u32,
    watch: Arc<dyn GroupWatch>,
    /// Kept for as long as the group is in it, and never looked at.
    _domain: Arc<dyn Any + Send + Sync>,
}

impl Iommu {
    /// For a machine with this RAM. Nothing is opened yet.
    pub fn new(ram: Vec<RamRange>, watch: Arc<dyn GroupWatch>) -> Self {
        let (domain, pieces_mapped) = (Mutex::default(), Counter::default());
        Self { ram, watch, domain, pieces_mapped, cancelled: AtomicBool::new(false) }
    }

    /// Makes attaching that is under way, and all that comes, fail soon: the
    /// machine is going away.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Attaches group `number`, or shares it when it is attached already. May
    /// take seconds: call it from a worker.
    pub fn attach(&self, number: u32) -> Result<Arc<Attachment>, AttachError> {
        let mut known = lock(&self.domain);
        let domain = known.upgrade();
        let shared = domain.as_ref().and_then(|d| lock(&d.groups).get(&number)?.upgrade());
        if let Some(attachment) = shared {
            return Ok(attachment);
        }
        let group = open(number)?;
        let domain = match domain {
            Some(domain) => {
                join(&group, number, &domain.container)?;
                domain
            }
            None => Arc::new(self.new_domain(&group, number)?),
        };
        let watched = self.watch.attached(group.as_fd());
        watched.map_err(|e| AttachError::Join(number, "tell the hypervisor of", e))?;
        let watch = Arc::clone(&self.watch);
        let attachment = Arc::new(Attachment { group, number, watch, _domain: domain.clone() });
        lock(&domain.groups).insert(number, Arc::downgrade(&attachment));
        *known = Arc::downgrade(&domain);
        Ok(attachment)
    }

    /// Pieces of guest RAM mapped since the start, over all domains.
    pub fn pieces_mapped(&self) -> u64 {
        self.pieces_mapped.get()
    }

    fn new_domain(&self, group: &Group, number: u32) -> Result<Domain, AttachError> {
        let container = VfioContainer::new(None).map_err(AttachError::Container)?;
        join(group, number, &container)?;
        set_type1(&container).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => AttachError::Unsafe(number),
            _ => AttachError::Join(number, "make an IOMMU domain for", error),
        })?;
        self.map_ram(&container)?;
        Ok(Domain { container, groups: Mutex::default() })
    }

    /// Faults in and maps all RAM, with several threads; the first failure stops
    /// them all.
    fn map_ram(&self, container: &VfioContainer) -> Result<(), AttachError> {
        let pieces: Vec<RamRange> = self.ram.iter().flat_map(split).collect();
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.map_piece(container, piece) {
                    Ok(()) => self.pieces_mapped.bump(),
                    Err(error) => {
                        next.store(pieces.len(), Ordering::Relaxed);
                        lock(&failure).get_or_insert(error);
                    }
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        thread::scope(|scope| {
            for _ in 1..threads.min(MOST_THREADS).min(pieces.len()) {
                let name = "populate".to_owned();
                // Without a helper thread this one does all the work.
                let _ = thread::Builder::new().name(name).spawn_scoped(scope, work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn map_piece(&self, container: &VfioContainer, piece: &RamRange) -> Result<(), AttachError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(AttachError::Cancelled);
        }
        // A kernel without MADV_POPULATE_WRITE (before 5.14) faults pages in while it pins them.
        if let Err(error) = dma::populate(piece) {
            log::debug!("cannot fault guest RAM in beforehand: {error}");
        }
        dma::map(container, piece).map_err(|source| {
            let (guest, size) = (piece.guest, piece.size);
            AttachError::Map { guest, size, source }
        })
    }
}

impl Attachment {
    /// The group, to open functions from.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Number of the group on the host.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.watch.detaching(self.group.as_fd());
    }
}

fn open(number: u32) -> Result<Group, AttachError> {
    let group = Group::open(number).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => AttachError::Busy(number),
        _ => AttachError::Open(number, error),
    })?;
    let viable = group.is_viable().map_err(|e| AttachError::Join(number, "examine", e))?;
    if viable { Ok(group) } else { Err(AttachError::NotViable(number)) }
}

fn join(group: &Group, number: u32, container: &VfioContainer) -> Result<(), AttachError> {
    group.join(container).map_err(|e| AttachError::Join(number, "attach", e))
}

/// Cuts a range into pieces.
fn split(range: &RamRange) -> Vec<RamRange> {
    let piece = |start: u64| {
        let host = usize::try_from(start).ok().map(|start| {
            let address = range.host.addr().checked_add(start);
            address.map_or(range.host, |address| range.host.with_addr(address))
        });
        let size = PIECE.min(range.size - start);
        RamRange { guest: range.guest + start, size, host: host.unwrap_or(range.host) }
    };
    (0..range.size.div_ceil(PIECE)).map(|index| piece(index * PIECE)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group of no device, for tests of what holds one.
#[cfg(test)]
pub(crate) fn fake(number: u32) -> Arc<Attachment> {
    struct Nobody;
    impl GroupWatch for Nobody {
        fn attached(&self, _group: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }

        fn detaching(&self, _group: BorrowedFd<'_>) {}
    }
    let (group, watch) = (Group::fake(), Arc::new(Nobody));
    Arc::new(Attachment { group, number, watch, _domain: Arc::new(()) })
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    #[test]
    fn pieces_cover_a_range_without_gap_or_overlap() {
        let host = NonNull::without_provenance(0x10_0000_0000_usize.try_into().unwrap());
        let range = RamRange { guest: 1 << 32, size: 2 * PIECE + 0x1000, host };

        let pieces = split(&range);

        let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
        assert_eq!(sizes, [PIECE, PIECE, 0x1000]);
        assert_eq!(pieces[2].guest, (1 << 32) + 2 * PIECE);
        assert_eq!(pieces[2].host.addr().get() as u64, 0x10_0000_0000 + 2 * PIECE);
    }
}
