//! The rules of the specification (PCI 3.0, 6.8) as a model: slow, obvious, and
//! written without a look at the code that it judges.
//!
//! All registers are plain values. After every event the model asks of each
//! vector: where does its message go now, if anywhere, and is there something
//! pending to send?

use super::SLOTS;
use crate::irq::Message;
use crate::vfio::sys::device::Index;

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
    has_line: bool,
    /// The host can add a vector while others are live.
    grows: bool,
    /// The one kind of interrupt that is on, and its number of vectors.
    kind: Option<(Index, usize)>,
    pub(super) pending: [bool; SLOTS],
    /// Vectors that the device has to signal to us.
    pub(super) wired: [bool; SLOTS],
    /// Messages sent and not looked at yet.
    pub(super) sent: Vec<Message>,
}

impl Model {
    pub(super) fn new(vectors: usize, grows: bool, has_line: bool) -> Self {
        let none = Message::default();
        Self {
            table: vec![Entry { words: [0, 0, 0, 1], heard: none }; vectors],
            enabled: false,
            function_masked: false,
            msi_enabled: false,
            msi_shift: 0,
            msi: none,
            msi_heard: none,
            msi_masks: 0,
            line_allowed: false,
            has_line,
            grows,
            kind: None,
            pending: [false; SLOTS],
            wired: [false; SLOTS],
            sent: Vec::new(),
        }
    }

    pub(super) fn active(&self) -> Option<Index> {
        self.kind.map(|(index, _)| index)
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
        self.settle(&before);
    }

    /// The guest writes anything else, by `change`.
    pub(super) fn write(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.routes();
        change(self);
        self.settle(&before);
    }

    /// The guest completes or enables the one message of MSI.
    pub(super) fn latch_msi(&mut self) {
        self.msi_heard = self.msi;
    }

    /// The function is reset.
    pub(super) fn reset(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        *self = Self { sent, ..Self::new(self.table.len(), self.grows, self.has_line) };
    }

    /// The device has something to say on `vector`.
    pub(super) fn fire(&mut self, vector: usize) {
        if self.kind.is_some_and(|(index, count)| index != Index::Intx && vector < count) {
            self.pending[vector] = true;
            self.send(vector);
        }
    }

    fn wanted(&self) -> Option<(Index, usize)> {
        match (self.enabled, self.msi_enabled, self.line_allowed && self.has_line) {
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
        if let Some(message) = self.route(vector).filter(|_| self.pending[vector]) {
            self.pending[vector] = false;
            self.sent.push(message);
        }
    }

    /// What follows from a write, given where messages went before it.
    fn settle(&mut self, before: &Routes) {
        let wanted = self.wanted();
        let changed = wanted != self.kind;
        if changed {
            self.kind = wanted;
            self.pending.fill(false);
            self.wired.fill(false);
        }
        let msi = wanted.filter(|(index, _)| *index == Index::Msi).map_or(0, |(_, count)| count);
        self.wired[..msi].fill(true);
        for vector in 0..self.table.len() {
            if !self.enabled || self.route(vector).is_none() {
                self.table[vector].heard = self.table[vector].message();
            }
        }
        self.wire_the_awake();
        let was_awake = |vector: &usize| !changed && before[*vector].is_some();
        (0..SLOTS).filter(was_awake).for_each(|vector| self.send(vector));
        (0..SLOTS).for_each(|vector| self.send(vector));
    }

    /// A vector is wired when it first wakes. A host that cannot grow takes the
    /// others off for a moment, and they get an event too many for it.
    fn wire_the_awake(&mut self) {
        for vector in 0..self.table.len() {
            if self.route(vector).is_some() && !self.wired[vector] {
                let nudged = self.wired.iter().map(|wired| *wired && !self.grows);
                self.pending
                    .iter_mut()
                    .zip(nudged)
                    .for_each(|(pending, nudged)| *pending |= nudged);
                self.wired[vector] = true;
            }
        }
    }
}

impl Entry {
    fn message(&self) -> Message {
        let [low, high, data, _] = self.words;
        Message { address: u64::from(high) << 32 | u64::from(low), data }
    }
}
