//! Where events go: a file, a FIFO, or a descriptor that whoever started us passed on.

use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use api::cli::hotbay::EventMonitor;
use api::descriptors;

use super::sys;

/// Why events cannot go there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error("cannot open {} for the event monitor", .0.display())]
    Path(PathBuf, #[source] io::Error),
    /// The descriptor.
    #[error("descriptor {0} of --event-monitor cannot be used; is it open?")]
    Descriptor(RawFd, #[source] io::Error),
    /// A thread to write, or what it waits with.
    #[error("cannot start the event monitor's thread")]
    Thread(#[source] io::Error),
}

/// Opens what the command line names. Writing to it does not block.
pub fn open(place: &EventMonitor) -> Result<File, OpenError> {
    match place {
        EventMonitor::Path(path) => {
            let is_fifo = fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo());
            let mut options = File::options();
            // A FIFO is opened from both ends: its reader may come later, or go and
            // come again, and opening does not wait for it.
            options.write(true).read(is_fifo).create(!is_fifo).truncate(!is_fifo);
            let file = options.open(path);
            file.and_then(sys::unblocked).map_err(|error| OpenError::Path(path.clone(), error))
        }
        EventMonitor::Fd(fd) => {
            let file = descriptors::inherited(*fd).map(File::from).and_then(sys::unblocked);
            file.map_err(|error| OpenError::Descriptor(*fd, error))
        }
    }
}
