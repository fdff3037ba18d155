//! A server as we know it: what it takes, and the requests to it, typed.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Answer, Carrier, Connection, Question, connect};
use super::ram::{Lent, Memory, NotShared, check_shared};
use super::wire::{ACCESS, Command, MOST_DATA, MOST_DESCRIPTORS, bytes, number, region_access};

/// The version that we propose.
const MAJOR: u16 = 0;
const MINOR: u16 = 1;
/// Bytes of a version's text.
const MOST_TEXT: usize = 4096;
/// More descriptors than that go with no message (Linux, `SCM_MAX_FD`).
const LINUX_MOST_DESCRIPTORS: u64 = 253;
/// Room for an answer that should have none, but for what it answers.
const NOTHING: usize = 0;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It could not reach the guest's RAM.
    #[error(transparent)]
    NotShared(#[from] NotShared),
    /// Nobody listens there.
    #[error("cannot connect to it")]
    Connect(#[source] io::Error),
    /// It does not speak as it should.
    #[error("cannot come to terms with it")]
    Greet(#[source] io::Error),
    /// It does not take the guest's RAM.
    #[error("cannot hand it the guest's RAM")]
    Lend(#[source] io::Error),
}

/// A server that has been greeted.
#[derive(Debug)]
pub struct Server {
    connection: Arc<Connection>,
    /// Descriptors that it takes in one message.
    pub(super) most_descriptors: usize,
    /// Bytes that it moves with one message.
    pub(super) most_data: usize,
}

impl Server {
    /// Connects to the one that listens at `path`, which is to work on `memory`. Nothing is
    /// asked before the carrier runs.
    pub fn connect(
        path: &Path,
        memory: &Memory,
    ) -> Result<(Arc<Connection>, Carrier), ServerError> {
        check_shared(memory)?;
        connect(path, memory.clone()).map_err(ServerError::Connect)
    }

    /// Agrees with the server on a version, and hands it the guest's RAM.
    pub fn greet(connection: &Arc<Connection>) -> Result<(Self, Lent), ServerError> {
        let server = Self::agree(connection).map_err(ServerError::Greet)?;
        let lent = Lent::lend(connection).map_err(ServerError::Lend)?;
        Ok((server, lent))
    }

    fn agree(connection: &Arc<Connection>) -> io::Result<Self> {
        let text = format!(
            "{{\"capabilities\":{{\"max_msg_fds\":{MOST_DESCRIPTORS},\"max_data_xfer_size\":{MOST_DATA}}}}}\0"
        );
        let numbers = [MAJOR, MINOR].map(u16::to_ne_bytes).concat();
        let body = [&numbers, text.as_bytes()].concat();
        let asked =
            Question { command: Command::Version, body: &body, most: MOST_TEXT, descriptors: &[] };
        let answer = connection.ask(asked, connection.limit())?.body;
        let half =
            |at: usize| answer.get(at..)?.first_chunk().map(|half| u16::from_ne_bytes(*half));
        let (Some(major), Some(minor)) = (half(0), half(2)) else {
            return Err(malformed("its version is cut short"));
        };
        if major != MAJOR || minor > MINOR {
            return Err(malformed(format!("it speaks version {major}.{minor}, not 0.1")));
        }
        let text = String::from_utf8_lossy(&answer[4..]);
        // The protocol's own defaults.
        let most_descriptors = number(&text, "max_msg_fds").unwrap_or(1);
        let most_data = number(&text, "max_data_xfer_size").and_then(|most| most.try_into().ok());
        let most_data = most_data.unwrap_or(MOST_DATA).clamp(1, MOST_DATA);
        let most_descriptors = most_descriptors.clamp(1, LINUX_MOST_DESCRIPTORS);
        let most_descriptors = usize::try_from(most_descriptors).unwrap_or(1);
        Ok(Self { connection: Arc::clone(connection), most_descriptors, most_data })
    }

    /// The connection to it.
    pub(in crate::vfio) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// A description: words out, words in, and perhaps a descriptor. The first word says
    /// how many bytes an answer may have.
    pub(super) fn describe(
        &self,
        command: Command,
        words: &[u32],
    ) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let most = words.first().and_then(|argsz| usize::try_from(*argsz).ok()).unwrap_or(0);
        let limit = self.limit();
        let Answer { body, descriptors } = self.ask(command, &bytes(words), most, limit)?;
        Ok((body, descriptors.into_iter().next()))
    }

    /// When an operation that begins now has to be over.
    pub(super) fn limit(&self) -> Instant {
        self.connection.limit()
    }

    /// Wires interrupts, as `set` says: flags, index, start and count. `descriptors` are
    /// eventfds, at most as many as it takes at once.
    pub(super) fn set_irqs(
        &self,
        set: [u32; 4],
        descriptors: &[RawFd],
        limit: Instant,
    ) -> io::Result<()> {
        let [flags, index, start, count] = set;
        let body = bytes(&[20, flags, index, start, count]);
        let (command, most) = (Command::SetIrqs, NOTHING);
        let asked = Question { command, body: &body, most, descriptors };
        self.connection.ask(asked, limit).map(drop)
    }

    /// Reads a region, in pieces that it can send.
    pub(super) fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let (mut at, limit) = (offset, self.limit());
        for piece in data.chunks_mut(self.most_data) {
            let count = u32::try_from(piece.len()).map_err(io::Error::other)?;
            let body = region_access(at, region, count);
            let most = ACCESS + piece.len();
            let answer = self.ask(Command::RegionRead, &body, most, limit)?.body;
            match answer.split_at_checked(ACCESS) {
                Some((access, read)) if *access == body && read.len() == piece.len() => {
                    piece.copy_from_slice(read);
                }
                _ => return Err(self.misled("REGION_READ")),
            }
            at += u64::from(count);
        }
        Ok(())
    }

    /// Writes a region, in pieces that it can take. It has taken them when this returns.
    pub(super) fn write(&self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut at, limit) = (offset, self.limit());
        for piece in data.chunks(self.most_data) {
            let count = u32::try_from(piece.len()).map_err(io::Error::other)?;
            let access = region_access(at, region, count);
            let body = [&access, piece].concat();
            let answer = self.ask(Command::RegionWrite, &body, ACCESS, limit)?.body;
            if answer != access {
                return Err(self.misled("REGION_WRITE"));
            }
            at += u64::from(count);
        }
        Ok(())
    }

    /// Resets the device.
    pub(super) fn reset(&self) -> io::Result<()> {
        self.ask(Command::Reset, &[], NOTHING, self.limit()).map(drop)
    }

    /// An answer to something else than what was asked: nothing that follows can be
    /// believed.
    pub(super) fn misled(&self, command: &str) -> io::Error {
        let why = format!("its answer to {command} is of something else");
        self.connection.lose(&why);
        io::Error::new(io::ErrorKind::BrokenPipe, why)
    }

    fn ask(
        &self,
        command: Command,
        body: &[u8],
        most: usize,
        limit: Instant,
    ) -> io::Result<Answer> {
        self.connection.ask(Question { command, body, most, descriptors: &[] }, limit)
    }
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
