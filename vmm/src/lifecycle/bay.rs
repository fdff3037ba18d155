//! Devices come to a VM and go from it, whatever stage it is in.

use api::mailbox::Reply;
use api::request::{Answer, Response};
use api::schema::balloon::VmResize;
use api::schema::device::{AddDevice, RemoveDevice};
use api::schema::disk::DiskConfig;
use api::schema::net::NetConfig;
use api::schema::user_device::UserDeviceConfig;
use api::schema::vsock::VsockConfig;

use super::{Error, Verb, Vm, Vmm};
use crate::config::VmSpec;
use crate::config::balloon;
use crate::config::device::{DeviceError, DeviceSpec};
use crate::config::disk::DiskSpec;
use crate::config::net::NetSpec;
use crate::config::user_device::UserDeviceSpec;
use crate::config::vsock::VsockSpec;
use crate::config::wanted::Wanted;
use crate::hotplug::{AddError, PlaceError, Removal, ResizeError};

const ADD: &str = Verb::AddDevice.failed();
const RESIZE: &str = Verb::Resize.failed();
const REMOVE: &str = Verb::RemoveDevice.failed();

impl Vmm {
    /// Adds a host function to the machine, or to the configuration while there is none.
    pub fn add_device(&mut self, body: AddDevice, reply: Reply) {
        self.add(DeviceSpec::try_from(body).map(Wanted::Host), reply);
    }

    /// The same with a disk.
    pub fn add_disk(&mut self, body: DiskConfig, reply: Reply) {
        self.add(DiskSpec::try_from(body).map(Wanted::Disk), reply);
    }

    /// The same with a network card.
    pub fn add_net(&mut self, body: NetConfig, reply: Reply) {
        self.add(NetSpec::try_from(body).map(Wanted::Net), reply);
    }

    /// The same with sockets to the host.
    pub fn add_vsock(&mut self, body: VsockConfig, reply: Reply) {
        self.add(VsockSpec::try_from(body).map(Wanted::Vsock), reply);
    }

    /// The same with a function that another process emulates.
    pub fn add_user_device(&mut self, body: UserDeviceConfig, reply: Reply) {
        self.add(UserDeviceSpec::try_from(body).map(Wanted::Served), reply);
    }

    fn add(&mut self, wanted: Result<Wanted, DeviceError>, reply: Reply) {
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => return reply.send(Err(AddError::from(error).fault(ADD))),
        };
        let reached = if matches!(wanted, Wanted::Host(_)) {
            self.sandbox.check_devices()
        } else {
            self.sandbox.check(&wanted.grants())
        };
        if let Err(error) = reached {
            return reply.send(Err(Error::from(error).fault(ADD)));
        }
        let Some(Vm { stage, spec: vm, .. }) = &mut self.vm else { return };
        match stage.booted() {
            Some(machine) => {
                machine.bay.add(wanted, reply);
                self.start_timer();
            }
            None => reply.send(configure(vm, wanted)),
        }
    }

    /// Tells the guest how much is to be in its balloon, or the configuration while there is none.
    pub fn resize(&mut self, body: VmResize) -> Answer {
        let VmResize { desired_balloon } = body;
        let resized = desired_balloon.map_or(Ok(()), |size| self.resize_balloon(size));
        resized.map(|()| Response::Done).map_err(|error| error.fault(RESIZE))
    }

    fn resize_balloon(&mut self, size: u64) -> Result<(), ResizeError> {
        let Some(Vm { stage, spec: vm, .. }) = &mut self.vm else { return Ok(()) };
        let (pages, ram) = (balloon::pages(size)?, vm.memory.size);
        if let Some(machine) = stage.booted() {
            return machine.bay.resize_balloon(pages, ram);
        }
        let mut balloons = vm.devices.iter_mut().filter_map(Wanted::balloon);
        let spec = balloons.next().ok_or(ResizeError::NoBalloon)?;
        Ok(spec.resize(pages, ram)?)
    }

    /// Finds out whether a device could be added now. Nothing is.
    pub fn check_device(&mut self, body: AddDevice, reply: Reply) {
        let spec = match DeviceSpec::try_from(body) {
            Ok(spec) => spec,
            Err(error) => return reply.send(Err(AddError::from(error).fault(ADD))),
        };
        match self.running_bay() {
            Ok(bay) => bay.check(Wanted::Host(spec), reply),
            Err(refusal) => reply.send(Err(refusal.fault(ADD))),
        }
    }

    /// Takes a device from the machine, or from the configuration while there is none.
    pub fn remove_device(&mut self, body: RemoveDevice, reply: Reply) {
        let removal = match Removal::try_from(body) {
            Ok(removal) => removal,
            Err(error) => return reply.send(Err(AddError::from(error).fault(REMOVE))),
        };
        let Some(Vm { stage, spec: vm, .. }) = &mut self.vm else { return };
        match stage.booted() {
            Some(machine) => {
                machine.bay.remove(removal, reply);
                self.start_timer();
            }
            None => reply.send(forget(vm, &removal)),
        }
    }
}

fn configure(vm: &mut VmSpec, wanted: Wanted) -> Answer {
    let same = |other: &Wanted| other.id() == wanted.id();
    if let Some(id) = wanted.id().filter(|_| vm.devices.iter().any(same)) {
        return Err(AddError::Taken(id.clone()).fault(ADD));
    }
    if !vm.devices.iter().all(|other| wanted.goes_with(other)) {
        return Err(AddError::Second.fault(ADD));
    }
    if let Err(error) = wanted.fits(vm.segments) {
        return Err(AddError::from(PlaceError::from(error)).fault(ADD));
    }
    vm.devices.push(wanted);
    Ok(Response::Done)
}

fn forget(vm: &mut VmSpec, removal: &Removal) -> Answer {
    let before = vm.devices.len();
    vm.devices.retain(|wanted| wanted.id() != Some(removal.id()));
    match before > vm.devices.len() {
        true => Ok(Response::Done),
        false => Err(removal.unknown().fault(REMOVE.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use api::request::code;
    use api::schema::machine::VmConfig;
    use devices::pci::Segment;

    use super::*;

    #[test]
    fn device_on_a_segment_that_the_vm_lacks_is_not_taken_for_the_next_boot() {
        let mut vm = VmSpec::try_from(VmConfig::default()).unwrap();
        let device = |segment| {
            let body = serde_json::json!({ "path": "/sys/x", "pci_segment": segment });
            let body = serde_json::from_value::<AddDevice>(body).unwrap();
            Wanted::Host(DeviceSpec::try_from(body).unwrap())
        };

        let refused = configure(&mut vm, device(1)).err().unwrap();
        let accepted = configure(&mut vm, device(0));

        assert_eq!(refused.code, code::DEVICE_BAD_REQUEST);
        assert_eq!(accepted, Ok(Response::Done));
        assert!(vm.devices.iter().map(|wanted| wanted.place().0).eq([Segment::default()]));
    }
}
