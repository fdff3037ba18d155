//! One client's connection without the thread, the socket's name and the machine
//! around it: what `tests/fuzz` drives, step by step and on its own thread.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixStream;

use super::connection::{Connection, Turn};
use super::stream::Stream;
use crate::request::{Answer, Request};

/// A connection of which the caller is the event loop and the machine.
pub struct Lone(Option<Connection>);

impl Lone {
    /// Serves the client at the other end of `socket`.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Connection::new(Stream::new(socket)))))
    }

    /// Does all that can be done without waiting. Returns what the machine was
    /// asked meanwhile: by rights one request at most, and none while another
    /// waits for its [`Lone::answer`].
    pub fn advance(&mut self) -> Vec<Request> {
        let asked = RefCell::new(Vec::new());
        while let Some(connection) = &mut self.0 {
            match connection.advance(&|request| asked.borrow_mut().push(request)) {
                Turn::Wait => break,
                Turn::Again => {}
                Turn::Close => self.0 = None,
            }
        }
        asked.into_inner()
    }

    /// The machine's answer to the request in flight.
    pub fn answer(&mut self, answer: &Answer) {
        self.0.iter_mut().for_each(|connection| connection.answer(answer));
    }

    /// Whether the server has not hung up.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }
}
