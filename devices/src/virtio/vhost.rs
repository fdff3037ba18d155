//! The host's kernel as who serves queues (`linux/vhost.h`): where the guest's RAM is, and
//! where rings are in it. Which device it serves them as is that device's to say.

mod sys;

use std::fs::File;
use std::io;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use self::sys::{Region, Rings};
pub(super) use self::sys::{set_backend, set_guest_cid, set_running};
use crate::virtio::{Events, Memory};

/// What the transport offers to drivers of every device, and so must be had here too.
const NEEDED: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A device of vhost's, for one guest.
pub(super) struct Vhost {
    pub(super) file: File,
    memory: Memory,
    offered: u64,
}

impl Vhost {
    /// Makes `file`, which is one of vhost's nodes just opened, this process's, with the guest's
    /// RAM being `memory`.
    ///
    /// # Errors
    /// The kernel's, or `Unsupported` if it lacks a feature that every driver is offered.
    pub(super) fn new(file: File, memory: Memory) -> io::Result<Self> {
        sys::set_owner(&file)?;
        let offered = sys::features(&file)?;
        if offered & NEEDED != NEEDED {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let region = |region: &vm_memory::GuestRegionMmap<()>| Region {
            guest: region.start_addr().0,
            size: region.len(),
            host: address(region.as_ptr()),
        };
        let regions: Vec<Region> = memory.iter().map(region).collect();
        sys::set_memory(&file, &regions)?;
        Ok(Self { file, memory, offered })
    }

    /// Those of its features that are among `wanted`.
    pub(super) fn features(&self, wanted: u64) -> u64 {
        self.offered & wanted
    }

    /// What the driver has agreed to, of what is offered here. For all queues.
    pub(super) fn agree(&self, features: u64) -> io::Result<()> {
        sys::set_features(&self.file, features & self.offered)
    }

    /// Where queue `index` is, and how one hears of it; from the beginning of its rings.
    ///
    /// # Errors
    /// A ring is not in one piece of RAM, or the kernel's. It is not served yet, and must not be.
    pub(super) fn set_up(&self, index: usize, queue: &Queue, events: &Events) -> io::Result<()> {
        let index = u32::try_from(index).map_err(io::Error::other)?;
        let (file, entries) = (&self.file, u64::from(queue.size()));
        let rings = Rings {
            descriptors: self.host(queue.desc_table(), 16 * entries)?,
            used: self.host(queue.used_ring(), 6 + 8 * entries)?,
            available: self.host(queue.avail_ring(), 6 + 2 * entries)?,
        };
        sys::set_entries(file, index, queue.size())?;
        sys::set_base(file, index)?;
        sys::set_rings(file, index, &rings)?;
        sys::set_call(file, index, &events.call)?;
        sys::set_error(file, index, &events.error)?;
        sys::set_kick(file, index, &events.kick)
    }

    /// What is signalled when something of queue `index` has been used, from now on.
    pub(super) fn tell(&self, index: usize, call: &EventFd) -> io::Result<()> {
        sys::set_call(&self.file, u32::try_from(index).map_err(io::Error::other)?, call)
    }

    /// Where this process has so many bytes of the guest's.
    fn host(&self, guest: u64, size: u64) -> io::Result<u64> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let slice = self.memory.get_slice(GuestAddress(guest), size);
        let slice = slice.map_err(|_| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(address(slice.ptr_guard().as_ptr()))
    }
}

/// An address as the kernel takes it.
fn address(pointer: *const u8) -> u64 {
    u64::try_from(pointer.addr()).unwrap_or(u64::MAX)
}
