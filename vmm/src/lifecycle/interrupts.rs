//! Looking at and testing interrupts of a VM that runs.

use api::mailbox::Reply;
use api::schema::interrupts::TestInterrupt;

use super::{Refusal, Verb, Vmm};
use crate::config::device::DeviceId;
use crate::hotplug::{AddError, Bay};

impl Vmm {
    /// Shows the interrupts of the device called `id`, or of all.
    pub fn show_interrupts(&mut self, id: Option<String>, reply: Reply) {
        let asked = Verb::Interrupts.failed();
        let id = match id.map(DeviceId::try_from).transpose() {
            Ok(id) => id,
            Err(error) => return reply.send(Err(AddError::from(error).fault(asked))),
        };
        match self.running_bay() {
            Ok(bay) => bay.show_interrupts(id.as_ref(), reply),
            Err(error) => reply.send(Err(error.fault(asked))),
        }
    }

    /// Fires an interrupt of a device.
    pub fn test_interrupt(&mut self, body: TestInterrupt, reply: Reply) {
        let asked = Verb::TestInterrupt.failed();
        // Taken apart by name, so that a new field in the body cannot be forgotten here.
        let TestInterrupt { id, vector } = body;
        let id = match DeviceId::try_from(id) {
            Ok(id) => id,
            Err(error) => return reply.send(Err(AddError::from(error).fault(asked))),
        };
        match self.running_bay() {
            Ok(bay) => bay.test_interrupt(&id, vector, reply),
            Err(error) => reply.send(Err(error.fault(asked))),
        }
    }

    pub(super) fn running_bay(&mut self) -> Result<&mut Bay, Refusal> {
        let machine = self.vm.as_mut().and_then(|vm| vm.stage.booted());
        machine.map(|machine| &mut machine.bay).ok_or(Refusal::NotRunning)
    }
}
