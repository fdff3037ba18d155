//! Devices come to a VM and go from it, whatever stage it is in.

use api::mailbox::Reply;
use api::request::Response;
use api::schema::device::{AddDevice, RemoveDevice};

use super::{Error, Stage, Vmm};
use crate::config::device::DeviceSpec;
use crate::hotplug::{AddError, Removal};

impl Vmm {
    /// Adds a device to the running guest, or to the configuration before boot.
    pub fn add_device(&mut self, body: AddDevice, reply: Reply) {
        let asked = "cannot add the device";
        let spec = match DeviceSpec::try_from(body) {
            Ok(spec) => spec,
            Err(error) => return reply.send(Err(AddError::from(error).fault(asked))),
        };
        match self.vm.as_mut().map(|vm| (&mut vm.stage, &mut vm.spec)) {
            None => reply.send(Err(Error::NotCreated.fault(asked))),
            Some((stage @ (Stage::Starting(..) | Stage::Stopping(_)), _)) => {
                reply.send(Err(stage.refusal().fault(asked)));
            }
            Some((
                Stage::Running(machine) | Stage::Pausing(machine, _) | Stage::Paused(machine, _),
                _,
            )) => machine.bay.add(spec, reply),
            Some((Stage::Created | Stage::Shutdown, vm)) => {
                let taken = spec.id.clone().filter(|_| vm.devices.iter().any(|d| d.id == spec.id));
                let answer = match taken {
                    Some(id) => Err(AddError::Taken(id).fault(asked)),
                    None => {
                        vm.devices.push(spec);
                        Ok(Response::Done)
                    }
                };
                reply.send(answer);
            }
        }
    }

    /// Takes a device from the running guest, or from the configuration.
    pub fn remove_device(&mut self, body: RemoveDevice, reply: Reply) {
        let asked = "cannot remove the device";
        let removal = match Removal::try_from(body) {
            Ok(removal) => removal,
            Err(error) => return reply.send(Err(AddError::from(error).fault(asked))),
        };
        match self.vm.as_mut().map(|vm| (&mut vm.stage, &mut vm.spec)) {
            None => reply.send(Err(Error::NotCreated.fault(asked))),
            Some((stage @ (Stage::Starting(..) | Stage::Stopping(_)), _)) => {
                reply.send(Err(stage.refusal().fault(asked)));
            }
            Some((
                Stage::Running(machine) | Stage::Pausing(machine, _) | Stage::Paused(machine, _),
                _,
            )) => {
                machine.bay.remove(removal, reply);
                self.start_timer();
            }
            Some((Stage::Created | Stage::Shutdown, vm)) => {
                let before = vm.devices.len();
                vm.devices.retain(|device| device.id.as_ref() != Some(removal.id()));
                let answer = match before > vm.devices.len() {
                    true => Ok(Response::Done),
                    false => Err(removal.unknown().fault(asked.to_owned())),
                };
                reply.send(answer);
            }
        }
    }
}
