//! Opens what a serial port or a paravirtual console is connected to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use devices::console::Backend;

use crate::config::SerialSpec;

/// Why the port has no other end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Missing folder, no permission.
    #[error("cannot open {} for the {}", .0.display(), .1)]
    File(PathBuf, &'static str, #[source] io::Error),
    /// In use, no permission.
    #[error("cannot listen on {} for the {}", .0.display(), .1)]
    Socket(PathBuf, &'static str, #[source] io::Error),
}

/// Opens what `spec` names, for `port`; `None` when there is to be no port.
pub fn backend(spec: &SerialSpec, port: &'static str) -> Result<Option<Backend>, Error> {
    Ok(Some(match spec {
        SerialSpec::Off => return Ok(None),
        SerialSpec::Null => Backend::Null,
        SerialSpec::Tty => Backend::Tty,
        SerialSpec::Pty => Backend::Pty,
        SerialSpec::File(path) => {
            Backend::File(create(path).map_err(|error| Error::File(path.clone(), port, error))?)
        }
        SerialSpec::Socket(path) => {
            Backend::Socket(listen(path).map_err(|error| Error::Socket(path.clone(), port, error))?)
        }
    }))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Listens at `path`; a socket that nobody listens on any more is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        other => return other,
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");

        drop(listen(&path).unwrap());
        let _live = listen(&path).unwrap();

        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
