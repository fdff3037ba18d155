//! Exact counts of what the host's kernel did meanwhile, for any VMM: kprobes through tracefs
//! (Documentation/trace/kprobetrace.rst), and what a process keeps in memory.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use crate::error::{Doing, Error, Result};

const TRACING: &str = "/sys/kernel/tracing";

/// A mapping of this many KiB or more is the guest's RAM: nothing of the VMM's own comes near it.
const GUEST_RAM: u64 = 32 << 10;

/// What is counted, and the kernel function (Linux 6.12) whose calls it is.
const COUNTED: [(&str, &str); 7] = [
    ("route_commits", "kvm_set_irq_routing"),
    ("irqfd_calls", "kvm_irqfd"),
    ("set_irqs", "vfio_pci_set_irqs_ioctl"),
    ("config_accesses", "vfio_pci_config_rw"),
    ("memslot_changes", "kvm_arch_commit_memory_region"),
    ("userspace_msis", "kvm_send_userspace_msi"),
    ("host_requests", "vfio_pci_core_request"),
];

/// Calls by what is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

/// What the kernel does about memory that devices may reach: calls of a VFIO container (to map, to unmap), and
/// of the function that pins pages for them. The module vfio_iommu_type1 must be loaded.
pub const PINNING: &[(&str, &str)] =
    &[("container_calls", "vfio_iommu_type1_ioctl"), ("pins", "pin_user_pages_remote")];

/// The probes, until dropped.
#[derive(Debug)]
pub struct Probes(&'static [(&'static str, &'static str)]);

impl Probes {
    /// Begins to count what devices and interrupts cost.
    pub fn install() -> Result<Self> {
        Self::of(&COUNTED)
    }

    /// Begins to count the calls of these kernel functions, each under its name.
    pub fn of(counted: &'static [(&'static str, &'static str)]) -> Result<Self> {
        let probes = Self(counted);
        for (name, function) in counted {
            write("kprobe_events", &format!("p:hotbay/{name} {function}\n"))?;
        }
        write("events/hotbay/enable", "1")?;
        Ok(probes)
    }

    /// What happened during `scene`.
    pub fn during(&self, scene: impl FnOnce() -> Result) -> Result<Counts> {
        let before = self.read()?;
        scene()?;
        let mut counts = self.read()?;
        for (name, count) in &mut counts.0 {
            *count -= before.of(name);
        }
        Ok(counts)
    }

    /// How often it has happened since the probes were installed.
    pub fn so_far(&self, name: &str) -> Result<u64> {
        Ok(self.read()?.of(name))
    }

    fn read(&self) -> Result<Counts> {
        let profile = Path::new(TRACING).join("kprobe_profile");
        let profile = fs::read_to_string(profile).doing("read the probes' counts")?;
        let of = |wanted: &str| {
            profile.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let (name, hits) = (words.next()?, words.next()?);
                if name == wanted { hits.parse().ok() } else { None }
            })
        };
        let counts = self.0.iter().map(|&(name, _)| (name, of(name).unwrap_or(0)));
        Ok(Counts(counts.collect()))
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (file, text) in [("events/hotbay/enable", "0"), ("kprobe_events", "-:hotbay/\n")] {
            if let Err(error) = write(file, text) {
                eprintln!("probes stay behind: {error}");
            }
        }
    }
}

impl Counts {
    /// Calls of one kind; 0 for a kind that is not counted.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Fails if more calls of a kind were made than its budget allows.
    pub fn within(&self, budgets: &[(&str, u64)]) -> Result {
        let over: Vec<String> = budgets
            .iter()
            .filter(|(name, budget)| self.of(name) > *budget)
            .map(|(name, budget)| format!("{name}: {} of {budget}", self.of(name)))
            .collect();
        if over.is_empty() { Ok(()) } else { Err(Error::Unexpected(over.join(", "))) }
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let each: Vec<_> = self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        f.write_str(&each.join(", "))
    }
}

/// KiB a process keeps in memory beside the guest's RAM (`Pss`, proc(5)).
pub fn memory_beside_guest(pid: u32) -> Result<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).doing("read smaps")?;
    let value = |line: &str, key| {
        let kib = line.strip_prefix(key)?.trim().split(' ').next()?;
        kib.parse::<u64>().ok()
    };
    let mut total = 0;
    let mut size = 0;
    for line in smaps.lines() {
        size = value(line, "Size:").unwrap_or(size);
        if size < GUEST_RAM {
            total += value(line, "Pss:").unwrap_or(0);
        }
    }
    Ok(total)
}

fn write(file: &str, text: &str) -> Result {
    let path = Path::new(TRACING).join(file);
    let mut options = fs::OpenOptions::new();
    let opened = options.append(file == "kprobe_events").write(true).open(&path);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.doing(format!("write {text:?} to {}", path.display()))
}
