//! Messages of vfio-user over a blocking socket, from the server's side.
#![expect(unsafe_code, reason = "descriptors come as numbers that are ours from then on")]

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Bytes of a header.
const HEADER: usize = 16;
/// Descriptors that we take in one message, and say so.
pub(super) const MOST_DESCRIPTORS: usize = 16;
const REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;

/// Commands of a server.
pub(super) const DMA_READ: u16 = 11;
pub(super) const DMA_WRITE: u16 = 12;

/// What stands before a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) command: u16,
    flags: u32,
    error: u32,
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// The body of a reply, and what goes with it; or an errno.
pub(super) type Answer = Result<(Vec<u8>, Vec<RawFd>), i32>;

/// A client's socket.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    /// Came while we waited for an answer.
    waiting: VecDeque<Message>,
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, waiting: VecDeque::new() }
    }

    /// The next message; nothing when the client has hung up.
    pub(super) fn next(&mut self) -> io::Result<Option<Message>> {
        match self.waiting.pop_front() {
            Some(message) => Ok(Some(message)),
            None => self.receive(),
        }
    }

    /// Asks the client, and waits for its answer.
    pub(super) fn ask(&mut self, command: u16, body: &[u8]) -> io::Result<Result<Vec<u8>, i32>> {
        let header = Header { id: 0xd3a, command, flags: 0, error: 0 };
        self.send(&message(header, body), &[])?;
        loop {
            let message = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let Header { flags, error, .. } = message.header;
            if flags & REPLY == 0 {
                self.waiting.push_back(message);
            } else if flags & ERROR != 0 {
                return Ok(Err(i32::try_from(error).unwrap_or(0)));
            } else {
                return Ok(Ok(message.body));
            }
        }
    }

    pub(super) fn reply(&mut self, to: Header, answer: Answer) -> io::Result<()> {
        match answer {
            Ok((body, descriptors)) => {
                self.send(&message(Header { flags: REPLY, ..to }, &body), &descriptors)
            }
            Err(errno) => {
                let error = errno.unsigned_abs();
                self.send(&message(Header { flags: REPLY | ERROR, error, ..to }, &[]), &[])
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let (mut rest, mut descriptors) = (bytes, descriptors);
        while !rest.is_empty() {
            let rights = [ControlMessage::ScmRights(descriptors)];
            let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
            let sent = sendmsg::<UnixAddr>(fd, &[IoSlice::new(rest)], rights, flags, None)?;
            (rest, descriptors) = (&rest[sent..], &[]);
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<Message>> {
        let mut head = [0; HEADER];
        let (count, descriptors) = self.head(&mut head)?;
        if count == 0 {
            return Ok(None);
        }
        self.socket.read_exact(&mut head[count..])?;
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let word = |at: usize| words(&head[at..]).next().unwrap_or(0);
        let header = Header { id: half(0), command: half(2), flags: word(8), error: word(12) };
        let size = usize::try_from(word(4)).unwrap_or(0).saturating_sub(HEADER);
        let mut body = vec![0; size];
        self.socket.read_exact(&mut body)?;
        Ok(Some(Message { header, body, descriptors }))
    }

    /// Descriptors come with the first bytes.
    fn head(&self, head: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let (mut slices, flags) = ([IoSliceMut::new(head)], MsgFlags::MSG_CMSG_CLOEXEC);
        let fd = self.socket.as_raw_fd();
        let received = recvmsg::<UnixAddr>(fd, &mut slices, Some(&mut space), flags)?;
        let mut descriptors = Vec::new();
        for rights in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = rights {
                // SAFETY: the kernel has just given these to us alone.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        Ok((received.bytes, descriptors))
    }
}

/// Words of a body.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word))
}

/// Words as a body.
pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn message(header: Header, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let halves = [header.id, header.command].map(u16::to_ne_bytes).concat();
    [halves, bytes(&[size, header.flags, header.error]), body.to_vec()].concat()
}
