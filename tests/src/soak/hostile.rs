//! Clients that mean no good: they promise and do not keep, send and do not listen, or never end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Dice;
use crate::error::{Doing, Result};
use crate::http::Api;

/// Connections that one of them keeps open at a time.
const HELD: usize = 8;

/// More than any socket's buffers hold, in bytes.
const FLOOD: usize = 4 << 20;

/// One who annoys until told to stop. Connections are left half-way, and dropped one after the other.
pub(super) struct Nuisance<'a> {
    api: &'a Api,
    held: Vec<UnixStream>,
    dice: Dice,
}

impl<'a> Nuisance<'a> {
    pub(super) fn new(api: &'a Api, dice: Dice) -> Self {
        Self { api, held: Vec::new(), dice }
    }

    /// How often it annoyed.
    pub(super) fn annoy_until(mut self, over: &AtomicBool) -> Result<u64> {
        let mut times = 0;
        while !over.load(Ordering::Relaxed) {
            let deed = *self.dice.pick(&[half_open, slow, deaf, oversized, hasty, half_closed]);
            let mut connection = self.api.connect()?;
            connection.set_nonblocking(true).doing("make a socket that does not block")?;
            deed(&mut connection, &mut self.dice);
            self.held.push(connection);
            if self.held.len() > HELD {
                self.held.remove(self.dice.below(HELD));
            }
            times += 1;
        }
        Ok(times)
    }
}

// What a server makes of these is its own affair: it may hang up at any point, so errors mean nothing.

/// Begins a request and leaves it at that.
fn half_open(connection: &mut UnixStream, dice: &mut Dice) {
    let text = b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"payload\":";
    let end = dice.below(text.len());
    let _ = connection.write(&text[..end]);
}

/// A byte at a time.
fn slow(connection: &mut UnixStream, _dice: &mut Dice) {
    for byte in b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        let _ = connection.write(&[*byte]);
        std::thread::yield_now();
    }
}

/// Asks and asks, and never reads an answer.
fn deaf(connection: &mut UnixStream, dice: &mut Dice) {
    let many =
        b"GET /api/v1/vm.info HTTP/1.1\r\n\r\nGET /api/v1/vmm.ping HTTP/1.1\r\n\r\n".repeat(64);
    flood(connection, &many, dice.below(FLOOD));
}

/// A body without end.
fn oversized(connection: &mut UnixStream, dice: &mut Dice) {
    let head = b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n";
    let _ = connection.write(head);
    flood(connection, &[b' '; 4096], dice.below(FLOOD));
}

/// Comes, and goes at once, with a request under way.
fn hasty(connection: &mut UnixStream, _dice: &mut Dice) {
    let _ = connection.write(b"GET /api/v1/vm.info HTTP/1.1\r\n\r\n");
    let _ = connection.shutdown(Shutdown::Both);
}

/// Sends all, hangs up half, and listens a little.
fn half_closed(connection: &mut UnixStream, _dice: &mut Dice) {
    let _ = connection.write(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\nGET /api/v1/vm.in");
    let _ = connection.shutdown(Shutdown::Write);
    let _ = connection.read(&mut [0; 64]);
}

/// Until the socket is full, or the server hangs up, or `most` bytes are sent.
fn flood(connection: &mut UnixStream, bytes: &[u8], most: usize) {
    let mut sent = 0;
    while sent < most {
        match connection.write(bytes) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
