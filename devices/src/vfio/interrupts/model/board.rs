//! A fake host and a fake machine on one board: the device signals eventfds that
//! the host has wired, and the machine turns them into messages. Counts are
//! plain numbers, so that a signal costs no system call; the eventfds themselves
//! are only names.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{PENDING, SLOTS};
use crate::irq::{Change, Delivery, Line, LineEnds, Message, Route, Vectors};
use crate::vfio::config::Location;
use crate::vfio::interrupts::Wiring;
use crate::vfio::sys::device::Index;

/// Eventfds for the vectors, made once. A reset of the vectors changes over to
/// the other row, so that wires that were left behind are told apart.
pub(super) struct Events {
    rows: [Vec<Arc<EventFd>>; 2],
    line: Arc<EventFd>,
}

impl Events {
    pub(super) fn new(vectors: u16) -> Self {
        let event = || Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let row = || (0..vectors).map(|_| event()).collect();
        Self { rows: [row(), row()], line: event() }
    }
}

/// Everything that host and machine know.
pub(super) struct Board {
    events: Arc<Events>,
    row: usize,
    counts: BTreeMap<RawFd, u32>,
    routes: Vec<Route>,
    sent: Vec<Message>,
    active: Vec<Index>,
    wires: BTreeMap<u16, RawFd>,
    /// The device's own Pending bits: vectors that it keeps masked itself.
    device_pending: Vec<bool>,
    line_connected: bool,
    /// Calls of [`Vectors::apply`].
    changes: usize,
    grows: bool,
}

/// A handle on the board, as [`Wiring`] and as [`Vectors`].
#[derive(Clone)]
pub(super) struct Handle(Arc<Mutex<Board>>);

impl Board {
    fn event(&self, vector: usize) -> &Arc<EventFd> {
        &self.events.rows[self.row][vector]
    }

    /// Delivers what was signalled on `vector`, if it has somewhere to go.
    fn deliver(&mut self, vector: usize) {
        let fd = self.event(vector).as_raw_fd();
        if let Route::To(message) = self.routes[vector]
            && self.counts.remove(&fd).is_some()
        {
            self.sent.push(message);
        }
    }

    /// Takes over what was written to the eventfds themselves.
    fn listen(&mut self) {
        for event in self.events.rows.iter().flatten().filter(|_| !self.grows) {
            if let Ok(count) = event.read() {
                *self.counts.entry(event.as_raw_fd()).or_default() += u32::try_from(count).unwrap();
            }
        }
        (0..self.routes.len()).for_each(|vector| self.deliver(vector));
    }
}

impl Handle {
    pub(super) fn new(events: Arc<Events>, grows: bool) -> Self {
        let count = events.rows[0].len();
        let board = Board {
            events,
            row: 0,
            counts: BTreeMap::new(),
            routes: vec![Route::Masked; count],
            sent: Vec::new(),
            active: Vec::new(),
            wires: BTreeMap::new(),
            device_pending: vec![false; count],
            line_connected: false,
            changes: 0,
            grows,
        };
        Self(Arc::new(Mutex::new(board)))
    }

    pub(super) fn line(&self) -> Pin {
        let line = Arc::clone(&self.board().events.line);
        Pin(self.clone(), line)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap()
    }

    /// The device has something to say on `vector`: it signals a wired one, and
    /// keeps the news of one that is not.
    pub(super) fn fire_from_device(&self, vector: u16) {
        let mut board = self.board();
        if let Some(fd) = board.wires.get(&vector).copied() {
            *board.counts.entry(fd).or_default() += 1;
            board.deliver(vector.into());
        } else if board.active == [Index::Msix] {
            board.device_pending[usize::from(vector)] = true;
        }
    }

    /// Messages that arrived since the last look.
    pub(super) fn take_sent(&self) -> Vec<Message> {
        std::mem::take(&mut self.board().sent)
    }

    /// How often vectors were given new routes.
    pub(super) fn changes(&self) -> usize {
        self.board().changes
    }

