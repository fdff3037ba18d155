//! Groups attached to the machine's IOMMU domain, with guest RAM mapped.
//!
//! "RAM is mapped" is a fact of the domain and kept nowhere else: the domain
//! lives while a group is attached to it, and a failed first attempt leaves
//! none behind. The first group to attach makes a domain and pays for pinning
//! all guest RAM; later groups find it mapped.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use vfio_ioctls::{VfioContainer, VfioError};

use crate::memory::{RamRange, Warmth};
use crate::vfio::counters::Counter;
use crate::vfio::progress::{Phase, Progress};
use crate::vfio::sys::dma::Reach;
use crate::vfio::sys::group::{Group, set_type1};

mod limits;
mod mapping;

use mapping::Mapping;

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
    /// The process may not lock so much memory.
    #[error(
        "{needed} bytes of memory are to be locked for the guest's RAM, and the limit is {limit}: \
         raise it to at least that (ulimit -l, LimitMEMLOCK=)"
    )]
    LockLimit {
        /// Bytes of RAM, and what is locked already.
        needed: u64,
        /// Bytes that may be.
        limit: u64,
    },
    /// The IOMMU has too few address bits, or a hole there.
    #[error(
        "the host's IOMMU cannot translate addresses of the guest's RAM ({size} bytes at \
         {guest:#x}): give the VM less RAM"
    )]
    OutOfReach {
        /// Guest-physical address of the piece of RAM.
        guest: u64,
        /// Its bytes.
        size: u64,
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
    Stopping,
    /// Nobody wants the device any more.
    #[error("vm.remove-device has cancelled it")]
    Cancelled,
}

/// One machine's view of the host's IOMMU.
pub struct Iommu {
    ram: Vec<RamRange>,
    warmth: Arc<dyn Warmth>,
    watch: Arc<dyn GroupWatch>,
    state: Mutex<State>,
    /// Rung when the state has changed, or when somebody is to give up.
    changed: Condvar,
    pieces_mapped: Counter,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    domain: Weak<Domain>,
    /// Somebody attaches a group.
    busy: bool,
}

/// The right to attach a group: one at a time, so that RAM is mapped once.
struct Turn<'a>(&'a Iommu);

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
    /// For a machine with this RAM, which `warmth` makes resident. Nothing is
    /// opened yet.
    pub fn new(ram: Vec<RamRange>, warmth: Arc<dyn Warmth>, watch: Arc<dyn GroupWatch>) -> Self {
        Self {
            ram,
            warmth,
            watch,
            state: Mutex::default(),
            changed: Condvar::new(),
            pieces_mapped: Counter::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Makes attaching that is under way, and all that comes, fail soon: the
    /// machine is going away.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.ring();
    }

    /// Makes the worker with this progress give up soon, whatever it waits for.
    pub fn cancel(&self, progress: &Progress) {
        progress.cancel();
        self.ring();
    }

    /// Attaches group `number`, or shares it when it is attached already. May
    /// take seconds, in which `progress` moves: call it from a worker. The first
    /// group faults RAM in with this many `threads`, or as many as make sense.
    pub fn attach(
        &self,
        number: u32,
        progress: &Progress,
        threads: Option<usize>,
    ) -> Result<Arc<Attachment>, AttachError> {
        progress.enter(Phase::Attaching);
        let turn = self.turn(progress)?;
        let domain = turn.domain();
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
            None => {
                let container = self.new_domain(&group, number)?;
                self.map_ram(&container, progress, threads)?;
                Arc::new(Domain { container, groups: Mutex::default() })
            }
        };
        let watched = self.watch.attached(group.as_fd());
        watched.map_err(|e| AttachError::Join(number, "tell the hypervisor of", e))?;
        let watch = Arc::clone(&self.watch);
        let attachment = Arc::new(Attachment { group, number, watch, _domain: domain.clone() });
        lock(&domain.groups).insert(number, Arc::downgrade(&attachment));
        turn.keep(&domain);
        Ok(attachment)
    }

    /// Finds out whether [`Self::attach`] would be refused, as far as that can be
    /// told without mapping RAM: the group is attached for a moment.
    pub fn check(&self, number: u32, progress: &Progress) -> Result<(), AttachError> {
        let turn = self.turn(progress)?;
        let domain = turn.domain();
        let known = domain.as_ref().is_some_and(|d| {
            lock(&d.groups).get(&number).is_some_and(|group| group.strong_count() > 0)
        });
        if known {
            return Ok(());
        }
        let group = open(number)?;
        match domain {
            Some(domain) => join(&group, number, &domain.container),
            None => self.new_domain(&group, number).map(drop),
        }
    }

    /// A container in which `group` alone makes an IOMMU domain that can take all
    /// RAM; nothing is mapped.
    fn new_domain(&self, group: &Group, number: u32) -> Result<VfioContainer, AttachError> {
        limits::lockable(&self.ram)?;
        let container = VfioContainer::new(None).map_err(AttachError::Container)?;
        join(group, number, &container)?;
        set_type1(&container).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => AttachError::Unsafe(number),
            _ => AttachError::Join(number, "make an IOMMU domain for", error),
        })?;
        limits::reachable(&self.ram, Reach::of(&container))?;
        Ok(container)
    }

    /// Does `work` while no RAM is mapped, and keeps it from being mapped meanwhile; nothing if it
    /// is, or is about to be. The work must be short: whoever attaches a group waits for it.
    pub fn while_unmapped<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.state);
        let mapped = state.busy || state.domain.strong_count() > 0;
        (!mapped).then(work)
    }

    /// Pieces of guest RAM mapped since the start, over all domains.
    pub fn pieces_mapped(&self) -> u64 {
        self.pieces_mapped.get()
    }

    /// Waits until nobody else attaches a group.
    fn turn(&self, progress: &Progress) -> Result<Turn<'_>, AttachError> {
        let mut state = lock(&self.state);
        while state.busy {
            self.go_on(progress)?;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.go_on(progress)?;
        state.busy = true;
        Ok(Turn(self))
    }

    /// An error if whoever makes this progress is to give up.
    fn go_on(&self, progress: &Progress) -> Result<(), AttachError> {
        match () {
            () if self.stopping.load(Ordering::Relaxed) => Err(AttachError::Stopping),
            () if progress.is_cancelled() => Err(AttachError::Cancelled),
            () => Ok(()),
        }
    }

    fn ring(&self) {
        // With the lock, so that nobody is between looking and waiting.
        let _state = lock(&self.state);
        self.changed.notify_all();
    }

    /// Faults in and maps all RAM, with several threads; the first failure stops
    /// them all.
    fn map_ram(
        &self,
        container: &VfioContainer,
        progress: &Progress,
        threads: Option<usize>,
    ) -> Result<(), AttachError> {
        let warmth = &*self.warmth;
        let go_on = || self.go_on(progress);
        let watchers = (progress, &self.pieces_mapped, &go_on as &mapping::GoOn<'_>);
        Mapping::new(&self.ram, container, warmth, watchers).run(threads)
    }
}

impl Turn<'_> {
    fn domain(&self) -> Option<Arc<Domain>> {
        lock(&self.0.state).domain.upgrade()
    }

    /// From here on groups join this domain.
    fn keep(&self, domain: &Arc<Domain>) {
        lock(&self.0.state).domain = Arc::downgrade(domain);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).busy = false;
        self.0.changed.notify_all();
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group of no device, for tests of what holds one.
#[cfg(any(test, feature = "fuzzing"))]
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
mod tests;
