//! Where the guest's output goes, and the backlog of what could not go yet.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

/// Most bytes that wait for a slow or absent peer. The oldest go first.
pub(crate) const BACKLOG: usize = 64 << 10;

/// A writer that never blocks and never fails. Without a peer at first, and
/// then it keeps nothing either.
#[derive(Default)]
pub struct Output {
    peer: Option<File>,
    /// Whether output waits for a peer that is still to come.
    awaits: bool,
    backlog: VecDeque<u8>,
}

impl Output {
    /// Keep output for a peer that may come later.
    pub(super) fn await_peer(&mut self) {
        self.awaits = true;
    }

    /// From now on output goes to `peer`, which must not block, and what waited
    /// goes first.
    pub(super) fn attach(&mut self, peer: File) {
        self.peer = Some(peer);
        self.drain();
    }

    /// The peer is gone.
    pub(super) fn detach(&mut self) {
        self.peer = None;
        if !self.awaits {
            self.backlog.clear();
        }
    }

    /// Whether bytes wait that the present peer could still take.
    pub(crate) fn owes(&self) -> bool {
        self.peer.is_some() && !self.backlog.is_empty()
    }

    /// Sends as much of the backlog as the peer takes.
    pub(super) fn drain(&mut self) {
        while self.owes() {
            let sent = self.send(self.backlog.as_slices().0);
            if sent == 0 {
                return;
            }
            self.backlog.drain(..sent);
        }
    }

    /// How many of `bytes` are done with: taken by the peer, or refused for good.
    fn send(&self, bytes: &[u8]) -> usize {
        let Some(mut peer) = self.peer.as_ref() else { return 0 };
        loop {
            match peer.write(bytes) {
                Ok(sent) => return sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                // A client that vanished: the next one gets it.
                Err(_) if self.awaits => return 0,
                // A full disk or a closed pipe: what is sent meanwhile is lost.
                Err(_) => return bytes.len(),
            }
        }
    }

    /// Keeps `bytes`, which are far fewer than [`BACKLOG`].
    fn keep(&mut self, bytes: &[u8]) {
        if self.awaits || self.peer.is_some() {
            self.backlog.extend(bytes);
            let excess = self.backlog.len().saturating_sub(BACKLOG);
            self.backlog.drain(..excess);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = if self.backlog.is_empty() { self.send(bytes) } else { 0 };
        self.keep(&bytes[sent..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
