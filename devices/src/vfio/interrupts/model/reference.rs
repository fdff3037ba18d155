//! The rules of the specification (PCI 3.0, 6.8) as a model: slow, obvious, and
//! written without a look at the code that it judges.
//!
//! All registers are plain values. After every event the model asks of each
//! vector: where does its message go now, if anywhere, and is there something
//! pending to send?

use super::board::Limits;
use super::{SLOTS, Setup};
use crate::irq::Message;
use crate::vfio::sys::device::Index;

pub(super) type Flags = [bool; SLOTS];
type Routes = [Option<Message>; SLOTS];

/// One entry of the MSI-X table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Address low, address high, data, vector control.
    pub(super) words: [u32; 4],
    /// What is sent: old or new, never a mix of both.
    heard: Message,
}

/// One function: what its guest wrote, and what that comes to.
#[derive(Debug)]
pub(super) struct Model {
    setup: Setup,
    pub(super) limits: Limits,
    pub(super) table: Vec<Entry>,
    pub(super) enabled: bool,
    pub(super) function_masked: bool,
    pub(super) msi_enabled: bool,
    /// MSI vectors in use, as a power of two.
    pub(super) msi_shift: u16,
    pub(super) msi: Message,
    msi_heard: Message,
    pub(super) msi_masks: u32,
    pub(super) line_allowed: bool,
    /// The one kind of interrupt that is on, and its number of vectors.
    kind: Option<(Index, usize)>,
    /// What the host has on of it.
    pub(super) host: Host,
    /// Events that were signalled and not sent.
    counted: Flags,
    /// Events that the device keeps, because it is not to signal them.
    kept: Flags,
    /// Events that the device kept and now signals; they arrive last.
    coming: Flags,
    /// Messages sent and not looked at yet.
    pub(super) sent: Vec<Message>,
}

/// What the host gives and refuses the kind that is on.
#[derive(Debug, Default)]
pub(super) struct Host {
    on: bool,
    /// Vectors that have an eventfd.
    open: Flags,
    /// Vectors that the host has allocated.
    allocated: Flags,
    /// Vectors that were wired at any time.
    known: Flags,
    /// Vectors that the device has to signal to us.
    pub(super) wired: Flags,
    /// Errors of the kind itself, and of its vectors.
    pub(super) refused: Option<&'static str>,
    pub(super) refusals: [Option<&'static str>; SLOTS],
}

const NO_VECTOR: &str = "ENOSPC";
const NO_DESCRIPTOR: &str = "EMFILE";

impl Model {
    pub(super) fn new(setup: Setup) -> Self {
        let none = Message::default();
        let vectors = setup.vectors.into();
        Self {
            setup,
            limits: Limits::NONE,
            table: vec![Entry { words: [0, 0, 0, 1], heard: none }; vectors],
            enabled: false,
            function_masked: false,
            msi_enabled: false,
            msi_shift: 0,
            msi: none,
            msi_heard: none,
            msi_masks: 0,
            line_allowed: false,
            kind: None,
            host: Host::default(),
            counted: [false; SLOTS],
            kept: [false; SLOTS],
            coming: [false; SLOTS],
            sent: Vec::new(),
        }
    }

    /// The kind that is on at the host.
    pub(super) fn active(&self) -> Option<Index> {
        self.kind.filter(|_| self.host.on).map(|(index, _)| index)
    }

    /// Pending bits of the kind that the guest has on, which must be `index`.
    pub(super) fn pending(&self, index: Index) -> Flags {
        let own = self.kind.is_some_and(|(kind, _)| kind == index);
        let pending = |v: usize| (self.counted[v] || self.kept[v]) && self.route(v).is_none();
        std::array::from_fn(|vector| own && pending(vector))
    }

    /// The guest writes 1 or 2 doublewords, aligned to their size, in the table.
    pub(super) fn write_table(&mut self, offset: usize, words: &[u32]) {
        let before = self.routes();
        let entry = &mut self.table[offset / 16];
        for (at, word) in (offset % 16 / 4..).zip(words) {
            entry.words[at] = word & [!3, !0, !0, 1][at];
            if at >= 2 {
                entry.heard = entry.message();
            }
        }
        self.settle(&before, None);
    }

