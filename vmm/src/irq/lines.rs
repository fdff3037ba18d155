//! Level-triggered lines: pins of the IOAPIC raised through an irqfd, with the
//! guest's acknowledgement as a second eventfd, so that neither costs an exit.

use std::io;
use std::sync::Arc;

use devices::irq::{Line, LineEnds, take};
use devices::pci::Slot;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::kvm::insist;
use crate::memory::layout::{INTX_GSI, INTX_LINES};

/// A pin lent to one function. Several functions may have the same pin: the
/// kernel keeps a level for each.
pub struct Pin {
    vm: Arc<VmFd>,
    gsi: u32,
    /// Made when first connected, then kept: a vCPU that disconnects closes nothing.
    ends: Option<Ends>,
    connected: bool,
}

struct Ends {
    trigger: EventFd,
    resample: EventFd,
}

impl Pin {
    /// The line that `pin` (0 for INTA) of the function in `slot` is wired to,
    /// as the DSDT's `_PRT` tells the guest.
    pub fn of(vm: Arc<VmFd>, slot: Slot, pin: u8) -> Self {
        let gsi = INTX_GSI + (u32::from(slot.number()) + u32::from(pin)) % INTX_LINES;
        Self { vm, gsi, ends: None, connected: false }
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self { trigger: event()?, resample: event()? })
    }

    /// Forgets what was signalled.
    fn drain(&self) {
        for end in [&self.trigger, &self.resample] {
            take(end);
        }
    }
}

impl Line for Pin {
    fn number(&self) -> u32 {
        self.gsi
    }

    fn connect(&mut self) -> io::Result<LineEnds<'_>> {
        self.disconnect();
        let ends = match self.ends.take() {
            Some(ends) => ends,
            None => Ends::new()?,
        };
        let Ends { trigger, resample } = self.ends.insert(ends);
        self.vm.register_irqfd_with_resample(trigger, resample, self.gsi)?;
        self.connected = true;
        Ok(LineEnds { trigger, resample })
    }

    fn disconnect(&mut self) {
        let Some(ends) = self.ends.as_ref().filter(|_| self.connected) else { return };
        match insist(|| self.vm.unregister_irqfd(&ends.trigger, self.gsi)) {
            Ok(()) => {
                self.connected = false;
                ends.drain();
            }
            Err(error) => log::error!("interrupt line {} stays connected: {error}", self.gsi),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.disconnect();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use kvm_ioctls::Kvm;

    use super::*;
    use crate::kvm::testing;

    #[test]
    fn line_keeps_its_eventfds_and_forgets_what_they_counted() {
        if !testing::has_hypervisor() {
            return;
        }
        let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
        vm.create_irq_chip().unwrap();
        let mut pin = Pin::of(vm, Slot::new(1).unwrap(), 0);
        let numbers = |ends: LineEnds<'_>| [ends.trigger.as_raw_fd(), ends.resample.as_raw_fd()];
        let first = numbers(pin.connect().unwrap());
        pin.ends.as_ref().unwrap().resample.write(1).unwrap();

        pin.disconnect();
        pin.disconnect();

        let ends = pin.ends.as_ref().unwrap();
        assert!(ends.trigger.read().is_err() && ends.resample.read().is_err());
        assert_eq!(numbers(pin.connect().unwrap()), first, "a vCPU closes nothing");
    }
}
