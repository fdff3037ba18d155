//! The clock that KVM offers to a guest (kvmclock), which stands still while the
//! guest does (Linux `Documentation/virt/kvm/api.rst`, 4.29 to 4.31 and 4.74).

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::{VcpuFd, VmFd};

use super::Error;

/// What time it is in a guest.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    nanoseconds: u64,
}

impl Clock {
    /// Reads it. The guest stands still.
    pub fn read(vm: &VmFd) -> Result<Self, Error> {
        let clock = vm.get_clock().map_err(Error::call("read the guest's clock"))?;
        Ok(Self { nanoseconds: clock.clock })
    }

    /// Sets it back to what it was, so that the guest does not see how long it
    /// stood. With the host's time beside it, as it was read, the kernel would add
    /// what has passed since.
    pub fn set(self, vm: &VmFd) -> Result<(), Error> {
        let clock = kvm_clock_data { clock: self.nanoseconds, ..kvm_clock_data::default() };
        vm.set_clock(&clock).map_err(Error::call("set the guest's clock"))
    }
}

/// Tells the guest's watchdogs that the processor has stood still. Call it before
/// it runs again, on its own thread.
pub fn tell_stopped(vcpu: &VcpuFd) {
    // Refused for a guest that does not read this clock: nobody is to be told.
    if let Err(error) = vcpu.kvmclock_ctrl() {
        log::debug!("a vCPU is not told that it was stopped: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kvm::{Kvm, testing};

    #[test]
    fn time_that_passes_between_reading_and_setting_does_not_pass_in_the_guest() {
        const STANDS: Duration = Duration::from_millis(50);
        if !testing::has_hypervisor() {
            return;
        }
        let vm = Kvm::open().unwrap().create_vm().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let before = Clock::read(&vm).unwrap();
        std::thread::sleep(STANDS);

        let set = Instant::now();
        before.set(&vm).unwrap();
        tell_stopped(&vcpu);

        let passed = Clock::read(&vm).unwrap().nanoseconds - before.nanoseconds;
        assert!(u128::from(passed) <= set.elapsed().as_nanos(), "{passed} ns");
    }
}
