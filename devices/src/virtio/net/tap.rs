//! Taps of the host (`Documentation/networking/tuntap.rst`), a descriptor a queue.

use std::fs::{File, OpenOptions};
use std::io;
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