    /// The guest writes the register that enables a kind.
    pub(super) fn write(&mut self, register: Option<Index>, change: impl FnOnce(&mut Self)) {
        let before = self.routes();
        change(self);
        self.settle(&before, register);
    }

    /// The guest completes or enables the one message of MSI.
    pub(super) fn latch_msi(&mut self) {
        self.msi_heard = self.msi;
    }

    /// The function is reset.
    pub(super) fn reset(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        *self = Self { sent, limits: self.limits, ..Self::new(self.setup) };
    }

    /// The device has something to say on `vector`.
    pub(super) fn fire(&mut self, vector: usize) {
        if self.host.wired[vector] {
            self.counted[vector] = true;
            self.send(vector);
        } else if self.active() == Some(Index::Msix) && vector < self.table.len() {
            self.kept[vector] = true;
        }
    }

    /// The device has nothing to say on `vector` any more.
    pub(super) fn retract(&mut self, vector: usize) {
        self.kept[vector] = false;
    }

    /// Whether an event of `vector` of MSI-X becomes a message now.
    pub(super) fn is_live(&self, vector: usize) -> bool {
        let msix = self.active() == Some(Index::Msix);
        msix && self.host.wired[vector] && self.route(vector).is_some()
    }

    /// An event on its way when its vector was masked.
    pub(super) fn count(&mut self, vector: usize) {
        self.counted[vector] = true;
    }

    fn wanted(&self) -> Option<(Index, usize)> {
        match (self.enabled, self.msi_enabled, self.line_allowed && self.setup.has_line) {
            (true, ..) => Some((Index::Msix, self.table.len())),
            (false, true, _) => Some((Index::Msi, 1 << self.msi_shift)),
            (false, false, true) => Some((Index::Intx, 0)),
            (false, false, false) => None,
        }
    }

    /// Where `vector`'s message goes now, if it is neither off nor masked.
    fn route(&self, vector: usize) -> Option<Message> {
        match self.kind? {
            (Index::Msix, count) if vector < count && !self.function_masked => {
                let entry = &self.table[vector];
                (entry.words[3] == 0).then_some(entry.heard)
            }
            (Index::Msi, count) if vector < count && self.msi_masks >> vector & 1 == 0 => {
                let low = u32::try_from(count - 1).unwrap();
                let data = (self.msi_heard.data & !low) | u32::try_from(vector).unwrap();
                Some(Message { data, ..self.msi_heard })
            }
            (Index::Intx | Index::Msi | Index::Msix, _) => None,
        }
    }

    fn routes(&self) -> Routes {
        std::array::from_fn(|vector| self.route(vector))
    }

    fn send(&mut self, vector: usize) {
        if let Some(message) = self.route(vector).filter(|_| self.counted[vector]) {
            self.counted[vector] = false;
            self.sent.push(message);
        }
    }

    /// What follows from a write, given where messages went before it, and which
    /// kind of interrupt its register enables.
    fn settle(&mut self, before: &Routes, register: Option<Index>) {
        let wanted = self.wanted();
        let changed = wanted != self.kind;
        if changed {
            self.kind = wanted;
            self.host = Host::default();
            (self.counted, self.kept) = ([false; SLOTS], [false; SLOTS]);
        }
        let asked_again = wanted.is_some_and(|(index, _)| register == Some(index)) && !self.host.on;
        let mut fresh = (changed || asked_again) && self.turn_on();
        for vector in 0..self.table.len() {
            if !self.enabled || self.route(vector).is_none() {
                self.table[vector].heard = self.table[vector].message();
            }
        }
        if self.enabled {
            let now = self.routes();
            let wakes = |v: &usize| now[*v].is_some() && now[*v] != before[*v];
            if !self.host.on && !changed && !asked_again && (0..SLOTS).any(|v| wakes(&v)) {
                fresh = self.turn_on();
            }
            let all = (0..self.table.len()).filter(|v| now[*v].is_some() && (fresh || wakes(v)));
            all.for_each(|vector| self.wire(vector));
            for vector in (0..SLOTS).filter(|v| self.setup.exact && now[*v].is_none()) {
                self.host.wired[vector] = false;
            }
        }
        (0..SLOTS).for_each(|vector| self.send(vector));
        for vector in 0..SLOTS {
            self.counted[vector] |= std::mem::take(&mut self.coming[vector]);
            self.send(vector);
        }
    }

