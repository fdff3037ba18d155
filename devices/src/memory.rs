//! Memory, seen from the device's side: guest RAM that it may reach by DMA, and
//! host memory that it may show to the guest. The machine implements both.

use std::io;
use std::ptr::NonNull;

/// One piece of guest RAM: a range of guest-physical addresses and where this
/// process sees it. The mapping outlives every device.
#[derive(Clone, Copy, Debug)]
pub struct RamRange {
    /// First guest-physical address.
    pub guest: u64,
    /// Bytes; a multiple of the page size.
    pub size: u64,
    /// Where the first byte is mapped in this process.
    pub host: NonNull<u8>,
}

// SAFETY: the pointer is an address to hand to the kernel; this crate never
// dereferences it.
#[expect(unsafe_code, reason = "a raw address that is only passed on")]
unsafe impl Send for RamRange {}
// SAFETY: as above; a shared reference gives nothing but a copy of the address.
#[expect(unsafe_code, reason = "a raw address that is only passed on")]
unsafe impl Sync for RamRange {}

/// Host memory to show in the guest's address space.
#[derive(Clone, Copy, Debug)]
pub struct Backing {
    /// Page-aligned start in this process.
    pub host: NonNull<u8>,
    /// Bytes; a multiple of the page size.
    pub size: u64,
}

/// Shows host memory (a device's mmapped BAR) in the guest's address space.
pub trait Windows: Send + Sync {
    /// Maps `backing` at guest-physical address `guest` (page-aligned) until the
    /// window is dropped. The backing must stay mapped that long.
    fn open(&self, guest: u64, backing: Backing) -> io::Result<Box<dyn Window>>;
}

/// A mapping made by [`Windows::open`]; dropping it takes it out of the guest.
pub trait Window: Send {}

/// Guest RAM that the guest does without.
pub trait Surplus: Send + Sync {
    /// Gives `size` bytes from guest-physical address `guest` on back to the host: they read as
    /// zeros next. False if they stay, because a device has RAM mapped, and would go on to
    /// reach the pages that had been there.
    ///
    /// # Errors
    /// They are not whole pages of RAM, or the kernel's.
    fn give_back(&self, guest: u64, size: u64) -> io::Result<bool>;
}

/// Makes guest RAM resident, so that pinning it finds its pages there.
pub trait Warmth: Send + Sync {
    /// Faults every page of `range` in. Asks `give_up` again and again, after
    /// milliseconds of work, and returns early when it says so.
    fn warm(&self, range: &RamRange, give_up: &dyn Fn() -> bool) -> io::Result<()>;

    /// The calling thread is about to do nothing else until it ends: whoever else wants
    /// a processor comes first.
    fn step_back(&self);
}
