//! vhost's ioctls (`linux/vhost.h`).
#![expect(unsafe_code, reason = "ioctls on vhost's nodes")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{c_int, c_uint, c_ulong};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{
    _IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl, ioctl_expr, ioctl_with_mut_ref, ioctl_with_ptr,
    ioctl_with_ref,
};

const fn number(direction: c_uint, number: c_uint, size: c_uint) -> c_ulong {
    ioctl_expr(direction, 0xaf, number, size)
}

const GET_FEATURES: c_ulong = number(_IOC_READ, 0x00, 8);
const SET_FEATURES: c_ulong = number(_IOC_WRITE, 0x00, 8);
const SET_OWNER: c_ulong = number(_IOC_NONE, 0x01, 0);
const SET_MEM_TABLE: c_ulong = number(_IOC_WRITE, 0x03, 8);
const SET_VRING_NUM: c_ulong = number(_IOC_WRITE, 0x10, 8);
const SET_VRING_ADDR: c_ulong = number(_IOC_WRITE, 0x11, 40);
const SET_VRING_BASE: c_ulong = number(_IOC_WRITE, 0x12, 8);
const SET_VRING_KICK: c_ulong = number(_IOC_WRITE, 0x20, 8);
const SET_VRING_CALL: c_ulong = number(_IOC_WRITE, 0x21, 8);
const SET_VRING_ERR: c_ulong = number(_IOC_WRITE, 0x22, 8);
const NET_SET_BACKEND: c_ulong = number(_IOC_WRITE, 0x30, 8);
const VSOCK_SET_GUEST_CID: c_ulong = number(_IOC_WRITE, 0x60, 8);
const VSOCK_SET_RUNNING: c_ulong = number(_IOC_WRITE, 0x61, 4);

/// A piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// First guest-physical address.
    pub(super) guest: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Where this process has it.
    pub(super) host: u64,
}

/// Where a queue's rings are in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rings {
    pub(super) descriptors: u64,
    /// What the device writes.
    pub(super) used: u64,
    /// What the driver writes.
    pub(super) available: u64,
}

/// `struct vhost_vring_state` and `struct vhost_vring_file`: an index and a value.
#[repr(C)]
struct State {
    index: c_uint,
    value: c_uint,
}

/// `struct vhost_vring_addr`.
#[repr(C)]
struct Addresses {
    index: c_uint,
    flags: c_uint,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `file` serves this process's guest, and nobody else's.
pub(super) fn set_owner(file: &File) -> io::Result<()> {
    // SAFETY: without an argument.
    done(unsafe { ioctl(file, SET_OWNER) })
}

/// What it offers.
pub(super) fn features(file: &File) -> io::Result<u64> {
    let mut features = 0_u64;
    // SAFETY: the kernel writes one u64.
    done(unsafe { ioctl_with_mut_ref(file, GET_FEATURES, &mut features) })?;
    Ok(features)
}

/// What has been negotiated.
pub(super) fn set_features(file: &File, features: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64.
    done(unsafe { ioctl_with_ref(file, SET_FEATURES, &features) })
}

/// Where guest RAM is. It must stay mapped as long as `file` is open.
pub(super) fn set_memory(file: &File, regions: &[Region]) -> io::Result<()> {
    // `struct vhost_memory`: a number and padding, then four words a region.
    let count = u32::try_from(regions.len()).map_err(io::Error::other)?;
    let words = regions.iter().flat_map(|region| [region.guest, region.size, region.host, 0]);
    let table: Vec<u64> = [u64::from(count)].into_iter().chain(words).collect();
    // SAFETY: the kernel reads as many regions as the first word says, which is how many follow.
    done(unsafe { ioctl_with_ptr(file, SET_MEM_TABLE, table.as_ptr()) })
}

/// How many entries queue `index` has.
pub(super) fn set_entries(file: &File, index: c_uint, entries: u16) -> io::Result<()> {
    set_state(file, SET_VRING_NUM, &State { index, value: entries.into() })
}

/// Queue `index` begins at its first entry.
pub(super) fn set_base(file: &File, index: c_uint) -> io::Result<()> {
    set_state(file, SET_VRING_BASE, &State { index, value: 0 })
}

/// Where queue `index` is.
pub(super) fn set_rings(file: &File, index: c_uint, rings: &Rings) -> io::Result<()> {
    let Rings { descriptors, used, available } = *rings;
    let addresses = Addresses { index, flags: 0, descriptors, used, available, log: 0 };
    // SAFETY: the kernel reads one `vhost_vring_addr`, and checks that they lie in the RAM it was given.
    done(unsafe { ioctl_with_ref(file, SET_VRING_ADDR, &addresses) })
}

/// What tells of something in queue `index`.
pub(super) fn set_kick(file: &File, index: c_uint, event: &EventFd) -> io::Result<()> {
    set_event(file, SET_VRING_KICK, index, event)
}

/// What is told when something of queue `index` has been used.
pub(super) fn set_call(file: &File, index: c_uint, event: &EventFd) -> io::Result<()> {
    set_event(file, SET_VRING_CALL, index, event)
}

/// What is told when queue `index` makes no sense.
pub(super) fn set_error(file: &File, index: c_uint, event: &EventFd) -> io::Result<()> {
    set_event(file, SET_VRING_ERR, index, event)
}

fn set_event(file: &File, request: c_ulong, index: c_uint, event: &EventFd) -> io::Result<()> {
    let value = c_uint::try_from(event.as_raw_fd()).map_err(io::Error::other)?;
    set_state(file, request, &State { index, value })
}

fn set_state(file: &File, request: c_ulong, state: &State) -> io::Result<()> {
    // SAFETY: the kernel reads two ints; a descriptor among them is open, and it takes its own reference.
    done(unsafe { ioctl_with_ref(file, request, state) })
}

/// What is behind queue `index`; with nothing, it is touched no more when this returns.
pub(in crate::virtio) fn set_backend(
    file: &File,
    index: usize,
    tap: Option<&File>,
) -> io::Result<()> {
    let index = c_uint::try_from(index).map_err(io::Error::other)?;
    // -1, as the kernel reads it, is no descriptor.
    let number = |tap: &File| c_uint::try_from(tap.as_raw_fd()).map_err(io::Error::other);
    let value = tap.map_or(Ok(c_uint::MAX), number)?;
    set_state(file, NET_SET_BACKEND, &State { index, value })
}

/// The guest's address; nobody else on this host has it.
pub(in crate::virtio) fn set_guest_cid(file: &File, cid: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64.
    done(unsafe { ioctl_with_ref(file, VSOCK_SET_GUEST_CID, &cid) })
}

/// Serves both queues from now on, or neither when this returns.
pub(in crate::virtio) fn set_running(file: &File, running: bool) -> io::Result<()> {
    let running = c_int::from(running);
    // SAFETY: the kernel reads one int.
    done(unsafe { ioctl_with_ref(file, VSOCK_SET_RUNNING, &running) })
}

fn done(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_kernels() {
        let numbers = [GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_ADDR];
        assert_eq!(numbers, [0x8008_af00, 0x4008_af00, 0xaf01, 0x4008_af03, 0x4028_af11]);
        let own = [NET_SET_BACKEND, VSOCK_SET_GUEST_CID, VSOCK_SET_RUNNING];
        assert_eq!(own, [0x4008_af30, 0x4008_af60, 0x4004_af61]);
        assert_eq!((size_of::<Addresses>(), size_of::<State>()), (40, 8));
    }
}
