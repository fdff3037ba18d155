//! The pseudo-device that tells KVM which VFIO groups its guest may reach
//! (Linux `Documentation/virt/kvm/devices/vfio.rst`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use devices::vfio::iommu::GroupWatch;
use kvm_bindings::{
    KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL, kvm_create_device,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::insist;

/// Made with the machine, so that no device finds one descriptor more when it
/// leaves than when it came. A kernel without VFIO has no such device; then the
/// first group is told why.
pub struct VfioDevice {
    vm: Arc<VmFd>,
    device: Mutex<Option<DeviceFd>>,
}

impl VfioDevice {
    /// For the guest of `vm`.
    pub fn new(vm: Arc<VmFd>) -> Self {
        let device = create(&vm).inspect_err(|error| log::debug!("no VFIO in KVM: {error}"));
        Self { vm, device: Mutex::new(device.ok()) }
    }

    fn set(&self, action: u32, group: BorrowedFd<'_>) -> io::Result<()> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if device.is_none() {
            *device = Some(create(&self.vm)?);
        }
        let fd = group.as_raw_fd();
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_VFIO_GROUP,
            attr: action.into(),
            addr: (&raw const fd).addr() as u64,
        };
        device.as_ref().map_or(Ok(()), |device| Ok(device.set_device_attr(&attribute)?))
    }
}

fn create(vm: &VmFd) -> io::Result<DeviceFd> {
    let type_ = kvm_device_type_KVM_DEV_TYPE_VFIO;
    let mut wanted = kvm_create_device { type_, fd: 0, flags: 0 };
    Ok(vm.create_device(&mut wanted)?)
}

impl GroupWatch for VfioDevice {
    fn attached(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        self.set(KVM_DEV_VFIO_GROUP_ADD, group)
    }

    fn detaching(&self, group: BorrowedFd<'_>) {
        if let Err(error) = insist(|| self.set(KVM_DEV_VFIO_GROUP_DEL, group)) {
            log::error!("KVM keeps a VFIO group that has gone: {error}");
        }
    }
}
