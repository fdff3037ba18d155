//! A fake host and a fake machine on one board: the device signals eventfds that
//! the host has wired, and the machine turns them into messages. Counts are
//! plain numbers, so that a signal costs no system call; the eventfds themselves
//! are only names.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{PENDING, SLOTS};
use crate::irq::{Change, Delivery, Line, LineEnds, Message, Route, Unapplied, Vectors};
use crate::vfio::config::Location;
use crate::vfio::interrupts::Wiring;
use crate::vfio::sys::device::Index;

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

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

/// What the host has left for the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Interrupt vectors that it can have allocated; beyond them it is ENOSPC.
    pub(super) vectors: usize,
    /// Eventfds of vectors that can be open; beyond them it is EMFILE.
    pub(super) descriptors: usize,
}

impl Limits {
    pub(super) const NONE: Self = Self { vectors: usize::MAX, descriptors: usize::MAX };
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
    limits: Limits,
    /// Vectors that the host has allocated for the active index.
    allocated: BTreeSet<u16>,
    /// Vectors whose eventfd is open.
    open: BTreeSet<u16>,
    /// How often MSI-X was turned on.
    enablings: usize,
    /// Since the last look at the eventfds.
    was_enabled: bool,
    /// A vector that fires when the machine has stopped delivering it.
    fires_while_masked: Option<u16>,
    /// Vectors that the device is sending, having kept them until they were wired.
    sending: Vec<u16>,
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

    /// The kernel's `vfio_msi_enable` and `vfio_msi_alloc_irq`: vectors are
    /// allocated when an index comes on, and later one by one if it can do that.
    fn allocate(&mut self, index: Index, vectors: Range<u16>) -> io::Result<()> {
        if self.active.iter().any(|active| *active != index) {
            return Err(errno(libc::EINVAL));
        }
        let wanted = match (self.active.is_empty(), self.grows && index == Index::Msix) {
            (true, _) => (0..vectors.end).collect(),
            (false, true) => self.allocated.iter().copied().chain(vectors).collect(),
            (false, false) if vectors.clone().all(|v| self.allocated.contains(&v)) => return Ok(()),
            (false, false) => return Err(errno(libc::EINVAL)),
        };
        let room = self.limits.vectors.max(self.allocated.len());
        if BTreeSet::len(&wanted) > room && index != Index::Intx {
            return Err(errno(libc::ENOSPC));
        }
        if self.active.is_empty() && index == Index::Msix {
            self.enablings += 1;
            self.was_enabled = true;
        }
        (self.allocated, self.active) = (wanted, vec![index]);
        Ok(())
    }

    /// Takes over what was written to the eventfds themselves, which only a host
    /// does whose vectors go off and on again.
    fn listen(&mut self) {
        if !std::mem::take(&mut self.was_enabled) {
            return;
        }
        for event in self.events.rows.iter().flatten() {
            if let Ok(count) = event.read() {
                *self.counts.entry(event.as_raw_fd()).or_default() += u32::try_from(count).unwrap();
            }
        }
        (0..self.routes.len()).for_each(|vector| self.deliver(vector));
    }

    /// What the device has sent when it was unmasked takes a moment to arrive.
    fn arrive(&mut self) {
        self.listen();
        for vector in std::mem::take(&mut self.sending) {
            self.signal(vector);
        }
    }

    /// An event on `vector`, if it is wired.
    fn signal(&mut self, vector: u16) -> bool {
        let Some(fd) = self.wires.get(&vector).copied() else { return false };
        *self.counts.entry(fd).or_default() += 1;
        self.deliver(vector.into());
        true
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
            limits: Limits::NONE,
            allocated: BTreeSet::new(),
            open: BTreeSet::new(),
            enablings: 0,
            was_enabled: false,
            fires_while_masked: None,
            sending: Vec::new(),
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
        if !board.signal(vector) && board.active == [Index::Msix] {
            board.device_pending[usize::from(vector)] = true;
        }
    }

