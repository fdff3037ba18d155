//! CPUID as the guest sees it: what the hardware and the kernel offer, with this
//! machine's processor topology written over the host's.
//!
//! The topology is one package of N cores with one thread each; a vCPU's
//! (x2)APIC id is its index. Sources: Intel SDM volume 2A "CPUID", AMD APM
//! volume 3 appendix E.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const BASIC_MAX: u32 = 0x0;
const FEATURES: u32 = 0x1;
const CACHES: u32 = 0x4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADVANCED_POWER: u32 = 0x8000_0007;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const CACHES_AMD: u32 = 0x8000_001d;
const TOPOLOGY_AMD: u32 = 0x8000_001e;

/// Leaf 1, ECX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: those are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;

/// Leaf 0x8000_0007, EDX: the TSC counts on whatever happens.
const INVARIANT_TSC: u32 = 1 << 8;

/// Level types of leaves 0xb and 0x1f, in bits 8 to 15 of ECX.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// EBX of leaf 0 for "AuthenticAMD" and "HygonGenuine".
const AMD: u32 = u32::from_le_bytes(*b"Auth");
const HYGON: u32 = u32::from_le_bytes(*b"Hygo");

/// What all vCPUs of a machine have in common.
#[derive(Clone, Debug)]
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    cores: u32,
    amd: bool,
}

impl Template {
    /// Makes a template for `cores` vCPUs out of what the kernel supports.
    pub fn new(supported: &CpuId, cores: u8, tsc_deadline: bool) -> Self {
        let cores = u32::from(cores).max(1);
        let mut entries = supported.as_slice().to_vec();
        let find = |leaf| entries.iter().find(|entry| entry.function == leaf).copied();
        let first = find(BASIC_MAX).unwrap_or_default();
        let amd = [AMD, HYGON].contains(&first.ebx);
        entries.retain(|entry| ![TOPOLOGY, TOPOLOGY_V2].contains(&entry.function));
        for entry in &mut entries {
            adapt(entry, cores, tsc_deadline);
        }
        for leaf in [TOPOLOGY, TOPOLOGY_V2].into_iter().filter(|leaf| *leaf <= first.eax) {
            entries.extend(levels(leaf, cores));
        }
        Self { entries, cores, amd }
    }

    /// The list for the vCPU with this APIC id.
    pub fn of(&self, id: u8) -> CpuId {
        let id = u32::from(id);
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            match entry.function {
                FEATURES => entry.ebx = entry.ebx & 0x00ff_ffff | id << 24,
                TOPOLOGY | TOPOLOGY_V2 => entry.edx = id,
                TOPOLOGY_AMD if self.amd => {
                    // One thread a core, one node.
                    (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0);
                }
                _ => {}
            }
        }
        CpuId::from_entries(&entries).expect("no more leaves than the kernel gave, and six")
    }

    /// Number of vCPUs.
    pub fn cores(&self) -> u32 {
        self.cores
    }
}

/// Writes what depends on the number of cores but not on which one it is.
fn adapt(entry: &mut kvm_cpuid_entry2, cores: u32, tsc_deadline: bool) {
    match entry.function {
        FEATURES => {
            entry.ecx |= X2APIC | HYPERVISOR;
            entry.ecx = with(entry.ecx, TSC_DEADLINE, tsc_deadline);
            entry.edx = with(entry.edx, HTT, cores > 1);
            let logical = cores.next_power_of_two().min(0xff);
            entry.ebx = entry.ebx & 0xff00_ffff | logical << 16;
        }
        CACHES if cache_type(entry) != 0 => {
            entry.eax = entry.eax & 0x0000_3fff | sharing(entry, cores) << 14;
            entry.eax |= (cores.next_power_of_two() - 1).min(0x3f) << 26;
        }
        CACHES_AMD if cache_type(entry) != 0 => {
            entry.eax = entry.eax & !(0xfff << 14) | sharing(entry, cores) << 14;
        }
        EXTENDED_FEATURES => entry.ecx = with(entry.ecx, CMP_LEGACY, cores > 1),
        // It does not stop while the guest is paused, as the kernel's clock does, so
        // a guest should not prefer it.
        ADVANCED_POWER => entry.edx &= !INVARIANT_TSC,
        ADDRESS_SIZES => {
            entry.ecx = entry.ecx & !0xf0ff | id_bits(cores) << 12 | (cores - 1);
        }
        _ => {}
    }
}

/// The three levels of an extended topology leaf: thread, core, and the end.
fn levels(function: u32, cores: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind,
        ..kvm_cpuid_entry2::default()
    };
    [level(0, 0, 1, LEVEL_THREAD), level(1, id_bits(cores), cores, LEVEL_CORE), level(2, 0, 0, 0)]
}

/// Bits of an APIC id that number the cores of a package.
fn id_bits(cores: u32) -> u32 {
    cores.next_power_of_two().trailing_zeros()
}

fn cache_type(entry: &kvm_cpuid_entry2) -> u32 {
    entry.eax & 0x1f
}

/// Processors that share a cache, minus one: the last level serves the package,
/// the others their core.
fn sharing(entry: &kvm_cpuid_entry2, cores: u32) -> u32 {
    const LAST_LEVEL: u32 = 3;
    let level = entry.eax >> 5 & 0x7;
    if level >= LAST_LEVEL { cores.next_power_of_two() - 1 } else { 0 }
}

fn with(value: u32, bit: u32, on: bool) -> u32 {
    if on { value | bit } else { value & !bit }
}

#[cfg(test)]
mod tests;
