//! Taps of the host (`Documentation/networking/tuntap.rst`), a descriptor a queue.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;

use super::{HEADER, sys};

/// Most bytes of a tap's name.
pub const TAP_NAME: usize = sys::NAME - 1;

/// Why a tap cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Where taps are handed out.
    #[error("cannot open /dev/net/tun: has this host the module tun, and may this user use it?")]
    Open(#[source] io::Error),
    /// A process has it.
    #[error("another device or process has it; give another one")]
    Busy,
    /// An interface that is no tap for one pair of queues.
    #[error("it is no tap with one queue; make one with: ip tuntap add dev NAME mode tap")]
    Kind,
    /// The same, for several.
    #[error(
        "it is no tap with several queues; make one with: ip tuntap add dev NAME mode tap multi_queue"
    )]
    Single,
    /// It is not there, or somebody else's.
    #[error(
        "it is not there or not this user's, and hotbay may make none; make it with: ip tuntap add \
         dev NAME mode tap user USER"
    )]
    Denied,
    /// Something else than a tap's queue was handed over.
    #[error(
        "descriptor {0} of it, counted from 0, is no tap; before it is handed over, /dev/net/tun is opened \
         and made one with TUNSETIFF"
    )]
    NoTap(usize),
    /// It was not opened as it has to be.
    #[error(
        "{0} was not opened with {1}; open it with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, several queues of it with IFF_MULTI_QUEUE too"
    )]
    Without(String, &'static str),
    /// Queues of two.
    #[error("its queues are of {0} and of {1}; a card has one tap")]
    Two(String, String),
    /// The kernel's reason.
    #[error("the host does not hand it out")]
    Attach(#[source] io::Error),
}

impl TapError {
    fn attach(error: io::Error, several: bool) -> Self {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Self::Busy,
            Some(libc::EINVAL) if several => Self::Single,
            Some(libc::EINVAL) => Self::Kind,
            Some(libc::EPERM) => Self::Denied,
            _ => Self::Attach(error),
        }
    }
}

/// So many queues of the tap `name` of the host, which is made if there is none and the process
/// may; it goes with them then. The tap puts packets into the first one only.
///
/// # Errors
/// It cannot be had.
pub fn open(name: &str, queues: u16) -> Result<Vec<File>, TapError> {
    let several = queues > 1;
    let attach = |number| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let tap = options.open("/dev/net/tun").map_err(TapError::Open)?;
        let attached = sys::attach(&tap, name, HEADER.into(), several);
        attached.map_err(|error| TapError::attach(error, several))?;
        if number > 0 {
            sys::set_queue(&tap, false).map_err(TapError::Attach)?;
        }
        Ok(tap)
    };
    (0..queues).map(attach).collect()
}

/// The tap whose queues somebody has opened and handed over, one or more. The tap puts packets
/// into the first one only.
///
/// # Errors
/// They are no queues of one tap, or not opened as they have to be.
pub fn take<'given>(
    given: impl ExactSizeIterator<Item = BorrowedFd<'given>>,
) -> Result<Vec<File>, TapError> {
    let several = given.len() > 1;
    let mut tap = None;
    let queue = |(number, fd): (usize, BorrowedFd<'given>)| {
        let file = File::from(fd.try_clone_to_owned().map_err(TapError::Attach)?);
        let opened = sys::opened(&file, several).map_err(|_| TapError::NoTap(number))?;
        let name = tap.get_or_insert_with(|| opened.name.clone());
        if *name != opened.name {
            return Err(TapError::Two(name.clone(), opened.name));
        }
        if let Some(flag) = opened.lacks {
            return Err(TapError::Without(opened.name, flag));
        }
        sys::unblock(&file).map_err(TapError::Attach)?;
        sys::set_header(&file, HEADER.into()).map_err(TapError::Attach)?;
        if several {
            match sys::set_queue(&file, number == 0) {
                // A VM before this one has left it so.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                outcome => outcome.map_err(TapError::Attach)?,
            }
        }
        Ok(file)
    };
    given.enumerate().map(queue).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_no_tap_is_refused_by_its_place() {
        let (null, file) = (File::open("/dev/null").unwrap(), tempfile::tempfile().unwrap());

        for given in [vec![&null], vec![&file, &null]] {
            let refused = take(given.into_iter().map(AsFd::as_fd)).unwrap_err();
            assert!(matches!(refused, TapError::NoTap(0)), "{refused}");
        }
    }
}
