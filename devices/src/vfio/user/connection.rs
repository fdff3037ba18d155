//! A connection to a server: who has asked what, and the thread that carries it.
//!
//! ```text
//! caller: a vCPU, a worker           carrier: the only thread at the socket
//!   queues a request, rings ────────► sends, as far as there is room
//!   waits, until its deadline         takes a reply, checks it against what was asked
//!   goes on ◄──────────────────────── wakes the caller
//!                                     DMA_READ, DMA_WRITE: answers from the RAM that is lent
//! ```
//! A connection is lost at the first answer that is late, and the first message that the
//! protocol does not allow: what comes after it would mean nothing. It stays lost; each
//! request fails at once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::ram::{Memory, Ram};
use super::wire::{Command, HEADER, Header, Kind, MOST_DESCRIPTORS};
use crate::vfio::health::Health;
use crate::vfio::sys::socket::{Socket, wait};

/// How long an answer may take. A vCPU stands still meanwhile, and Linux complains of a
/// processor that did so for 20 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many patiences an operation may take, of however many messages it is: the server
/// says how few bytes and descriptors go with one.
const OPERATION: u32 = 2;
/// So many its device may take until it is open.
const OPENING: u32 = 4;
/// With so many bytes on their way out, no more is read: a server that does not take
/// its answers gets no others.
const MOST_UNSENT: usize = 4 << 20;

/// Why a connection is lost.
type Why = String;

/// Our end of a connection, for those who ask. Its lock is held for as long as a message
/// takes to be handed to the kernel, which does not wait for the other side.
#[derive(Debug)]
pub struct Connection {
    state: Mutex<State>,
    changed: Condvar,
    /// Rung when the carrier has something to do.
    bell: EventFd,
    patience: Duration,
    ram: Ram,
}

/// The thread of a connection, to be started by whoever knows what a thread may do.
#[derive(Debug)]
pub struct Carrier {
    connection: Arc<Connection>,
    socket: Socket,
    /// Room for the rest of the message that is coming, and how much of it is there.
    bytes: Vec<u8>,
    filled: usize,
    descriptors: Vec<OwnedFd>,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) command: Command,
    pub(super) body: &'a [u8],
    /// Bytes that the answer's body may have at most.
    pub(super) most: usize,
    /// They stay open until it is answered.
    pub(super) descriptors: &'a [RawFd],
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    unsent: VecDeque<Unsent>,
    asked: BTreeMap<u16, Asked>,
    next: u16,
    lost: Option<Why>,
    /// Until its device is open: when it has to be.
    open_by: Option<Instant>,
    /// Of the device, if there is one yet.
    health: Option<Arc<Health>>,
}

/// A message on its way out.
#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    /// They go with its first byte. Whoever owns them waits for the answer.
    descriptors: Vec<RawFd>,
}

/// A request that somebody waits for.
#[derive(Debug)]
struct Asked {
    command: Command,
    most: usize,
    answer: Option<Result<Answer, i32>>,
}

/// Connects to the server that listens at `path`. It will have this RAM lent, and serves
/// nobody before the carrier runs.
pub(super) fn connect(path: &Path, memory: Memory) -> io::Result<(Arc<Connection>, Carrier)> {
    meet(Socket::connect(path, PATIENCE)?, memory, PATIENCE)
}

/// The same with a server that is there already.
pub(super) fn meet(
    socket: Socket,
    memory: Memory,
    patience: Duration,
) -> io::Result<(Arc<Connection>, Carrier)> {
    let open_by = Some(Instant::now() + patience * OPENING);
    let connection = Arc::new(Connection {
        state: Mutex::new(State { open_by, ..State::default() }),
        changed: Condvar::new(),
        bell: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        patience,
        ram: Ram::new(memory),
    });
    let (bytes, descriptors) = (vec![0; HEADER], Vec::new());
    let carrier =
        Carrier { connection: Arc::clone(&connection), socket, bytes, filled: 0, descriptors };
    Ok((connection, carrier))
}

impl Connection {
    /// Meets a server that is there already, and waits less for it, or more.
    ///
    /// # Errors
    /// There is no descriptor left.
    #[cfg(feature = "fuzzing")]
    pub fn meet(
        server: std::os::unix::net::UnixStream,
        memory: Memory,
        patience: Duration,
    ) -> io::Result<(Arc<Self>, Carrier)> {
        meet(Socket::new(server)?, memory, patience)
    }

    /// When an operation that begins now has to be over.
    pub(super) fn limit(&self) -> Instant {
        Instant::now() + self.patience * OPERATION
    }

