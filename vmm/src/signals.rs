//! Signals that ask the process to end, as something an event loop can wait for.
#![expect(unsafe_code, reason = "signalfd has no safe wrapper")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use vmm_sys_util::signal::{block_signal, create_sigset};

/// What ends the machine cleanly.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The ending signals of this process, caught. Readable when one has come.
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// Catches the signals. Call it before any thread starts: a thread inherits
    /// what is blocked, and a signal that one does not block ends the process.
    pub fn catch() -> io::Result<Self> {
        let set = create_sigset(&ENDING)?;
        for signal in ENDING {
            block_signal(signal).map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        // SAFETY: the set is initialised, and the call makes a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Takes what has come; afterwards the descriptor is not readable.
    pub fn take(&mut self) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while self.0.read(&mut info).is_ok() {}
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
