//! One pair of a card's queues and the tap's queue behind it: packets one way and the other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::carried::Carried;
use super::count::{Count, SHORTEST};
use super::sys;
use crate::virtio::Served;
use crate::virtio::chain::Buffers;
use crate::virtio::room::{MOST_SLICES, Room};

/// Where in a packet's header the number of its buffers is (5.1.6).
const NUM_BUFFERS: u64 = 10;
/// Bytes of the header up to its end.
const HEADER_END: u64 = super::HEADER as u64;
/// Packets that do not fit in a row, before the worker looks up.
const PATIENCE: usize = 64;
/// More than any packet of a tap's has, its header included.
const BIGGEST: usize = 68 << 10;

/// The pair.
pub(super) struct Pair {
    /// Who serves the queues in place of this, if somebody does.
    carried: Option<Carried>,
    tap: File,
    /// The tap puts packets into this queue. Changes with the lock held.
    used: AtomicBool,
    /// Readable when that has come true.
    wake: EventFd,
    /// The tap answers with errors: the interface has been deleted, say.
    broken: AtomicBool,
    state: Mutex<State>,
}

/// What the pair's lock is for. It is held while a packet is read, which does not block, and while
/// the tap is told of its queues.
#[derive(Default)]
struct State {
    spill: Spill,
}

/// The end of a packet that the guest had no room for yet; its beginning is in the guest's
/// buffers. Nothing if it has no bytes.
#[derive(Default)]
struct Spill {
    /// Made when it is first needed.
    bytes: Vec<u8>,
    /// Bytes of the whole packet.
    total: u64,
    /// Those of them that are in the guest's buffers.
    within: u64,
}

