//! The kernel's side of the machine: thin typed calls over `/dev/kvm`.
//!
//! Nothing here decides anything; every function is one or two kernel calls
//! with an error that says which.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, kvm_irqchip,
};
use kvm_ioctls::{Cap, VmFd};

use crate::memory::layout;

pub mod clock;
pub mod doorbells;
pub mod exit;
pub mod kick;
pub mod memslot;
pub mod vfio;

/// The device node of the kernel's hypervisor.
const NODE: &str = "/dev/kvm";

/// What the machine cannot do without, and how to name it to a person.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "in-kernel interrupt controllers"),
    (Cap::Irqfd, "interrupts from eventfds"),
    (Cap::IrqfdResample, "level interrupts from eventfds"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::SignalMsi, "message-signalled interrupts"),
    (Cap::UserMemory, "guest memory"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::ExtCpuid, "CPUID lists"),
];

/// What went wrong at the kernel's door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No device node, or no permission to open it.
    #[error(
        "cannot open {NODE}: is the kvm module loaded, virtualisation on in the firmware, \
         and this user allowed to open it?"
    )]
    Open(#[source] io::Error),
    /// The kernel is too old or too foreign.
    #[error("this kernel's KVM lacks {0}, which hotbay needs")]
    Missing(&'static str),
    /// A call failed.
    #[error("KVM: cannot {0}")]
    Call(&'static str, #[source] io::Error),
}

impl Error {
    /// Names the call that failed; for `map_err`.
    pub fn call(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Call(what, error.into())
    }
}

/// How often [`insist`] asks.
const ATTEMPTS: u32 = 16;

/// Undoes something in the kernel: a call that must not fail, for what it leaves behind is nobody's. It may need a little
/// memory, for which the kernel makes room before it says that there is none, so it is asked again.
///
/// # Errors
/// What the last attempt said.
pub fn insist<T, E>(mut undo: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut outcome = undo();
    for _ in 1..ATTEMPTS {
        if outcome.is_ok() {
            break;
        }
        outcome = undo();
    }
    outcome
}

/// The opened hypervisor.
#[derive(Debug)]
pub struct Kvm(kvm_ioctls::Kvm);

impl Kvm {
    /// Opens the hypervisor and checks that it can do what the machine needs.
    pub fn open() -> Result<Self, Error> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|error| Error::Open(error.into()))?;
        match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            Some((_, name)) => Err(Error::Missing(name)),
            None => Ok(Self(kvm)),
        }
    }

    /// Creates an empty virtual machine with the kernel's interrupt
    /// controllers: two PICs, one IOAPIC, and a local APIC for each later vCPU.
    pub fn create_vm(&self) -> Result<Arc<VmFd>, Error> {
        let vm = self.create_vm_patiently()?;
        let tss = usize::try_from(layout::TSS).map_err(|_| Error::Missing("64-bit hosts"))?;
        vm.set_identity_map_address(layout::IDENTITY_MAP)
            .map_err(Error::call("set the identity map address"))?;
        vm.set_tss_address(tss).map_err(Error::call("set the TSS address"))?;
        vm.create_irq_chip().map_err(Error::call("create the interrupt controllers"))?;
        Ok(Arc::new(vm))
    }

    /// `KVM_CREATE_VM` fails with EINTR when a signal arrives meanwhile.
    fn create_vm_patiently(&self) -> Result<VmFd, Error> {
        loop {
            match self.0.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                other => return other.map_err(Error::call("create a virtual machine")),
            }
        }
    }

    /// CPUID leaves that the hardware and the kernel can offer to a guest.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.0
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::call("list the supported CPUID leaves"))
    }

    /// Bits of the guest-physical addresses that processors here can use.
    pub fn address_bits(&self) -> Result<u32, Error> {
        const ADDRESS_SIZES: u32 = 0x8000_0008;
        const AT_LEAST: u32 = 36;
        let supported = self.supported_cpuid()?;
        let leaf = supported.as_slice().iter().find(|leaf| leaf.function == ADDRESS_SIZES);
        Ok(leaf.map_or(AT_LEAST, |leaf| leaf.eax & 0xff))
    }

    /// Numbers of the model-specific registers that hold guest state.
    pub fn state_msrs(&self) -> Result<Vec<u32>, Error> {
        let list = self.0.get_msr_index_list();
        Ok(list.map_err(Error::call("list the model-specific registers"))?.as_slice().to_vec())
    }

    /// Whether the local APIC's timer has its TSC-deadline mode.
    pub fn has_tsc_deadline(&self) -> bool {
        self.0.check_extension(Cap::TscDeadlineTimer)
    }

    /// Most vCPUs that one machine may have.
    pub fn most_vcpus(&self) -> usize {
        self.0.get_max_vcpus()
    }

    /// How many memory slots a machine has.
    pub fn memslots(&self) -> usize {
        self.0.get_nr_memslots()
    }
}

/// All eight lines of a PIC, in its mask register.
const ALL_LINES: u8 = 0xff;

/// State at power-on of the three interrupt controllers that all vCPUs share, with
/// both PICs masked, as firmware leaves them. A guest on hardware-reduced ACPI never
/// touches those, and until it has its own local APIC in order, what comes through
/// them interrupts it with the vectors of exceptions: an edge of the hot-plug
/// registers' line in early boot was a #BR, and the end of that boot.
#[derive(Debug)]
pub struct Irqchips([kvm_irqchip; 3]);

impl Irqchips {
    /// Reads the state of all three of a machine that has not run.
    pub fn capture(vm: &VmFd) -> Result<Self, Error> {
        let mut chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
            .map(|chip_id| kvm_irqchip { chip_id, ..kvm_irqchip::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).map_err(Error::call("read an interrupt controller"))?;
            if chip.chip_id != KVM_IRQCHIP_IOAPIC {
                chip.chip.pic.imr = ALL_LINES;
            }
        }
        Ok(Self(chips))
    }

    /// Puts all three back into the captured state; nothing stays pending.
    pub fn restore(&self, vm: &VmFd) -> Result<(), Error> {
        for chip in &self.0 {
            vm.set_irqchip(chip).map_err(Error::call("reset an interrupt controller"))?;
        }
        Ok(())
    }
}

/// For tests that call the kernel.
#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    /// Whether this machine has the device node. Without it a test says by this line
    /// that it was skipped, and `scripts/test` counts it.
    pub(crate) fn has_hypervisor() -> bool {
        let has = Path::new(super::NODE).exists();
        if !has {
            println!("SKIPPED: there is no {} here", super::NODE);
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_undoes_is_asked_again_and_not_for_ever() {
        let mut asked = 0;
        let mut answers = |refusals| {
            asked = 0;
            insist(|| {
                asked += 1;
                if asked > refusals { Ok(asked) } else { Err(asked) }
            })
        };

        assert_eq!(answers(0), Ok(1));
        assert_eq!(answers(2), Ok(3));
        assert_eq!(answers(u32::MAX), Err(ATTEMPTS));
    }
}
