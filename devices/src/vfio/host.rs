//! Which host function a path means, and whether it can be had: the preflight,
//! before anything of the guest or the kernel is touched.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Driver that hands functions to user space.
const DRIVER: &str = "vfio-pci";

/// A PCI function of the host, named by its one canonical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFunction {
    path: PathBuf,
    name: String,
}

/// Why a function cannot be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Nothing at the path.
    #[error("there is no {}; list functions with: ls /sys/bus/pci/devices", .0.display())]
    NotFound(PathBuf, #[source] io::Error),
    /// Something else at the path.
    #[error(
        "{} is no PCI function; give a path such as /sys/bus/pci/devices/0000:01:00.0",
        .0.display()
    )]
    NotPci(PathBuf),
    /// The host has no IOMMU for it.
    #[error("{0} is in no IOMMU group; enable the IOMMU (firmware, and intel_iommu=on)")]
    NoIommu(String),
    /// Some host driver has it.
    #[error("{name} is bound to {driver}, not {DRIVER}; run: scripts/bind-vfio {name}")]
    NotBound {
        /// The function.
        name: String,
        /// Who has it: a driver's name or "no driver".
        driver: String,
    },
    /// A neighbour is still with the host.
    #[error("{name} shares IOMMU group {group} with {others}: bind those to {DRIVER} too")]
    GroupShared {
        /// The function.
        name: String,
        /// Its group.
        group: u32,
        /// The neighbours that host drivers have, with the drivers' names.
        others: String,
    },
}

impl HostFunction {
    /// The function that `path` leads to, whichever way it is spelt.
    pub fn find(path: &Path) -> Result<Self, HostError> {
        let canonical =
            fs::canonicalize(path).map_err(|e| HostError::NotFound(path.to_owned(), e))?;
        let not_pci = || HostError::NotPci(path.to_owned());
        let bus = fs::canonicalize(canonical.join("subsystem")).map_err(|_| not_pci())?;
        let name = canonical.file_name().and_then(|name| name.to_str()).ok_or_else(not_pci)?;
        if !bus.ends_with("bus/pci") || !is_function_name(name) {
            return Err(not_pci());
        }
        let name = name.to_owned();
        Ok(Self { path: canonical, name })
    }

    /// Segment, bus, device and function: `0000:01:00.0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file of its folder in sysfs.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Checks driver and group, and returns the group's number.
    pub fn check(&self) -> Result<u32, HostError> {
        let no_iommu = || HostError::NoIommu(self.name.clone());
        let group = link_name(&self.path.join("iommu_group")).ok_or_else(no_iommu)?;
        let group: u32 = group.parse().map_err(|_| no_iommu())?;
        match driver(&self.path) {
            Some(driver) if driver == DRIVER => {}
            other => {
                let driver = other.unwrap_or_else(|| "no driver".to_owned());
                return Err(HostError::NotBound { name: self.name.clone(), driver });
            }
        }
        let others = self.neighbours_of_the_host();
        if others.is_empty() {
            return Ok(group);
        }
        let others = others.join(", ");
        Err(HostError::GroupShared { name: self.name.clone(), group, others })
    }

    /// Ways to reset it alone, in the order in which the kernel tries them; none on
    /// kernels that do not tell (before Linux 5.15).
    pub fn reset_methods(&self) -> Vec<String> {
        let list = fs::read_to_string(self.path.join("reset_method")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect()
    }

    /// Functions of the same group that a host driver other than VFIO has.
    /// Bridges belong to `pcieport`, which VFIO tolerates.
    fn neighbours_of_the_host(&self) -> Vec<String> {
        let Ok(members) = fs::read_dir(self.path.join("iommu_group/devices")) else {
            return Vec::new();
        };
        let with_driver = |path: PathBuf| {
            let driver = driver(&path)?;
            let name = path.file_name()?.to_str()?;
            let harmless = [DRIVER, "pcieport", "pci-stub"].contains(&driver.as_str());
            (!harmless && name != self.name).then(|| format!("{name} ({driver})"))
        };
        members.flatten().filter_map(|member| with_driver(member.path())).collect()
    }
}

impl fmt::Display for HostFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn driver(function: &Path) -> Option<String> {
    link_name(&function.join("driver"))
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

/// `ssss:bb:dd.f`, all hexadecimal; a segment may have more digits.
fn is_function_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    let hex = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 4 && parts.iter().all(hex)
}

#[cfg(test)]
mod tests;