impl Pair {
    /// On a queue of a tap, which puts packets into it or not yet.
    pub(super) fn new(tap: File, used: bool) -> io::Result<Self> {
        Ok(Self {
            carried: None,
            tap,
            used: AtomicBool::new(used),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            broken: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// The tap's queue, once more.
    pub(super) fn tap(&self) -> io::Result<File> {
        self.tap.try_clone()
    }

    /// The host's kernel serves it from now on.
    pub(super) fn carry(&mut self, carried: Carried) {
        self.carried = Some(carried);
    }

    /// The host's kernel, if it serves it.
    pub(super) fn carried(&self) -> Option<&Carried> {
        self.carried.as_ref()
    }

    /// The tap's queue, for another pair.
    #[cfg(test)]
    pub(super) fn into_tap(self) -> File {
        self.tap
    }

    /// What becomes readable when there is something to receive. Nothing is made of what a tap
    /// says of a queue that it does not use.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        if !self.used.load(Ordering::SeqCst) {
            return Some(sys::event(&self.wake));
        }
        (!self.broken.load(Ordering::Relaxed)).then(|| self.tap.as_fd())
    }

    /// The tap puts packets into this queue from now on, or it does not.
    ///
    /// # Errors
    /// The kernel's; then all is as before.
    pub(super) fn use_it(&self, used: bool) -> io::Result<()> {
        let mut state = self.lock();
        if self.used.load(Ordering::SeqCst) == used {
            return Ok(());
        }
        let carried = |on| self.carried.as_ref().map_or(Ok(()), |carried| carried.use_it(on));
        // The kernel has the queue only while the tap uses it.
        if used {
            sys::set_queue(&self.tap, true)?;
            if let Err(error) = carried(true) {
                // What is left of it is for the next time to report.
                let _ = (carried(false), sys::set_queue(&self.tap, false));
                return Err(error);
            }
        } else {
            carried(false)?;
            sys::set_queue(&self.tap, false)?;
        }
        self.used.store(used, Ordering::SeqCst);
        state.spill.total = 0;
        // The counter is 0 or 1: neither can fail for want of room.
        let _ = if used { self.wake.write(1) } else { self.wake.read().map(drop) };
        Ok(())
    }

    /// A driver begins: what was for another one is lost.
    pub(super) fn begin(&self) {
        self.lock().spill.total = 0;
    }

    /// Packets to come are for a reader that takes these (`TUN_F_*`).
    pub(super) fn set_offload(&self, flags: u32) -> io::Result<()> {
        sys::set_offload(&self.tap, flags)
    }

    /// One packet into the buffer. One that does not fit leaves room for the next.
    pub(super) fn receive(&self, request: &Buffers<'_>, count: &Count, name: &str) -> Served {
        let Ok(slices) = request.writable.slices() else { return count.drop_one() };
        let room = request.writable.len();
        if room < SHORTEST || slices.len() > MOST_SLICES {
            return count.drop_one();
        }
        let _state = self.lock();
        if !self.used.load(Ordering::SeqCst) {
            return Served::Later;
        }
        for _ in 0..PATIENCE {
            match sys::read(&self.tap, &slices, &mut [0]) {
                Ok(0) => return self.fails(&io::ErrorKind::UnexpectedEof.into(), name),
                Ok(bytes) if u64::try_from(bytes).is_ok_and(|bytes| bytes > room) => {
                    count.loses_one();
                }
                Ok(bytes) => {
                    // One packet is in one buffer, for a driver that has not agreed to more.
                    let number = request.writable.part(NUM_BUFFERS, HEADER_END);
                    let written = number.and_then(|at| at.write(&1_u16.to_le_bytes()));
                    return match written {
                        Ok(()) => count.passes(bytes, Served::Filled),
                        Err(_) => count.drop_one(),
                    };
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Served::Later,
                    Some(libc::EINTR) => {}
                    _ => return self.fails(&error, name),
                },
            }
        }
        Served::Later
    }

    /// One packet into as many chains as it takes. What the guest has no room for stays here
    /// until it has.
    pub(super) fn receive_merged(&self, room: &Room<'_>, count: &Count, name: &str) -> Served {
        let mut state = self.lock();
        if !self.used.load(Ordering::SeqCst) {
            return Served::Later;
        }
        let spill = &mut state.spill;
        spill.bytes.resize(BIGGEST, 0);
        for _ in 0..PATIENCE {
            if let Some(served) = spill.settle(room, count) {
                return served;
            }
            match sys::read(&self.tap, room.slices(), &mut spill.bytes) {
                Ok(0) => return self.fails(&io::ErrorKind::UnexpectedEof.into(), name),
                Ok(bytes) => spill.holds(bytes, room.bytes()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Served::Later,
                    Some(libc::EINTR) => {}
                    _ => return self.fails(&error, name),
                },
            }
        }
        Served::Later
    }

    /// The buffer to the tap, as one packet.
    pub(super) fn send(&self, request: &Buffers<'_>, count: &Count, name: &str) -> Served {
        let Ok(slices) = request.readable.slices() else { return count.drop_one() };
        if request.readable.len() < SHORTEST {
            return count.drop_one();
        }
        match sys::write(&self.tap, &slices) {
            Ok(bytes) => count.passes(bytes, |_| Served::Filled(0)),
            // The interface is down, its queue is full, or the packet makes no sense.
            Err(error) => {
                log::debug!("{name}: a packet is dropped: {error}");
                count.drop_one()
            }
        }
    }

    /// Nothing comes from the tap any more: it is said once, for it stays so.
    fn fails(&self, error: &io::Error, name: &str) -> Served {
        if !self.broken.swap(true, Ordering::Relaxed) {
            log::error!("{name}: its tap has failed, nothing is received any more: {error}");
        }
        Served::Later
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spill {
    /// A packet of `bytes` has been read, the first of them into a room of `within`.
    fn holds(&mut self, bytes: usize, within: u64) {
        self.total = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.within = within.min(self.total);
    }

    /// What becomes of the packet that is here, if there is one. One that will never fit is lost.
    fn settle(&mut self, room: &Room<'_>, count: &Count) -> Option<Served> {
        let (total, within) = (self.total, self.within);
        if total == 0 {
            return None;
        }
        if total > room.bytes() && !room.is_full() {
            return Some(Served::More(total));
        }
        self.total = 0;
        let rest = usize::try_from(total - within).unwrap_or(usize::MAX);
        // If there is no byte left, the packet may have had more than could be kept.
        let rest = self.bytes.get(..rest).filter(|rest| rest.len() < BIGGEST);
        let Some(rest) = rest.filter(|_| total <= room.bytes()) else {
            count.loses_one();
            return None;
        };
        let number = room.count(total).to_le_bytes();
        let written = room.write(within, rest).and_then(|()| room.write(NUM_BUFFERS, &number));
        match (written, usize::try_from(total)) {
            (Ok(()), Ok(total)) => Some(count.passes(total, Served::Filled)),
            _ => Some(count.drop_one()),
        }
    }
}
