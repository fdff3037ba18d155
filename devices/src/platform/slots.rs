//! Hot-plug registers of the 32 slots: how the machine tells the guest that a
//! device has come or should go, and how the guest says that it let go.
//!
//! ```text
//! offset 0  up     bit n: a device has come to slot n      write 1s to take them
//! offset 4  down   bit n: slot n shall be given back       write 1s to take them
//! offset 8  eject  write bit n: slot n is given back       reads as 0
//! ```
//!
//! One bit is all there ever is about a slot, so a guest that repeats itself
//! or never looks costs nothing. Whether an ejected slot holds a device is the
//! event loop's to know.
//!
//! The guest's interrupt is an edge, and an edge is lost on a guest that has
//! not set up the line yet: [`Slots::remind`] raises it again.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::io::Access;

/// Slots on the bus; slot 0 holds the host bridge and can not be ejected.
pub const COUNT: u8 = 32;

const FIXED_SLOTS: u32 = 1 << 0;
const REGISTER: usize = 4;

/// The registers, shared by the event loop and the vCPUs. Its file descriptor
/// becomes readable when a slot is ejected.
pub struct Slots {
    up: AtomicU32,
    down: AtomicU32,
    /// Given back by the guest, not yet taken by the event loop.
    ejected: AtomicU32,
    /// Makes the guest look.
    interrupt: EventFd,
    /// Makes the event loop look.
    wake: EventFd,
}

impl Slots {
    /// Empty registers. Writing `interrupt` must raise the Generic Event
    /// Device's line in the guest.
    pub fn new(interrupt: EventFd) -> io::Result<Self> {
        Ok(Self {
            up: AtomicU32::new(0),
            down: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            interrupt,
            wake: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Tells the guest that a device has come to `slot`. Do this last: the
    /// guest may look at it before the call returns.
    pub fn added(&self, slot: u8) {
        self.down.fetch_and(!bit(slot), Ordering::SeqCst);
        self.up.fetch_or(bit(slot), Ordering::SeqCst);
        signal(&self.interrupt);
    }

    /// Asks the guest to let go of `slot`. May be repeated.
    pub fn remove(&self, slot: u8) {
        self.down.fetch_or(bit(slot), Ordering::SeqCst);
        signal(&self.interrupt);
    }

    /// Makes the guest look again if it has not taken every bit yet; returns
    /// whether it had not.
    pub fn remind(&self) -> bool {
        let pending = self.up.load(Ordering::SeqCst) | self.down.load(Ordering::SeqCst);
        if pending != 0 {
            signal(&self.interrupt);
        }
        pending != 0
    }

    /// Forgets what concerns `slot`: the device was taken away by force.
    pub fn forget(&self, slot: u8) {
        for register in [&self.up, &self.down, &self.ejected] {
            register.fetch_and(!bit(slot), Ordering::SeqCst);
        }
    }

    /// Slots that the guest gave back since the last call. Call it when the
    /// file descriptor is readable; it is not any more afterwards.
    pub fn take_ejected(&self) -> impl Iterator<Item = u8> + use<> {
        // Before the bits, so that a later bit always finds the descriptor cleared.
        // An error only says that it was cleared already.
        let _ = self.wake.read();
        let bits = self.ejected.swap(0, Ordering::SeqCst);
        (0..COUNT).filter(move |slot| bits & bit(*slot) != 0)
    }

    /// As after power-on. The guest finds devices by its own scan then.
    pub fn reset(&self) {
        for register in [&self.up, &self.down, &self.ejected] {
            register.store(0, Ordering::SeqCst);
        }
    }

    fn eject(&self, bits: u32) {
        let bits = bits & !FIXED_SLOTS;
        if bits != 0 {
            self.ejected.fetch_or(bits, Ordering::SeqCst);
            signal(&self.wake);
        }
    }
}

impl AsRawFd for Slots {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

impl Access for Slots {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = [
            self.up.load(Ordering::SeqCst).to_le_bytes(),
            self.down.load(Ordering::SeqCst).to_le_bytes(),
            [0; REGISTER],
        ];
        data.fill(0xff);
        let wanted = usize::try_from(offset).ok().and_then(|at| registers.as_flattened().get(at..));
        data.iter_mut().zip(wanted.unwrap_or(&[])).for_each(|(byte, value)| *byte = *value);
    }

    /// Bytes that are not written count as 0, and a 0 bit does nothing, so any
    /// size and alignment is fine.
    fn write(&self, offset: u64, data: &[u8]) {
        let mut registers = [[0; REGISTER]; 3];
        let at = usize::try_from(offset).ok();
        let written = at.and_then(|at| registers.as_flattened_mut().get_mut(at..));
        let written = written.unwrap_or(&mut []);
        written.iter_mut().zip(data).for_each(|(place, byte)| *place = *byte);
        let [up, down, eject] = registers.map(u32::from_le_bytes);
        self.up.fetch_and(!up, Ordering::SeqCst);
        self.down.fetch_and(!down, Ordering::SeqCst);
        self.eject(eject);
    }
}

/// No bit for a slot that does not exist.
fn bit(slot: u8) -> u32 {
    1_u32.checked_shl(u32::from(slot)).unwrap_or(0)
}

/// Writes an eventfd. It can only fail because its count is full, and then its
/// reader is going to wake up anyway.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
mod tests;