    /// Whether `index` is on and no other, on both sides.
    pub(super) fn is_active(&self, index: Option<Index>) -> bool {
        let board = self.board();
        let line = index == Some(Index::Intx);
        board.active.iter().eq(&index) && board.line_connected == line
    }

    /// Which vectors are wired, each to the eventfd that the machine has for it.
    pub(super) fn wired(&self) -> [bool; SLOTS] {
        let board = self.board();
        let mut wired = [false; SLOTS];
        for (vector, fd) in &board.wires {
            let vector = usize::from(*vector);
            let right = board.event(vector).as_raw_fd() == *fd;
            wired.iter_mut().skip(vector).take(1).for_each(|wired| *wired = right);
        }
        wired
    }
}

impl Wiring for Handle {
    fn wire(&self, index: Index, start: u32, triggers: &[Option<&EventFd>]) -> io::Result<()> {
        let mut board = self.board();
        if board.active.iter().any(|active| *active != index) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        board.active = vec![index];
        for (vector, trigger) in (u16::try_from(start).unwrap()..).zip(triggers) {
            let Some(trigger) = trigger.filter(|_| index != Index::Intx) else { continue };
            let fd = trigger.as_raw_fd();
            board.wires.insert(vector, fd);
            if std::mem::take(&mut board.device_pending[usize::from(vector)]) {
                *board.counts.entry(fd).or_default() += 1;
                board.deliver(vector.into());
            }
        }
        Ok(())
    }

    fn unmask_on(&self, _resample: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn unwire(&self, index: Index) -> io::Result<()> {
        let mut board = self.board();
        board.active.retain(|active| *active != index);
        board.wires.clear();
        Ok(())
    }

    fn fire(&self, _index: Index, _vector: u32) -> io::Result<()> {
        Ok(())
    }

    fn grows(&self) -> bool {
        self.board().grows
    }

    fn read_pending(&self, at: Location, data: &mut [u8]) -> io::Result<()> {
        assert_eq!(at.bar, PENDING.bar);
        let first = usize::try_from(at.offset - PENDING.offset).unwrap() * 8;
        data.fill(0);
        let board = self.board();
        let pending = (0..board.device_pending.len()).filter(|v| board.device_pending[*v]);
        for bit in pending.filter_map(|vector| vector.checked_sub(first)) {
            data.iter_mut().skip(bit / 8).take(1).for_each(|byte| *byte |= 1 << (bit % 8));
        }
        Ok(())
    }

    fn count_failure(&self) -> u64 {
        panic!("nothing fails on this host");
    }
}

impl Vectors for Handle {
    fn count(&self) -> u16 {
        u16::try_from(self.board().routes.len()).unwrap()
    }

    fn apply(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut board = self.board();
        board.listen();
        board.changes += 1;
        for change in changes {
            board.routes[usize::from(change.vector)] = change.route;
            board.deliver(change.vector.into());
        }
        Ok(())
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        Ok(Arc::clone(self.board().event(vector.into())))
    }

    fn pending(&self, vector: u16) -> bool {
        let board = self.board();
        let vector = usize::from(vector);
        // Of a vector that is not masked, nobody should ask.
        let on_its_way = board.routes[vector] != Route::Masked;
        on_its_way || board.counts.contains_key(&board.event(vector).as_raw_fd())
    }

    fn delivery(&self, _vector: u16) -> Delivery {
        Delivery::default()
    }

    fn reset(&mut self) {
        let mut board = self.board();
        board.routes.fill(Route::Masked);
        board.counts.clear();
        board.device_pending.fill(false);
        board.row = 1 - board.row;
    }
}

/// The function's line, and the eventfd that stands for both of its ends.
pub(super) struct Pin(Handle, Arc<EventFd>);

impl Line for Pin {
    fn number(&self) -> u32 {
        16
    }

    fn connect(&mut self) -> io::Result<LineEnds<'_>> {
        self.0.board().line_connected = true;
        Ok(LineEnds { trigger: &self.1, resample: &self.1 })
    }

    fn disconnect(&mut self) {
        self.0.board().line_connected = false;
    }
}
