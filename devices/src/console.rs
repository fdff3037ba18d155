//! The host's half of a port through which a guest speaks: what it is connected to.
//!
//! ```text
//! guest ── Port (a serial port, a paravirtual console) ── Output, never blocking ──> tty, file, socket, pty
//! event loop ──> Console ── reads input, accepts clients, sends what had to wait
//! ```
//!
//! The guest's output goes out on the thread that has it as long as the other
//! side takes it. What it does not take waits in a bounded backlog, oldest bytes
//! are dropped first, and [`Console`] sends it later: a slow or stuck peer never
//! stops a guest.
//!
//! Everything it waits for hangs on one epoll descriptor of its own, which
//! never changes; the event loop watches that one ([`AsRawFd`]) and calls
//! [`Console::ready`].
//!
//! Input is armed for one report at a time and armed again only when the FIFO
//! has room, output reports edges, and a descriptor that ended is closed: so a
//! guest that does not read, a peer that does not, and one that hung up all
//! cost nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

mod output;
mod terminal;

#[cfg(test)]
pub(crate) use output::BACKLOG;
pub use output::Output;
pub use terminal::restore as restore_terminal;
use terminal::{Pty, RawMode};

/// Most input read at once; a serial port's FIFO holds no more.
const CHUNK: usize = 64;
/// How long a console that goes away waits for its peer to take the rest.
const LINGER: Duration = Duration::from_millis(500);

/// The guest's half. Nothing here may wait, for the guest or for anybody else.
pub trait Port: Send + Sync {
    /// Written whenever the guest has read all input there was.
    fn drained(&self) -> &EventFd;

    /// How many bytes of input it takes now.
    fn room(&self) -> usize;

    /// Hands input to the guest; at most [`Self::room`] bytes.
    fn receive(&self, input: &[u8]);

    /// Gives `act` the place where output goes.
    fn with_output(&self, act: &mut dyn FnMut(&mut Output));
}

/// What a port is connected to. One that is `off` is not there.
#[derive(Debug)]
pub enum Backend {
    /// Nothing: output is dropped, there is no input.
    Null,
    /// Standard input and output. A terminal is in raw mode meanwhile.
    Tty,
    /// Output only. Open it with `O_NONBLOCK` if it may be a FIFO or device.
    File(File),
    /// One client at a time; a new one takes over. While there is none, the
    /// last 64 KiB of output wait for the next.
    Socket(UnixListener),
    /// A new pseudo-terminal; [`Console::pty`] says where.
    Pty,
}

/// The connected end of a [`Port`]; belongs to the event loop.
pub struct Console {
    port: Arc<dyn Port>,
    epoll: Epoll,
    input: Option<File>,
    /// Where the descriptor that reports output is, for the epoll set only.
    output: Option<OwnedFd>,
    /// Input was there when the FIFO was full.
    stalled: bool,
    listener: Option<UnixListener>,
    pty: Option<(PathBuf, OwnedFd)>,
    _raw: Option<RawMode>,
}

/// What a report of the epoll set is about.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Source {
    Drained,
    Input,
    Output,
    Listener,
}

impl Console {
    /// Connects `port` to `backend`.
    pub fn new(backend: Backend, port: Arc<dyn Port>) -> io::Result<Self> {
        let mut console = Self {
            epoll: Epoll::new()?,
            input: None,
            output: None,
            stalled: false,
            listener: None,
            pty: None,
            _raw: None,
            port,
        };
        console.watch(console.port.drained().as_raw_fd(), Source::Drained)?;
        match backend {
            Backend::Null => {}
            Backend::Tty => console.connect_tty()?,
            Backend::File(file) => console.send_to(file)?,
            Backend::Socket(listener) => console.listen(listener)?,
            Backend::Pty => console.connect_pty()?,
        }
        Ok(console)
    }

    /// Path of the pseudo-terminal, if that is the backend.
    pub fn pty(&self) -> Option<&Path> {
        self.pty.as_ref().map(|(path, _)| path.as_path())
    }

    /// Does what there is to do now; to be called when the descriptor is
    /// readable. Never blocks.
    pub fn ready(&mut self) {
        self.ready_within(Duration::ZERO);
    }

    /// Whether more input may come.
    #[cfg(test)]
    pub(crate) fn listens(&self) -> bool {
        self.input.is_some()
    }

    /// Whether output waits that the present peer could still take.
    fn owes(&self) -> bool {
        let mut owes = false;
        self.port.with_output(&mut |output| owes = output.owes());
        owes
    }

    fn ready_within(&mut self, patience: Duration) {
        let mut events = [EpollEvent::default(); 4];
        let timeout = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let count = self.epoll.wait(timeout, &mut events).unwrap_or(0);
        for event in &events[..count] {
            let ended = event.event_set().intersects(EventSet::HANG_UP | EventSet::ERROR);
            match Source::of(event.data()) {
                Some(Source::Drained) => self.drained(),
                Some(Source::Input) => self.read(),
                Some(Source::Output) if ended => self.close_output(),
                Some(Source::Output) => self.port.with_output(&mut Output::drain),
                Some(Source::Listener) => self.accept(),
                None => {}
            }
        }
    }

