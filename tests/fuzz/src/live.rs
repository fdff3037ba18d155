//! Which interrupts may come, by the registers of the [`good`](crate::good) function as the guest
//! reads them: PCI 3.0, 6.8.1 and 6.8.2, and none of hotbay's own state.

use devices::irq::Message;
use devices::pci::msix::{ENABLE, ENTRY_SIZE, FUNCTION_MASK, SIZE_MASK};

use crate::good::{MSI, MSIX, PENDING, TABLE};
use crate::slot::Slot;

/// What is on. MSI-X goes before MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Nothing,
    Msi { vectors: u16 },
    Msix { vectors: u16, closed: bool },
}

/// The guest's side at one moment.
pub struct Live<'a> {
    slot: &'a Slot,
    on: On,
}

impl<'a> Live<'a> {
    /// What the guest has on now.
    pub fn read(slot: &'a Slot) -> Self {
        let control = |capability| {
            let [_, _, low, high] = slot.dword(capability).to_le_bytes();
            u16::from_le_bytes([low, high])
        };
        let (msix, msi) = (control(MSIX), control(MSI));
        let on = if msix & ENABLE != 0 {
            On::Msix { vectors: (msix & SIZE_MASK) + 1, closed: msix & FUNCTION_MASK != 0 }
        } else if msi & 1 != 0 {
            On::Msi { vectors: 1 << (msi >> 4 & 7) }
        } else {
            On::Nothing
        };
        Self { slot, on }
    }

    /// Panics unless `message` may come from `vector`. An address may be staged: written, and heard
    /// of only with the write of data or control that completes it.
    pub fn assert_allows(&self, vector: u16, message: Message) {
        let (written, masked) = self.entry(vector).expect("a message of a vector that there is");
        assert!(!masked, "{message:x?} of {vector}, which is masked, of {:?}", self.on);
        assert_eq!(written.data, message.data, "data of {vector} of {:?}", self.on);
    }

    /// An event on `vector` a moment ago: delivered once if the vector is live, kept if it is masked.
    pub fn assert_heard(&self, vector: u16, sent: &[(u16, Message)]) {
        let Some((_, masked)) = self.entry(vector) else {
            return assert!(sent.is_empty(), "{sent:x?} of a vector that there is not");
        };
        if !masked {
            assert_eq!(sent.len(), 1, "a live vector {vector} of {:?}", self.on);
        } else if self.slot.kernel.wire(vector.into()).is_some() {
            assert!(self.pending(vector), "the Pending bit of {vector} of {:?}", self.on);
        }
    }

    /// What the guest has written for `vector`, and whether that is masked; none if it is not in use.
    fn entry(&self, vector: u16) -> Option<(Message, bool)> {
        match self.on {
            On::Msix { vectors, closed } if vector < vectors => {
                let (message, masked) = entry(self.slot, vector);
                Some((message, masked || closed))
            }
            On::Msi { vectors } if vector < vectors => {
                let [low, high, data, masks] = [4, 8, 12, 16].map(|at| self.slot.dword(MSI + at));
                let data = data & 0xffff & !(u32::from(vectors) - 1) | u32::from(vector);
                let message = Message { address: u64::from(high) << 32 | u64::from(low), data };
                Some((message, masks >> vector & 1 != 0))
            }
            On::Nothing | On::Msi { .. } | On::Msix { .. } => None,
        }
    }

    fn pending(&self, vector: u16) -> bool {
        let slot = self.slot;
        if let On::Msi { .. } = self.on {
            return slot.dword(MSI + 20) >> vector & 1 != 0;
        }
        let (mut bits, at) = ([0; 4], PENDING.offset + u64::from(vector) / 32 * 4);
        assert!(slot.function.interrupts().read_bar(PENDING.bar, at, &mut bits));
        u32::from_le_bytes(bits) >> (vector % 32) & 1 != 0
    }
}

fn entry(slot: &Slot, vector: u16) -> (Message, bool) {
    let interrupts = slot.function.interrupts();
    let at = TABLE.offset + u64::from(vector) * ENTRY_SIZE;
    let (mut address, mut rest) = ([0; 8], [0; 8]);
    assert!(interrupts.read_bar(TABLE.bar, at, &mut address), "entry {vector} is there");
    assert!(interrupts.read_bar(TABLE.bar, at + 8, &mut rest), "entry {vector} is there");
    let (address, rest) = (u64::from_le_bytes(address), u64::from_le_bytes(rest));
    let message = Message { address, data: (rest & 0xffff_ffff) as u32 };
    (message, rest >> 32 & 1 != 0)
}

/// After a reset nothing is on, on either side.
pub fn assert_quiet(slot: &Slot) {
    assert_eq!(Live::read(slot).on, On::Nothing, "a function that was reset");
    assert_eq!(slot.kernel.active(), None, "the host's side of a function that was reset");
    assert_eq!(slot.machine.windows(), 0, "windows of a function that was reset");
}
