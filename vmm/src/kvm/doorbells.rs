//! Doorbells of devices: the kernel writes an eventfd when the guest writes an
//! address (KVM_IOEVENTFD), and no vCPU leaves the kernel for it.

use std::io;
use std::sync::Arc;

use devices::io::{Doorbell, Doorbells};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::insist;

/// The doorbells of one virtual machine.
pub struct IoEvents(pub Arc<VmFd>);

/// One in place.
struct Placed {
    vm: Arc<VmFd>,
    address: u64,
    bell: Arc<EventFd>,
}

impl Doorbells for IoEvents {
    fn place(&self, address: u64, bell: &Arc<EventFd>) -> io::Result<Box<dyn Doorbell>> {
        let at = IoEventAddress::Mmio(address);
        self.0.register_ioevent(bell, &at, NoDatamatch)?;
        Ok(Box::new(Placed { vm: Arc::clone(&self.0), address, bell: Arc::clone(bell) }))
    }
}

impl Doorbell for Placed {}

impl Drop for Placed {
    fn drop(&mut self) {
        let at = IoEventAddress::Mmio(self.address);
        let ended = insist(|| self.vm.unregister_ioevent(&self.bell, &at, NoDatamatch));
        if let Err(error) = ended {
            log::error!("the doorbell at {:#x} stays: {error}", self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::{Kvm, testing};

    #[test]
    fn address_is_free_again_when_its_doorbell_goes() {
        if !testing::has_hypervisor() {
            return;
        }
        let doorbells = IoEvents(Kvm::open().unwrap().create_vm().unwrap());
        let bell = Arc::new(EventFd::new(0).unwrap());
        let first = doorbells.place(0xe000_3000, &bell).unwrap();
        assert!(doorbells.place(0xe000_3000, &bell).is_err(), "it is taken");
        drop(first);

        assert!(doorbells.place(0xe000_3000, &bell).is_ok());
    }
}
