//! Where the server listens, and whether it may.
//!
//! A socket file that a dead process left is replaced, one that is in use is
//! refused. The lock beside it (`<path>.lock`) decides between two servers
//! that start at once; a connection attempt finds servers that take no lock.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::inherited;

/// Only the owner may connect: who can, can read every file of the process.
const MODE: u32 = 0o600;

/// Where to listen: `PATH`, `path=PATH` or `fd=N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket to be made there.
    Path(PathBuf),
    /// A listening Unix socket that was passed to this process.
    Fd(RawFd),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("fd=") {
            let fd =
                number.parse().map_err(|_| format!("{number:?} is not a descriptor number"))?;
            return Ok(Self::Fd(fd));
        }
        match text.strip_prefix("path=").unwrap_or(text) {
            "" => Err("the path is empty".to_owned()),
            path => Ok(Self::Path(path.into())),
        }
    }
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another server is there.
    #[error("{} is in use by another server; give each its own --api-socket", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The host refused.
    #[error("cannot listen at {}", .path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The descriptor is not what it should be.
    #[error("descriptor {fd} is not a listening Unix socket")]
    Inherited {
        /// Its number.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
    /// The process has no descriptor to spare.
    #[error("cannot set up the API server")]
    Setup(#[source] io::Error),
}

/// Listens, without blocking. An inherited socket has no name of ours to claim.
pub(super) fn listen(address: &Address) -> Result<(UnixListener, Option<Claim>), BindError> {
    let (listener, name) = match address {
        Address::Path(path) => {
            let mut claim = claim(path)?;
            let listener = claim
                .listen()
                .map_err(|source| BindError::Listen { path: path.clone(), source })?;
            (listener, Some(claim))
        }
        Address::Fd(fd) => {
            let inherited = inherited::listener(*fd);
            (inherited.map_err(|source| BindError::Inherited { fd: *fd, source })?, None)
        }
    };
    listener.set_nonblocking(true).map_err(BindError::Setup)?;
    Ok((listener, name))
}

/// The right to a path. Dropped, it removes the socket there and its lock.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock_path: PathBuf,
    bound: bool,
    _lock: File,
}

fn claim(path: &Path) -> Result<Claim, BindError> {
    let lock_path = beside(path, ".lock");
    let failed = |source| BindError::Listen { path: path.to_owned(), source };
    let Some(lock) = lock(&lock_path).map_err(failed)? else {
        return Err(BindError::InUse(path.to_owned()));
    };
    let claim = Claim { path: path.to_owned(), lock_path, bound: false, _lock: lock };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(claim),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(BindError::NotASocket(path.to_owned()))
        }
        Ok(_) => match UnixStream::connect(path) {
            // Nobody listens: it is stale.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(claim),
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(failed(error)),
            Ok(_) | Err(_) => Err(BindError::InUse(path.to_owned())),
        },
    }
}

/// The lock, unless somebody has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(MODE).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The previous owner removes it with the lock held: is this still it?
        match fs::symlink_metadata(path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

impl Claim {
    /// Under another name first, so that nobody can connect before the
    /// permissions are right, and a stale socket is replaced in one step.
    fn listen(&mut self) -> io::Result<UnixListener> {
        let unfinished = beside(&self.path, ".new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&unfinished)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(MODE))?;
        fs::rename(&unfinished, &self.path)?;
        self.bound = true;
        Ok(listener)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What cannot be removed is found stale by the next server.
        if self.bound {
            let _ = fs::remove_file(&self.path);
        }
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
