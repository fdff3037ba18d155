//! Memory slots: what the guest finds at a range of its physical addresses.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes an address of this process")]

use std::ptr::NonNull;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use super::Error;

/// Shows `size` bytes at `host` in the guest at `guest`, under slot number `slot`.
///
/// # Safety
/// The memory must stay mapped until [`clear`] has been called for the slot.
pub unsafe fn set(
    vm: &VmFd,
    slot: u32,
    guest: u64,
    (host, size): (NonNull<u8>, u64),
) -> Result<(), Error> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: guest,
        memory_size: size,
        userspace_addr: host.as_ptr().expose_provenance() as u64,
    };
    // SAFETY: the caller keeps the memory mapped while the slot is in use.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::call("map memory into the guest"))
}

/// Takes slot number `slot` out of the guest.
pub fn clear(vm: &VmFd, slot: u32) -> Result<(), Error> {
    let region = kvm_userspace_memory_region { slot, ..Default::default() };
    // SAFETY: a slot of size zero refers to no memory.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(Error::call("take memory out of the guest"))
}