    /// Asks, and waits for the answer; a message of an operation that is over by `limit`.
    ///
    /// # Errors
    /// The errno that the server has answered, or `BrokenPipe` with the reason why the
    /// connection is lost.
    pub(super) fn ask(&self, question: Question<'_>, limit: Instant) -> io::Result<Answer> {
        let (alone, name) = (Instant::now() + self.patience, question.command.name());
        let mut state = self.lock();
        let limit = state.open_by.map_or(limit, |open_by| limit.min(open_by));
        let deadline = alone.min(limit);
        let id = state.enter(question)?;
        self.ring();
        loop {
            if let Some(answer) = state.take(id) {
                return answer.map_err(io::Error::from_raw_os_error);
            }
            state.stands()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                self.lose(&match alone <= limit {
                    true => format!("it has not answered {name} within {:?}", self.patience),
                    false => format!("it is too slow: {name} is not the first that takes long"),
                });
                state = self.lock();
                continue;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Its device is open: has `health` told when the connection is lost, or now if it is.
    pub(in crate::vfio) fn tell(&self, health: &Arc<Health>) {
        let mut state = self.lock();
        state.open_by = None;
        state.health = Some(Arc::clone(health));
        let lost = state.stands();
        drop(state);
        if let Err(error) = lost {
            health.access_failed(SERVER, &error);
        }
    }

    /// The other side has given a reason not to talk to it any more. Its health says so before
    /// anybody who waits for an answer goes on.
    pub(super) fn lose(&self, why: &str) {
        let mut state = self.lock();
        if let Some(health) = state.close(why) {
            health.access_failed(SERVER, &lost(why));
        }
        self.wake(state);
    }

    /// Nobody asks any more: the carrier returns.
    pub fn end(&self) {
        let mut state = self.lock();
        state.close("it is not asked any more");
        self.wake(state);
    }

    /// RAM that the server has.
    pub(super) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Has all who wait look again.
    fn wake(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.changed.notify_all();
        self.ring();
    }

    fn ring(&self) {
        // Fails only when the count is about to overflow: it rings already.
        let _ = self.bell.write(1);
    }

    /// Sends what there is room for. How many bytes there are besides; nothing if the
    /// connection is lost.
    fn send(&self, socket: &Socket) -> Result<Option<usize>, Why> {
        let mut state = self.lock();
        if state.lost.is_some() {
            return Ok(None);
        }
        while let Some(message) = state.unsent.front_mut() {
            match socket.send(&message.bytes[message.sent..], &message.descriptors) {
                Ok(count) => message.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&error)),
            }
            message.descriptors.clear();
            if message.sent == message.bytes.len() {
                state.unsent.pop_front();
            }
        }
        Ok(Some(state.unsent.iter().map(|message| message.bytes.len() - message.sent).sum()))
    }

    /// Sends an answer of ours, some time.
    fn reply(&self, bytes: Vec<u8>) {
        self.lock().unsent.push_back(Unsent { bytes, sent: 0, descriptors: Vec::new() });
    }

    /// Whether an answer may bring descriptors: only what a worker asks, which may close
    /// them.
    fn wants_descriptors(&self) -> bool {
        self.lock().asked.values().any(Asked::wants_descriptors)
    }

    /// Whether a body as `header` announces it is to be expected.
    fn expects(&self, header: Header) -> Result<(), Why> {
        let state = self.lock();
        let outcome = match header.kind() {
            Kind::Command { .. } => return Ok(()),
            Kind::Reply(outcome) => outcome,
        };
        let asked = state
            .asked
            .get(&header.id)
            .filter(|asked| asked.answer.is_none() && asked.command as u16 == header.command);
        // One who has waited too long has lost the connection.
        let asked = asked.ok_or("it answers what it was not asked")?;
        let most = if outcome.is_ok() { asked.most } else { 0 };
        if header.size - HEADER <= most {
            return Ok(());
        }
        Err(format!("its answer to {} is too long", asked.command.name()))
    }

