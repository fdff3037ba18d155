//! Memory slots of the machine: which numbers are free, and windows that hold one.
#![expect(unsafe_code, reason = "promises the kernel that a backing stays mapped")]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::memory::{Backing, Window, Windows};
use kvm_ioctls::VmFd;

use crate::kvm::memslot;

/// Hands out memory slots of one virtual machine.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    vm: Arc<VmFd>,
    numbers: Mutex<Numbers>,
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
}

impl Slots {
    /// All slots of `vm`, which has `limit` of them, free.
    pub fn new(vm: Arc<VmFd>, limit: u32) -> Self {
        let numbers = Numbers { freed: Vec::new(), fresh: 0, limit };
        Self(Arc::new(Shared { vm, numbers: Mutex::new(numbers) }))
    }

    /// How many are in use.
    pub fn in_use(&self) -> usize {
        let numbers = self.numbers();
        usize::try_from(numbers.fresh).unwrap_or(usize::MAX) - numbers.freed.len()
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Windows for Slots {
    fn open(&self, guest: u64, backing: Backing) -> io::Result<Box<dyn Window>> {
        let number = self.numbers().take();
        let number = number.ok_or_else(|| io::Error::other("all memory slots are in use"))?;
        // SAFETY: whoever opens a window keeps its backing mapped until it is
        // dropped, and the drop clears the slot.
        let set = unsafe { memslot::set(&self.0.vm, number, guest, (backing.host, backing.size)) };
        match set {
            Ok(()) => Ok(Box::new(Mapped { slots: self.clone(), number })),
            Err(error) => {
                self.numbers().freed.push(number);
                Err(io::Error::other(error))
            }
        }
    }
}

impl Window for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        match memslot::clear(&self.slots.0.vm, self.number) {
            Ok(()) => self.slots.numbers().freed.push(self.number),
            // The number stays taken: what it maps may still be in the guest.
            Err(error) => log::error!("memory slot {} is lost: {error}", self.number),
        }
    }
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
    use super::*;

    #[test]
    fn numbers_come_back_before_fresh_ones_are_taken_and_end_at_the_limit() {
        let mut numbers = Numbers { freed: Vec::new(), fresh: 0, limit: 2 };

        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(0), Some(1), None]);
        numbers.freed.push(0);
        assert_eq!([numbers.take(), numbers.take()], [Some(0), None]);
    }
}
