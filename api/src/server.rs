//! The HTTP thread: bytes -> [`crate::route`] -> [`crate::mailbox`] -> bytes.
//!
//! One thread serves every client with one edge-triggered epoll instance. It
//! waits for sockets and for finished answers, never for the machine: while an
//! add-device is under way, others are served.
//!
//! [`Server::bind`] opens everything; after it [`Server::run`] needs only these
//! system calls, so that its thread can be confined to them: `epoll_wait`,
//! `epoll_ctl`, `accept4`, `recvmsg`, `sendto`, `write` and `read` (eventfds),
//! `fcntl` (`F_DUPFD_CLOEXEC`; debug builds also `F_GETFD`), `close`, `futex`,
//! `getrandom` (hash maps), `clock_gettime`. The allocator adds `mmap`, `munmap`,
//! `mprotect`, `madvise`, `brk`, and once in a process, when glibc first shrinks
//! a thread's arena, `openat` of `/proc/sys/vm/overcommit_memory`, which may fail;
//! the thread's end adds `sigaltstack`, `rt_sigprocmask` and `exit`.

use std::sync::Arc;

use vmm_sys_util::epoll::Epoll;

use self::address::Claim;
pub use self::address::{Address, BindError};
use self::clients::Clients;
use self::door::Door;
use self::finished::Finished;
#[cfg(feature = "fuzzing")]
pub use self::lone::Lone;
use crate::mailbox::Sender;

mod address;
mod answer;
mod clients;
mod connection;
mod door;
mod finished;
mod inherited;
#[cfg(feature = "fuzzing")]
mod lone;
mod stream;

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    door: Door,
    finished: Arc<Finished>,
}

/// Ends the server. Dropping it also removes the socket's name, so keep it
/// until the thread has been joined.
#[derive(Debug)]
pub struct Stop {
    finished: Arc<Finished>,
    _claim: Option<Claim>,
}

impl Server {
    /// Listens at `address`. Clients that connect from now on wait until
    /// [`Server::run`].
    ///
    /// # Errors
    /// When the address is taken or the host refuses.
    pub fn bind(address: &Address) -> Result<(Self, Stop), BindError> {
        let (listener, claim) = address::listen(address)?;
        let door = Door::new(listener).map_err(BindError::Setup)?;
        let finished = Finished::new().map_err(BindError::Setup)?;
        let epoll = Epoll::new().map_err(BindError::Setup)?;
        clients::watch(&epoll, &door, &finished).map_err(BindError::Setup)?;
        let stop = Stop { finished: finished.clone(), _claim: claim };
        Ok((Self { epoll, door, finished }, stop))
    }

    /// Serves clients, with requests going to `machine`, until [`Stop::stop`];
    /// answers given before that still go out. This is the body of the HTTP
    /// thread, which the caller starts, names and confines.
    pub fn run(self, machine: &Sender) {
        let Self { epoll, door, finished } = self;
        if let Err(error) = Clients::new(&epoll, door, &finished, machine).serve() {
            log::error!("the API server cannot go on: {error}");
        }
    }
}

impl Stop {
    /// Asks [`Server::run`] to return. It does so within half a second.
    pub fn stop(&self) {
        self.finished.stop();
    }
}
