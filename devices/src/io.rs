//! What answers a guest's access to a range of addresses.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// Something that a guest reads and writes at offsets: a register block, a
/// BAR, a configuration window.
///
/// Accesses come from any vCPU thread at any time and have whatever size the
/// guest chose (1 to 8 bytes). An access that means nothing to the device must
/// change nothing and break nothing; reads then return all ones, as an
/// unclaimed PCI read does.
pub trait Access: Send + Sync {
    /// Fills `data` with what is at `offset` (bytes from the start of the range).
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Stores `data` at `offset` (bytes from the start of the range).
    fn write(&self, offset: u64, data: &[u8]);
}

/// Lets a guest's write ring an eventfd, with no thread of the machine's taking part.
pub trait Doorbells: Send + Sync {
    /// Every write of any size to guest-physical `address` writes `bell`, until the
    /// doorbell is dropped, and does not reach whoever else answers there.
    ///
    /// # Errors
    /// The host has no more of them; writes reach who answers there.
    fn place(&self, address: u64, bell: &Arc<EventFd>) -> io::Result<Box<dyn Doorbell>>;
}

/// Made by [`Doorbells::place`]; dropping it takes it away.
pub trait Doorbell: Send {}
