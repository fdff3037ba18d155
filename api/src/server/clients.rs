//! All clients of the server, and the loop that serves them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Turn};
use super::door::{Door, SPARES, Visitor};
use super::finished::Finished;
use super::stream::Stream;
use crate::mailbox::Sender;
use crate::request::{Answer, Fault, Request, Status, code};

/// Clients that are served at the same time; the machine needs descriptors too.
const MAX_CLIENTS: usize = 512;

/// Epoll tokens below [`FIRST_CLIENT`]; clients' tokens are never used again.
const DOOR: u64 = 0;
const FINISHED: u64 = 1;
const FIRST_CLIENT: u64 = 2;

/// Events fetched at a time.
const BATCH: usize = 64;

/// Visitors who are let in before clients have their turn again: those who come and
/// go without end must neither keep the others waiting nor fill their places.
const VISITORS: usize = 16;

/// Pause before knocking again at an empty stock of descriptors, in milliseconds.
const RETRY_MS: i32 = 20;

/// How long the last answers may take to go out when the server stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// Who may be at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knock {
    /// Nobody until it says so again.
    Nobody,
    /// Perhaps somebody.
    Somebody,
    /// Perhaps somebody, but there is no descriptor to open it with.
    Unheard,
}

/// Registers what the loop waits for besides clients.
pub(super) fn watch(epoll: &Epoll, door: &Door, finished: &Finished) -> io::Result<()> {
    add(epoll, door.as_raw_fd(), DOOR)?;
    add(epoll, finished.as_raw_fd(), FINISHED)
}

/// Everything the HTTP thread owns while it runs.
pub(super) struct Clients<'a> {
    epoll: &'a Epoll,
    door: Door,
    finished: &'a Arc<Finished>,
    machine: &'a Sender,
    connections: BTreeMap<u64, Connection>,
    /// Clients that only stay to be told 503, oldest first.
    surplus: VecDeque<u64>,
    /// Clients that have more to do at once.
    again: BTreeSet<u64>,
    knock: Knock,
    next_token: u64,
}

impl<'a> Clients<'a> {
    pub(super) fn new(
        epoll: &'a Epoll,
        door: Door,
        finished: &'a Arc<Finished>,
        machine: &'a Sender,
    ) -> Self {
        Self {
            epoll,
            door,
            finished,
            machine,
            connections: BTreeMap::new(),
            surplus: VecDeque::new(),
            again: BTreeSet::new(),
            knock: Knock::Nobody,
            next_token: FIRST_CLIENT,
        }
    }

    /// Serves until asked to stop.
    ///
    /// # Errors
    /// When the kernel does not let us wait for events.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let timeout = self.patience();
            for event in wait(self.epoll, timeout, &mut events)? {
                match event.data() {
                    DOOR => self.knock = Knock::Somebody,
                    FINISHED => {}
                    token => self.advance(token),
                }
            }
            let (answers, stopping) = self.finished.fetch();
            self.deliver(&answers);
            if stopping {
                return self.say_goodbye();
            }
            for token in std::mem::take(&mut self.again) {
                self.advance(token);
            }
            self.let_in();
        }
    }

    /// How long to wait for an event, in milliseconds.
    fn patience(&self) -> i32 {
        const FOREVER: i32 = -1;
        if !self.again.is_empty() {
            return 0;
        }
        match self.knock {
            Knock::Somebody => 0,
            Knock::Unheard => RETRY_MS,
            Knock::Nobody => FOREVER,
        }
    }

    fn deliver(&mut self, answers: &[(u64, Answer)]) {
        for (token, answer) in answers {
            // Whoever asked may have hung up.
            if let Some(connection) = self.connections.get_mut(token) {
                connection.answer(answer);
                self.advance(*token);
            }
        }
    }

    fn advance(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let (machine, finished) = (self.machine, self.finished);
        match connection.advance(&|request: Request| machine.ask(request, finished.reply(token))) {
            Turn::Wait => {}
            Turn::Again => drop(self.again.insert(token)),
            Turn::Close => self.forget(token),
        }
    }

    fn forget(&mut self, token: u64) {
        self.connections.remove(&token);
        self.surplus.retain(|other| *other != token);
        self.door.restock(SPARES - self.surplus.len());
    }

    fn let_in(&mut self) {
        for _ in 0..VISITORS {
            if self.knock == Knock::Nobody {
                return;
            }
            match self.door.open() {
                Visitor::Guest(stream) if self.connections.len() < MAX_CLIENTS => {
                    self.admit(&stream, Connection::new(stream.clone()));
                }
                Visitor::Guest(stream) | Visitor::Surplus(stream) => self.turn_away(&stream),
                Visitor::Nobody => {
                    self.knock = Knock::Nobody;
                    self.door.restock(SPARES - self.surplus.len());
                }
                Visitor::Unknown if self.surplus.is_empty() => {
                    self.knock = Knock::Unheard;
                    return;
                }
                Visitor::Unknown => self.show_out(),
            }
        }
    }

    fn turn_away(&mut self, stream: &Stream) {
        if self.surplus.len() >= SPARES {
            self.show_out();
        }
        let fault =
            Fault::plain(Status::Busy, code::API_BUSY, "too many clients at once; try again later");
        self.surplus.push_back(self.next_token);
        self.admit(stream, Connection::refusing(stream.clone(), fault));
    }

    /// Hangs up on the oldest surplus client; its descriptor is a spare again.
    fn show_out(&mut self) {
        if let Some(token) = self.surplus.pop_front()
            && let Some(mut connection) = self.connections.remove(&token)
        {
            // What it has asked by now is read, or closing would reset it.
            connection.advance(&|_| ());
            connection.give_up();
        }
        // Before a guest takes the descriptor that this freed.
        self.door.restock(SPARES - self.surplus.len());
    }

    fn admit(&mut self, stream: &Stream, connection: Connection) {
        let token = self.next_token;
        self.next_token += 1;
        self.connections.insert(token, connection);
        match add(self.epoll, stream.as_raw_fd(), token) {
            // Its first bytes may be there already; the first event says so.
            Ok(()) => {}
            Err(_) => self.forget(token),
        }
    }

    /// Gives the last answers some time to go out.
    fn say_goodbye(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + FAREWELL;
        let mut events = [EpollEvent::default(); BATCH];
        self.connections.retain(|_, connection| connection.has_unsent());
        while !self.connections.is_empty() && Instant::now() < deadline {
            for event in wait(self.epoll, RETRY_MS, &mut events)? {
                self.advance(event.data());
            }
            self.connections.retain(|_, connection| connection.has_unsent());
        }
        Ok(())
    }
}

fn add(epoll: &Epoll, fd: RawFd, token: u64) -> io::Result<()> {
    let interest = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(interest, token))
}

fn wait<'e>(
    epoll: &Epoll,
    timeout: i32,
    events: &'e mut [EpollEvent],
) -> io::Result<&'e [EpollEvent]> {
    let count = match epoll.wait(timeout, events) {
        Err(error) if error.kind() == ErrorKind::Interrupted => 0,
        outcome => outcome?,
    };
    Ok(&events[..count])
}