    /// The device has nothing to say on `vector` any more.
    pub(super) fn retract(&self, vector: u16) {
        self.board().device_pending[usize::from(vector)] = false;
    }

    /// The device fires `vector` when the next operation masks it.
    pub(super) fn fire_while_masking(&self, vector: u16) {
        self.board().fires_while_masked = Some(vector);
    }

    /// Messages that arrived since the last look.
    pub(super) fn take_sent(&self) -> Vec<Message> {
        let mut board = self.board();
        board.arrive();
        board.fires_while_masked = None;
        std::mem::take(&mut board.sent)
    }

    /// What the host has left from now on.
    pub(super) fn limit(&self, limits: Limits) {
        self.board().limits = limits;
    }

    /// How often MSI-X was turned on.
    pub(super) fn enablings(&self) -> usize {
        self.board().enablings
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
        let start = u16::try_from(start).unwrap();
        board.allocate(index, start..start + u16::try_from(triggers.len()).unwrap())?;
        for (vector, trigger) in (start..).zip(triggers) {
            let Some(trigger) = trigger.filter(|_| index != Index::Intx) else {
                board.wires.remove(&vector);
                continue;
            };
            board.wires.insert(vector, trigger.as_raw_fd());
            if std::mem::take(&mut board.device_pending[usize::from(vector)]) {
                board.sending.push(vector);
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
        board.sending.clear();
        board.allocated.clear();
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
        0
    }
}

impl Vectors for Handle {
    fn count(&self) -> u16 {
        u16::try_from(self.board().routes.len()).unwrap()
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Vec<Unapplied>> {
        let mut board = self.board();
        board.listen();
        board.changes += 1;
        for change in changes {
            board.routes[usize::from(change.vector)] = change.route;
            board.deliver(change.vector.into());
            if change.route == Route::Masked {
                board.fires_while_masked.take_if(|v| *v == change.vector).map(|v| board.signal(v));
            }
        }
        Ok(())
    }

    fn trigger(&mut self, vector: u16) -> io::Result<Arc<EventFd>> {
        let mut board = self.board();
        let room = board.open.len() < board.limits.descriptors;
        if !board.open.contains(&vector) && !room {
            return Err(errno(libc::EMFILE));
        }
        board.open.insert(vector);
        Ok(Arc::clone(board.event(vector.into())))
    }

    fn pending(&self, vector: u16) -> bool {
        let board = self.board();
        let vector = usize::from(vector);
        // Of a vector that is not masked, nobody should ask.
        let on_its_way = board.routes[vector] != Route::Masked;
        on_its_way || board.counts.contains_key(&board.event(vector).as_raw_fd())
    }

    fn forget(&mut self, vector: u16) {
        let mut board = self.board();
        let fd = board.event(vector.into()).as_raw_fd();
        board.counts.remove(&fd);
    }

    fn delivery(&self, _vector: u16) -> Delivery {
        Delivery::default()
    }

    fn reset(&mut self) {
        let mut board = self.board();
        board.routes.fill(Route::Masked);
        board.counts.clear();
        board.device_pending.fill(false);
        board.open.clear();
        board.row = 1 - board.row;
    }

    fn give_back(&mut self) {
        self.reset();
    }
}

/// The function's line, and the eventfd that stands for both of its ends.
pub(super) struct Pin(Handle, Arc<EventFd>);

impl Line for Pin {
    fn number(&self) -> u32 {
        16
    }

    fn connect(&mut self) -> io::Result<LineEnds<'_>> {
        let mut board = self.0.board();
        if board.limits.descriptors == 0 {
            return Err(errno(libc::EMFILE));
        }
        board.line_connected = true;
        Ok(LineEnds { trigger: &self.1, resample: &self.1 })
    }

    fn disconnect(&mut self) {
        self.0.board().line_connected = false;
    }
}