    fn connect_tty(&mut self) -> io::Result<()> {
        self._raw = RawMode::enter()?;
        self.send_to(terminal::stdout()?)?;
        self.receive_from(io::stdin().as_fd().try_clone_to_owned()?.into())
    }

    fn connect_pty(&mut self) -> io::Result<()> {
        let Pty { master, slave, path } = Pty::open()?;
        self.pty = Some((path, slave));
        self.receive_from(master.try_clone()?)?;
        self.send_to(master)
    }

    fn listen(&mut self, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.watch(listener.as_raw_fd(), Source::Listener)?;
        self.listener = Some(listener);
        self.port.with_output(&mut Output::await_peer);
        Ok(())
    }

    fn accept(&mut self) {
        let accept = |listener: &UnixListener| listener.accept();
        while let Some(Ok((client, _))) = self.listener.as_ref().map(accept) {
            self.hang_up();
            if let Err(error) = self.connect(client) {
                log::warn!("console: a client could not be connected: {error}");
                self.hang_up();
            }
        }
    }

    fn connect(&mut self, client: UnixStream) -> io::Result<()> {
        client.set_nonblocking(true)?;
        let client = File::from(OwnedFd::from(client));
        self.receive_from(client.try_clone()?)?;
        self.send_to(client)
    }

    fn send_to(&mut self, peer: File) -> io::Result<()> {
        // A duplicate: one descriptor can not be in the set for input and output
        // both, and this one must live as long as its place in the set.
        let output = OwnedFd::from(peer.try_clone()?);
        self.watch(output.as_raw_fd(), Source::Output)?;
        self.output = Some(output);
        let mut peer = Some(peer);
        self.port.with_output(&mut |to| peer.take().into_iter().for_each(|peer| to.attach(peer)));
        Ok(())
    }

    pub(crate) fn receive_from(&mut self, peer: File) -> io::Result<()> {
        let watched = self.watch(peer.as_raw_fd(), Source::Input)?;
        self.input = Some(peer);
        if !watched {
            self.read_at_next_turn();
        }
        Ok(())
    }

    /// Puts `fd` into the set; `false` if it is of a kind that is always ready
    /// (a plain file, `/dev/null`).
    fn watch(&self, fd: RawFd, source: Source) -> io::Result<bool> {
        match self.epoll.ctl(ControlOperation::Add, fd, source.interest()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn drained(&mut self) {
        // An error only says that nothing was to be read.
        let _ = self.port.drained().read();
        if self.stalled {
            self.read();
        }
    }

    fn read(&mut self) {
        let room = self.port.room().min(CHUNK);
        self.stalled = room == 0;
        let Some(input) = self.input.as_mut().filter(|_| room > 0) else { return };
        let mut bytes = [0; CHUNK];
        match input.read(&mut bytes[..room]) {
            Ok(count) if count > 0 => {
                self.port.receive(&bytes[..count]);
                self.rearm();
            }
            Err(error) if retriable(&error) => self.rearm(),
            Ok(_) | Err(_) => self.close_input(),
        }
    }

    /// Asks for the next report of input.
    fn rearm(&mut self) {
        let Some(input) = &self.input else { return };
        let interest = Source::Input.interest();
        if self.epoll.ctl(ControlOperation::Modify, input.as_raw_fd(), interest).is_err() {
            self.read_at_next_turn();
        }
    }

    /// For input that is always ready: more when the guest has read this.
    fn read_at_next_turn(&mut self) {
        self.stalled = true;
        if self.port.room() > 0 {
            let _ = self.port.drained().write(1);
        }
    }

    fn close_input(&mut self) {
        if let Some(input) = self.input.take() {
            self.unwatch(input.as_raw_fd());
        }
        self.stalled = false;
    }

    /// The peer takes no more output. What it sent before is still read.
    fn close_output(&mut self) {
        self.port.with_output(&mut Output::detach);
        if let Some(output) = self.output.take() {
            self.unwatch(output.as_raw_fd());
        }
    }

    /// The peer goes, whether it wants to or not.
    fn hang_up(&mut self) {
        self.close_input();
        self.close_output();
    }

    /// Takes a descriptor out of the set before it is closed: its duplicates
    /// would keep reporting.
    fn unwatch(&self, fd: RawFd) {
        // Fails for those that were always ready and hence never in it.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }
}

impl Source {
    fn of(data: u64) -> Option<Self> {
        let all = [Self::Drained, Self::Input, Self::Output, Self::Listener];
        all.into_iter().find(|source| *source as u64 == data)
    }

    fn interest(self) -> EpollEvent {
        let events = match self {
            Self::Drained => EventSet::IN,
            // An edge: a client that can not be accepted is no reason to spin.
            Self::Listener => EventSet::IN | EventSet::EDGE_TRIGGERED,
            Self::Input => EventSet::IN | EventSet::ONE_SHOT,
            Self::Output => EventSet::OUT | EventSet::EDGE_TRIGGERED,
        };
        EpollEvent::new(events, self as u64)
    }
}

fn retriable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

impl AsRawFd for Console {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Drop for Console {
    /// Gives the peer a moment to take what it is owed, such as a guest's last words.
    fn drop(&mut self) {
        let deadline = Instant::now() + LINGER;
        self.close_input();
        while self.owes() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.ready_within(left);
        }
        self.hang_up();
    }
}