    /// Asks the host for the kind that the guest wants. Says whether it is on.
    fn turn_on(&mut self) -> bool {
        let Limits { vectors, descriptors } = self.limits;
        let refused = match self.kind {
            None => return false,
            Some((Index::Intx, _)) => (descriptors == 0).then_some(NO_DESCRIPTOR),
            Some((Index::Msi, count)) if descriptors < count => Some(NO_DESCRIPTOR),
            Some((Index::Msi, count)) => (vectors < count).then_some(NO_VECTOR),
            Some((Index::Msix, _)) => {
                let size = self.host.known.iter().rposition(|known| *known).map_or(1, |v| v + 1);
                if vectors >= size {
                    self.allocate(size);
                }
                (vectors < size).then_some(NO_VECTOR)
            }
        };
        self.host.on = refused.is_none();
        self.host.refused = refused;
        if let (Some((Index::Msi, count)), true) = (self.kind, self.host.on) {
            self.host.wired[..count].fill(true);
        }
        self.host.on
    }

    /// All vectors have been off for a moment: each gets an event too many for it.
    fn allocate(&mut self, size: usize) {
        self.host.allocated = std::array::from_fn(|vector| vector < size);
        self.host.wired = self.host.known;
        for vector in (0..SLOTS).filter(|v| self.host.known[*v]) {
            self.counted[vector] = true;
        }
    }

    /// A vector is wired when it first wakes, if the host has what that takes.
    fn wire(&mut self, vector: usize) {
        if !self.host.on || self.host.wired[vector] {
            return;
        }
        let refused = if !self.open(vector) {
            Some(NO_DESCRIPTOR)
        } else if !self.obtain(vector) {
            Some(NO_VECTOR)
        } else {
            None
        };
        self.host.refusals[vector] = refused;
        if refused.is_none() {
            (self.host.known[vector], self.host.wired[vector]) = (true, true);
            if std::mem::take(&mut self.kept[vector]) {
                // One message for both: the device's own.
                (self.counted[vector], self.coming[vector]) = (false, true);
            }
        }
    }

    fn open(&mut self, vector: usize) -> bool {
        self.host.open[vector] |= number(&self.host.open) < self.limits.descriptors;
        self.host.open[vector]
    }

    /// The host has, or gets, room for `vector`: one that can add it does, another
    /// takes all off for a moment.
    fn obtain(&mut self, vector: usize) -> bool {
        let (before, limit) = (number(&self.host.allocated), self.limits.vectors);
        if self.host.allocated[vector] {
            return true;
        }
        if self.setup.grows {
            self.host.allocated[vector] = before < limit;
            return self.host.allocated[vector];
        }
        // What comes at this moment is lost, but all get an event too many for it.
        self.coming = [false; SLOTS];
        let roomy = (vector + 1).next_power_of_two().min(self.table.len());
        match [roomy, vector + 1, before].into_iter().find(|size| *size <= limit) {
            Some(size) => self.allocate(size),
            None => {
                (self.host.on, self.host.refused) = (false, Some(NO_VECTOR));
                (self.host.wired, self.host.allocated) = ([false; SLOTS], [false; SLOTS]);
            }
        }
        self.host.allocated[vector]
    }
}

fn number(flags: &Flags) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

impl Entry {
    fn message(&self) -> Message {
        let [low, high, data, _] = self.words;
        Message { address: u64::from(high) << 32 | u64::from(low), data }
    }
}