    /// Gives an answer to who has asked.
    fn answer(&self, header: Header, answer: Result<Answer, i32>) {
        if let Some(asked) = self.lock().asked.get_mut(&header.id) {
            asked.answer = Some(answer);
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stands(&self) -> io::Result<()> {
        self.lost.as_ref().map_or(Ok(()), |why| Err(lost(why)))
    }

    /// Loses the connection, unless it is lost; who is to be told then.
    fn close(&mut self, why: &str) -> Option<Arc<Health>> {
        if self.lost.is_some() {
            return None;
        }
        self.lost = Some(why.to_owned());
        self.unsent.clear();
        self.health.take()
    }

    /// Queues a request; its number.
    fn enter(&mut self, question: Question<'_>) -> io::Result<u16> {
        self.stands()?;
        let Question { command, body, most, descriptors } = question;
        // There are never as many requests as numbers: each has a thread that waits.
        while self.asked.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = id.wrapping_add(1);
        let bytes = Header::command(id, command, body.len()).message(body);
        self.unsent.push_back(Unsent { bytes, sent: 0, descriptors: descriptors.to_vec() });
        self.asked.insert(id, Asked { command, most, answer: None });
        Ok(id)
    }

    /// The answer to request `id`, or its place if there will be none.
    fn take(&mut self, id: u16) -> Option<Result<Answer, i32>> {
        let answer = self.asked.get_mut(&id)?.answer.take();
        if answer.is_some() || self.lost.is_some() {
            self.asked.remove(&id);
        }
        answer
    }
}

impl Asked {
    fn wants_descriptors(&self) -> bool {
        self.command == Command::RegionInfo && self.answer.is_none()
    }
}

impl Carrier {
    /// Carries messages until the connection is lost or ended.
    pub fn run(mut self) {
        if let Err(why) = self.carry() {
            self.connection.lose(&why);
        }
    }

    fn carry(&mut self) -> Result<(), Why> {
        loop {
            let Some(unsent) = self.connection.send(&self.socket)? else { return Ok(()) };
            let directions = (unsent < MOST_UNSENT, unsent > 0);
            let ready = wait(&self.connection.bell, &self.socket, directions)
                .map_err(|error| format!("it cannot be waited for: {error}"))?;
            if ready.rung {
                // Only this thread reads it.
                let _ = self.connection.bell.read();
            }
            if ready.readable {
                self.receive()?;
            }
        }
    }

    /// Takes what has come of one message. It is read in two steps, and never past its
    /// end, so that descriptors belong to the message that they come with.
    fn receive(&mut self) -> Result<(), Why> {
        let asked_for = self.connection.wants_descriptors();
        // However many pieces it comes in.
        let room = MOST_DESCRIPTORS.saturating_sub(self.descriptors.len());
        let most = if asked_for { room } else { 0 };
        let (count, came) = match self.socket.receive(&mut self.bytes[self.filled..], most) {
            Ok((0, _)) => return Err("it has closed the connection".to_owned()),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Err(match asked_for {
                    true => format!("it sends more descriptors than {MOST_DESCRIPTORS} at once"),
                    false => "it sends descriptors that nobody has asked for".to_owned(),
                });
            }
            Err(error) => return Err(broken(&error)),
        };
        self.filled += count;
        self.descriptors.extend(came);
        if self.filled < self.bytes.len() {
            return Ok(());
        }
        let header = self.bytes.first_chunk().and_then(Header::parse);
        let header = header.ok_or("it sends what is no message")?;
        if self.filled == HEADER {
            self.connection.expects(header)?;
            self.bytes.resize(header.size, 0);
            if header.size > HEADER {
                return Ok(());
            }
        }
        let message = std::mem::replace(&mut self.bytes, vec![0; HEADER]);
        self.filled = 0;
        let descriptors = std::mem::take(&mut self.descriptors);
        self.take(header, &message[HEADER..], descriptors);
        Ok(())
    }

    fn take(&self, header: Header, body: &[u8], descriptors: Vec<OwnedFd>) {
        match header.kind() {
            Kind::Reply(outcome) => {
                let answer = outcome.map(|()| Answer { body: body.to_vec(), descriptors });
                self.connection.answer(header, answer);
            }
            Kind::Command { answered } => {
                let served = self.connection.ram.serve(header.command, body);
                if answered {
                    self.connection.reply(match served {
                        Ok(body) => header.reply(body.len()).message(&body),
                        Err(errno) => header.refusal(errno).message(&[]),
                    });
                }
            }
        }
    }
}

impl Drop for Carrier {
    /// Whoever asks is not left waiting, however this ends.
    fn drop(&mut self) {
        self.connection.lose("nobody carries its messages");
    }
}

/// What fails when a connection is lost, in a device's health.
const SERVER: &str = "its vfio-user server";

fn lost(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, why.to_owned())
}

fn broken(error: &io::Error) -> Why {
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    if gone.contains(&error.kind()) {
        return "it has closed the connection".to_owned();
    }
    format!("its connection fails: {error}")
}
