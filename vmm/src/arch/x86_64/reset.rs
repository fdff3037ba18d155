//! The state of a processor after reset, whatever it did before.
//!
//! KVM can neither reset a vCPU nor create one twice, so what a fresh one looks
//! like is read once and written back at every reset.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_debugregs, kvm_fpu,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{KvmNestedStateBuffer, VcpuFd};

use super::registers::Entry;
use crate::kvm::{Error, Kvm};

const IA32_TSC: u32 = 0x10;
const IA32_APIC_BASE: u32 = 0x1b;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

/// Written by the machine, this value makes KVM give the processor the same TSC
/// as the others have, which goes on counting. AMD hosts need that after a triple
/// fault: they lose the offset, and timers then come as late as the host is old.
const SAME_AS_OTHERS: u64 = 0;
/// Fast string operations.
const FAST_STRING: u64 = 1;
/// MTRRs on, memory write-back where none says otherwise.
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// The first processor's bit in the APIC base.
const APIC_BASE_FIRST: u64 = 1 << 8;

/// Local APIC registers (Intel SDM volume 3, table 11-1) and modes.
const APIC_ID: usize = 0x20;
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const EXTERNAL: u32 = 7 << 8;
const NMI: u32 = 4 << 8;

/// What every vCPU of a machine looks like after reset.
pub struct Fresh {
    sregs: kvm_sregs,
    regs: kvm_regs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    /// That there is no nested guest; absent where the host offers none.
    nested: Option<Box<KvmNestedStateBuffer>>,
}

impl Fresh {
    /// Reads the state of `vcpu`, which has its CPUID and has never run.
    pub fn capture(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Self, Error> {
        let read = |what| Error::call(what);
        Ok(Self {
            sregs: vcpu.get_sregs().map_err(read("read the system registers"))?,
            regs: vcpu.get_regs().map_err(read("read the registers"))?,
            fpu: vcpu.get_fpu().map_err(read("read the floating-point state"))?,
            xcrs: vcpu.get_xcrs().ok(),
            debug: vcpu.get_debug_regs().map_err(read("read the debug registers"))?,
            events: vcpu.get_vcpu_events().map_err(read("read pending events"))?,
            lapic: vcpu.get_lapic().map_err(read("read the local APIC"))?,
            msrs: read_msrs(vcpu, &kvm.state_msrs()?)?,
            nested: read_nested(vcpu),
        })
    }

    /// Resets `vcpu`, whose APIC id is `id`. The first one starts at `entry`; the
    /// others wait to be started.
    pub fn apply(&self, vcpu: &VcpuFd, id: u8, entry: Entry) -> Result<(), Error> {
        let first = id == 0;
        let state = if first { KVM_MP_STATE_RUNNABLE } else { KVM_MP_STATE_UNINITIALIZED };
        let mut sregs = if first { entry.sregs(self.sregs) } else { self.sregs };
        let bit = if first { APIC_BASE_FIRST } else { 0 };
        sregs.apic_base = self.sregs.apic_base & !APIC_BASE_FIRST | bit;
        let regs = if first { entry.regs() } else { self.regs };

        vcpu.set_mp_state(kvm_mp_state { mp_state: state })
            .map_err(Error::call("set the processor's run state"))?;
        if let Some(nested) = &self.nested {
            // First: while it is in VMX operation, CR4 cannot be reset.
            vcpu.set_nested_state(nested).map_err(Error::call("leave the nested guest"))?;
        }
        vcpu.set_sregs(&sregs).map_err(Error::call("set the system registers"))?;
        vcpu.set_regs(&regs).map_err(Error::call("set the registers"))?;
        vcpu.set_fpu(&self.fpu).map_err(Error::call("set the floating-point state"))?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).map_err(Error::call("set the extended control registers"))?;
        }
        vcpu.set_debug_regs(&self.debug).map_err(Error::call("set the debug registers"))?;
        self.write_msrs(vcpu)?;
        vcpu.set_lapic(&lapic(self.lapic, id)).map_err(Error::call("set the local APIC"))?;
        vcpu.set_vcpu_events(&self.events).map_err(Error::call("clear pending events"))
    }

    /// Writes what can be written: some registers that the kernel lists are
    /// read-only, and a write of several stops at the first refusal.
    fn write_msrs(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        let mut rest = self.msrs.as_slice();
        while !rest.is_empty() {
            let msrs = Msrs::from_entries(rest).expect("no more than were read");
            let done = vcpu.set_msrs(&msrs).map_err(Error::call("set the MSRs"))?;
            rest = rest.get(done + 1..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Values of the MSRs in `numbers` at reset, as firmware leaves them.
fn read_msrs(vcpu: &VcpuFd, numbers: &[u32]) -> Result<Vec<kvm_msr_entry>, Error> {
    // SREGS carry the APIC base, the local APIC's state stops its timer.
    let kept = [IA32_APIC_BASE, IA32_TSC_DEADLINE];
    let mut found = Vec::new();
    for index in numbers.iter().filter(|index| !kept.contains(index)) {
        let entry = kvm_msr_entry { index: *index, ..kvm_msr_entry::default() };
        let mut one = Msrs::from_entries(&[entry]).expect("one entry");
        // Some of the list need a feature that this guest has not.
        if vcpu.get_msrs(&mut one).map_err(Error::call("read the MSRs"))? == 1 {
            found.extend_from_slice(one.as_slice());
        }
    }
    let firmware = [
        (IA32_TSC, SAME_AS_OTHERS),
        (IA32_MISC_ENABLE, FAST_STRING),
        (IA32_MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK),
    ];
    for (index, bits) in firmware {
        found.retain(|entry| entry.index != index);
        found.push(kvm_msr_entry { index, data: bits, ..kvm_msr_entry::default() });
    }
    Ok(found)
}

fn read_nested(vcpu: &VcpuFd) -> Option<Box<KvmNestedStateBuffer>> {
    let mut state = Box::new(KvmNestedStateBuffer::empty());
    vcpu.nested_state(&mut state).ok().map(|_| state)
}

/// A fresh local APIC of the processor `id`, its pins wired as on a PC.
fn lapic(fresh: kvm_lapic_state, id: u8) -> kvm_lapic_state {
    let mut lapic = fresh;
    let mut set = |register: usize, value: u32| {
        for (byte, new) in lapic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
            *byte = i8::from_le_bytes([new]);
        }
    };
    set(APIC_ID, u32::from(id) << 24);
    set(APIC_LVT_LINT0, EXTERNAL);
    set(APIC_LVT_LINT1, NMI);
    lapic
}
