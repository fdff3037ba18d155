//! Memory slots of the machine: which numbers are free, and windows that hold one.
//!
//! A window on a device's memory may lose what is behind it: the host takes the
//! pages away when it finds the device gone, and a vCPU that touches them cannot
//! go on. [`DeviceWindows`] can therefore be closed from the guest's side too, after which
//! accesses leave the guest and are answered as those of any BAR without a window.
#![expect(unsafe_code, reason = "promises the kernel that a backing stays mapped")]

use std::collections::BTreeSet;
use std::io;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::memory::{Backing, Window, Windows};
use kvm_ioctls::VmFd;

use crate::kvm::{self, memslot};

/// Hands out memory slots of one virtual machine.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    vm: Arc<VmFd>,
    numbers: Mutex<Numbers>,
    /// Slots of device windows that the guest sees.
    shown: Mutex<BTreeSet<u32>>,
}

/// Slot numbers: those never used begin at `fresh`, used ones come back to `freed`.
#[derive(Debug)]
struct Numbers {
    freed: Vec<u32>,
    fresh: u32,
    limit: u32,
}

/// A slot in use.
struct Mapped {
    slots: Slots,
    number: u32,
    in_guest: bool,
}

/// Windows on memory of devices.
#[derive(Clone, Debug)]
pub struct DeviceWindows(Slots);

/// A slot in use for a device; perhaps the guest does not see it any more.
struct Shown(Mapped);

impl Slots {
    /// All slots of `vm`, which has `limit` of them, free.
    pub fn new(vm: Arc<VmFd>, limit: u32) -> Self {
        let numbers = Numbers { freed: Vec::new(), fresh: 0, limit };
        Self(Arc::new(Shared { vm, numbers: Mutex::new(numbers), shown: Mutex::default() }))
    }

    /// How many are in use.
    pub fn in_use(&self) -> usize {
        let numbers = self.numbers();
        usize::try_from(numbers.fresh).unwrap_or(usize::MAX) - numbers.freed.len()
    }

    /// Windows of devices, on the same slots.
    pub fn of_devices(&self) -> DeviceWindows {
        DeviceWindows(self.clone())
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        lock(&self.0.numbers)
    }

    fn map(&self, guest: u64, backing: Backing) -> io::Result<Mapped> {
        let number = self.numbers().take();
        let number = number.ok_or_else(|| io::Error::other("all memory slots are in use"))?;
        // SAFETY: whoever opens a window keeps its backing mapped until it is
        // dropped, and the drop clears the slot.
        let set = unsafe { memslot::set(&self.0.vm, number, guest, (backing.host, backing.size)) };
        match set {
            Ok(()) => Ok(Mapped { slots: self.clone(), number, in_guest: true }),
            Err(error) => {
                self.numbers().freed.push(number);
                Err(io::Error::other(error))
            }
        }
    }
}

impl Shared {
    /// Takes a slot out of the guest.
    fn clear(&self, number: u32) -> Result<(), kvm::Error> {
        kvm::insist(|| memslot::clear(&self.vm, number))
    }
}

impl Windows for Slots {
    fn open(&self, guest: u64, backing: Backing) -> io::Result<Box<dyn Window>> {
        Ok(Box::new(self.map(guest, backing)?))
    }
}

impl DeviceWindows {
    /// Closes one window that the guest sees; false if there is none. It is for a vCPU
    /// that cannot go on, which tries again then. The kernel does not say which window it
    /// was, so one after the other goes until it was among them; the others come
    /// back when the guest places their BARs again.
    pub fn close_one(&self) -> bool {
        let shared = &self.0.0;
        let mut shown = lock(&shared.shown);
        let Some(number) = shown.last().copied() else { return false };
        // Under the lock: the slot's owner may be about to give its number back.
        let cleared = shared.clear(number);
        if let Err(error) = &cleared {
            log::error!("memory slot {number} cannot be closed: {error}");
        }
        cleared.is_ok() && shown.remove(&number)
    }
}

impl Windows for DeviceWindows {
    fn open(&self, guest: u64, backing: Backing) -> io::Result<Box<dyn Window>> {
        let mapped = self.0.map(guest, backing)?;
        lock(&self.0.0.shown).insert(mapped.number);
        Ok(Box::new(Shown(mapped)))
    }
}

impl Window for Mapped {}
impl Window for Shown {}

impl Drop for Shown {
    fn drop(&mut self) {
        let Mapped { slots, number, in_guest } = &mut self.0;
        *in_guest = lock(&slots.0.shown).remove(number);
    }
}

impl Drop for Mapped {
    /// Whoever drops it unmaps the backing next. If the guest still saw it, it would find there whatever this process
    /// maps at that address later, so a slot that stays ends the process.
    fn drop(&mut self) {
        let cleared = if self.in_guest { self.slots.0.clear(self.number) } else { Ok(()) };
        if let Err(error) = cleared {
            log::error!(
                "memory slot {} stays, and its memory goes: {error}; aborting",
                self.number
            );
            process::abort();
        }
        self.slots.numbers().freed.push(self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Numbers {
    fn take(&mut self) -> Option<u32> {
        self.freed.pop().or_else(|| {
            let number = (self.fresh < self.limit).then_some(self.fresh)?;
            self.fresh += 1;
            Some(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use vm_memory::MmapRegion;

    use super::*;
    use crate::kvm::{Kvm, testing};

    const SIZE: usize = 0x1000;

    #[test]
    fn window_that_was_closed_gives_its_number_back_once_and_others_stay() {
        if !testing::has_hypervisor() {
            return;
        }
        let slots = Slots::new(Kvm::open().unwrap().create_vm().unwrap(), 8);
        let memory = MmapRegion::<()>::new(3 * SIZE).unwrap();
        let backing = |page: usize| {
            let host = NonNull::new(memory.as_ptr().wrapping_add(page * SIZE)).unwrap();
            Backing { host, size: SIZE as u64 }
        };
        let windows = slots.of_devices();
        assert!(!windows.close_one(), "there is none");
        let _ram = slots.open(0, backing(0)).unwrap();
        let first = windows.open(0x1000_0000, backing(1)).unwrap();
        let second = windows.open(0x2000_0000, backing(2)).unwrap();
        assert_eq!(slots.in_use(), 3);

        assert!(windows.close_one());
        assert_eq!(slots.in_use(), 3, "its owner still has it");
        drop(second);
        assert_eq!(slots.in_use(), 2);
        assert!(windows.close_one());
        assert!(!windows.close_one(), "RAM is nobody's to close");
        drop(first);

        assert_eq!(slots.in_use(), 1);
        drop(windows.open(0x1000_0000, backing(1)).unwrap());
    }

    #[test]
    fn numbers_come_back_before_fresh_ones_are_taken_and_end_at_the_limit() {
        let mut numbers = Numbers { freed: Vec::new(), fresh: 0, limit: 2 };

        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(0), Some(1), None]);
        numbers.freed.push(0);
        assert_eq!([numbers.take(), numbers.take()], [Some(0), None]);
    }
}
