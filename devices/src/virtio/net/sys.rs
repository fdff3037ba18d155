//! System calls on guest memory and on a tap that std does not offer.
#![expect(unsafe_code, reason = "vectored I/O on guest memory, and a tap's ioctls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;

use libc::{FIONBIO, c_int, c_short, c_uint, c_ulong, iovec};
use vm_memory::VolatileSlice;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use crate::virtio::room::MOST_SLICES;

/// `linux/if_tun.h`.
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;
const TUNSETQUEUE: c_ulong = 0x4004_54d9;
const IFF_TAP: c_short = 0x2;
const IFF_MULTI_QUEUE: c_short = 0x100;
const IFF_ATTACH_QUEUE: c_short = 0x200;
const IFF_DETACH_QUEUE: c_short = 0x400;
const IFF_NO_PI: c_short = 0x1000;
const IFF_VNET_HDR: c_short = 0x4000;

/// What every tap of ours is, and what one of several queues is besides; each with its name.
const USUAL: [(c_short, &str); 3] =
    [(IFF_TAP, "IFF_TAP"), (IFF_NO_PI, "IFF_NO_PI"), (IFF_VNET_HDR, "IFF_VNET_HDR")];
const SEVERAL: [(c_short, &str); 1] = [(IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE")];

/// Bytes of an interface's name, its end among them.
pub(super) const NAME: usize = libc::IFNAMSIZ;

/// `struct ifreq`, as TUNSETIFF reads it.
#[repr(C)]
struct Interface {
    name: [u8; NAME],
    flags: c_short,
    _rest: [u8; 22],
}

/// What a tap's queue is that somebody else has opened.
pub(super) struct Opened {
    /// Of the interface.
    pub(super) name: String,
    /// What it is not, and has to be.
    pub(super) lacks: Option<&'static str>,
}

impl Interface {
    fn new(flags: c_short) -> Self {
        Self { name: [0; NAME], flags, _rest: [0; 22] }
    }

    /// Of one queue of `several` or not.
    fn usual(several: bool) -> Self {
        Self::new(wanted(several).fold(0, |flags, (flag, _)| flags | flag))
    }

    fn opened(&self, several: bool) -> Opened {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        let mut wanted = wanted(several);
        Opened {
            name: String::from_utf8_lossy(&self.name[..end]).into_owned(),
            lacks: wanted.find(|(flag, _)| self.flags & flag == 0).map(|(_, name)| name),
        }
    }
}

fn wanted(several: bool) -> impl Iterator<Item = (c_short, &'static str)> {
    USUAL.into_iter().chain(SEVERAL.into_iter().filter(move |_| several))
}

/// What queue `file` is, opened by somebody else as one of `several` or the only one. It becomes
/// what it has to be if that can be said later (of a macvtap it can).
///
/// # Errors
/// It is no queue of a tap.
pub(super) fn opened(file: &File, several: bool) -> io::Result<Opened> {
    if !file.metadata()?.file_type().is_char_device() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut interface = Interface::new(0);
    // SAFETY: the kernel writes one `ifreq`, which has 40 bytes.
    done(unsafe { ioctl_with_mut_ref(file, TUNGETIFF, &mut interface) })?;
    let opened = interface.opened(several);
    if opened.lacks.is_none() {
        return Ok(opened);
    }
    let mut usual = Interface::usual(several);
    // SAFETY: the kernel reads and writes one `ifreq`.
    if unsafe { ioctl_with_mut_ref(file, TUNSETIFF, &mut usual) } < 0 {
        return Ok(opened);
    }
    // SAFETY: as the first.
    done(unsafe { ioctl_with_mut_ref(file, TUNGETIFF, &mut interface) })?;
    Ok(interface.opened(several))
}

/// Reading from `file` and writing to it does not wait, whoever else has it.
pub(super) fn unblock(file: &File) -> io::Result<()> {
    let yes: c_int = 1;
    // SAFETY: the kernel reads one int.
    done(unsafe { ioctl_with_ref(file, FIONBIO, &yes) })
}

/// Headers of packets have `header` bytes.
pub(super) fn set_header(file: &File, header: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int.
    done(unsafe { ioctl_with_ref(file, TUNSETVNETHDRSZ, &header) })
}

/// Makes `file`, which is `/dev/net/tun`, the host's end of the tap `name`, or one of several; its
/// headers have `header` bytes.
pub(super) fn attach(file: &File, name: &str, header: c_int, several: bool) -> io::Result<()> {
    let mut interface = Interface::usual(several);
    if name.len() >= NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    interface.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads and writes one `ifreq`, which has 40 bytes.
    done(unsafe { ioctl_with_mut_ref(file, TUNSETIFF, &mut interface) })?;
    set_header(file, header)
}

/// Whether the tap puts packets into the queue that is `file`, one of several.
pub(super) fn set_queue(file: &File, used: bool) -> io::Result<()> {
    let interface = Interface::new(if used { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE });
    // SAFETY: the kernel reads one `ifreq`, which has 40 bytes.
    done(unsafe { ioctl_with_ref(file, TUNSETQUEUE, &interface) })
}

/// Which packets the reader takes that a network card would have cut up or checked (`TUN_F_*`).
pub(super) fn set_offload(file: &File, flags: c_uint) -> io::Result<()> {
    // SAFETY: a number only.
    done(unsafe { ioctl_with_val(file, TUNSETOFFLOAD, flags.into()) })
}

/// An event to wait for.
pub(super) fn event(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it is open as long as what it is borrowed from.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

fn done(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads one packet into `slices`, at most [`MOST_SLICES`], and what does not fit into `more`; its
/// bytes. A tap says how much it has written, not how long the packet was: if `more` is full, the
/// rest of it may be lost.
pub(super) fn read(
    file: &File,
    slices: &[VolatileSlice<'_>],
    more: &mut [u8],
) -> io::Result<usize> {
    let (mut vectors, _) = vectors(slices)?;
    vectors.push(iovec { iov_base: more.as_mut_ptr().cast(), iov_len: more.len() });
    let count = c_int::try_from(vectors.len()).map_err(io::Error::other)?;
    // SAFETY: each vector but the last is guest RAM that stays mapped as long as its slice lives; the
    // guest may see and change it at any time, which plain bytes of its own may. The last is ours.
    count_of(unsafe { libc::readv(file.as_raw_fd(), vectors.as_ptr(), count) })
}

/// Writes `slices`, at most [`MOST_SLICES`], as one packet; its bytes.
pub(super) fn write(file: &File, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, count) = vectors(slices)?;
    // SAFETY: as above, and the kernel only reads them.
    count_of(unsafe { libc::writev(file.as_raw_fd(), vectors.as_ptr(), count) })
}

fn vectors(slices: &[VolatileSlice<'_>]) -> io::Result<(Vec<iovec>, c_int)> {
    if slices.len() > MOST_SLICES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let vector = |slice: &VolatileSlice<'_>| iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    let vectors: Vec<iovec> = slices.iter().map(vector).collect();
    let count = c_int::try_from(vectors.len()).map_err(io::Error::other)?;
    Ok((vectors, count))
}

fn count_of(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_that_was_opened_otherwise_is_told_what_it_lacks() {
        let lacks = |flags, several| Interface::new(flags).opened(several).lacks;
        let usual = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

        assert_eq!(lacks(usual, false), None);
        assert_eq!(lacks(usual | IFF_DETACH_QUEUE | IFF_MULTI_QUEUE, true), None);
        assert_eq!(lacks(usual, true), Some("IFF_MULTI_QUEUE"));
        assert_eq!(lacks(IFF_TAP | IFF_NO_PI, false), Some("IFF_VNET_HDR"));
        assert_eq!(lacks(IFF_NO_PI | IFF_VNET_HDR, false), Some("IFF_TAP"));
        assert_eq!(lacks(IFF_TAP | IFF_VNET_HDR, true), Some("IFF_NO_PI"));
    }

    #[test]
    fn name_of_a_tap_ends_with_its_zero_or_its_room() {
        let mut interface = Interface::new(0);
        interface.name[..4].copy_from_slice(b"tap0");
        assert_eq!(interface.opened(false).name, "tap0");
        interface.name = [b'x'; NAME];
        assert_eq!(interface.opened(false).name.len(), NAME);
    }
}
