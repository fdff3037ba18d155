//! What of the file system the process reaches: a Landlock domain (Linux
//! `Documentation/userspace-api/landlock.rst`), entered once and for good.
//!
//! What is open stays open, so it is about what is opened later: `/dev/kvm` and
//! what a VM boots at each boot, groups of `/dev/vfio` at each hot-plug. A device's
//! group need not be known, nor exist, when the domain is entered: the rule is for
//! the folder. What a later VM needs besides must have been granted, for a domain
//! only ever becomes narrower; it is looked at when the VM is created.
//!
//! A domain holds the thread that enters it and those that it starts. The event
//! loop enters it before it has started any; threads older than that reach no path
//! at all ([`close_off`]).

use std::path::{Path, PathBuf};

mod domain;

use domain::Domain;
pub use domain::close_off;

/// VFIO's groups, and their container.
const GROUPS: &str = "/dev/vfio";

/// A path that is needed, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it is to a person.
    pub what: &'static str,
    /// A file, or a folder and everything below it.
    pub path: PathBuf,
    /// What is done there.
    pub purpose: Purpose,
    /// Not every host has it.
    pub optional: bool,
}

/// What is done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Files are read, folders listed.
    Read,
    /// Files are written, cut off, made and removed, and so are sockets.
    Write,
    /// Both.
    ReadWrite,
    /// A device node is opened and driven.
    Device,
    /// One file is written from its beginning; made now, should it not be there.
    Overwrite,
    /// Sockets are made and removed in this folder.
    Sockets,
    /// Sockets are removed from this folder.
    Removal,
}

/// Why there is no sandbox as asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not built into the kernel, or not switched on.
    #[error(
        "Landlock was asked for, but {0}; boot the host with lsm=landlock,... and \
         CONFIG_SECURITY_LANDLOCK, or ask for no Landlock"
    )]
    Absent(&'static str),
    /// It lacks what the domain is made of.
    #[error(
        "Landlock was asked for, but this kernel's is too old (ABI {0}): hotbay needs ABI \
         {needs}, so a host with Linux 6.2 or later, or no Landlock", needs = domain::NEEDED
    )]
    TooOld(i64),
    /// A rule is for a path that is there.
    #[error("cannot grant {what} {} to Landlock's domain: it must be there first", path.display())]
    Missing {
        /// What it is to a person.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: landlock::PathFdError,
    },
    /// The kernel refuses.
    #[error("cannot enter a Landlock domain")]
    Enter(#[from] landlock::RulesetError),
    /// Something that was not granted.
    #[error(
        "{what} {} is outside of the Landlock domain that this process has entered, and no \
         domain can be widened: start hotbay anew with --landlock --landlock-rules \
         path={},access={access}", path.display(), path.display()
    )]
    Outside {
        /// What it is to a person.
        what: &'static str,
        /// What to grant.
        path: PathBuf,
        /// For what, in the words of a rule.
        access: &'static str,
    },
    /// There was nothing to grant.
    #[error(
        "the host had no {GROUPS} when this process entered its Landlock domain; load vfio-pci \
         (modprobe vfio-pci), then start hotbay anew"
    )]
    NoVfio,
}

/// The process's sandbox, entered or not.
#[derive(Debug, Default)]
pub struct Sandbox {
    own: Vec<Grant>,
    domain: Option<Domain>,
}

impl Sandbox {
    /// Something the process needs for itself, whatever VM it has.
    pub fn keep(&mut self, grant: Grant) {
        self.own.push(grant);
    }

    /// Nothing but `wanted` and what hotbay itself needs can be reached from here
    /// on. If that has been decided before, `wanted` must be part of it.
    ///
    /// # Errors
    /// Nothing has changed: the host cannot, a path is missing, or one is outside.
    pub fn enter(&mut self, wanted: Vec<Grant>) -> Result<(), Error> {
        if self.domain.is_some() {
            return self.check(&wanted);
        }
        let grants = [host(), self.own.clone(), wanted].concat();
        let domain = Domain::enter(&grants)?;
        log::info!("{domain}");
        if !domain.grants(GROUPS) {
            log::warn!("no device can be added: {}", Error::NoVfio);
        }
        self.domain = Some(domain);
        Ok(())
    }

    /// Whether all of `needed` can be reached.
    pub fn check(&self, needed: &[Grant]) -> Result<(), Error> {
        let Some(domain) = &self.domain else { return Ok(()) };
        match needed.iter().find(|grant| !grant.optional && !domain.admits(grant)) {
            Some(Grant { what, path, purpose, .. }) => {
                let access = purpose.access();
                Err(Error::Outside { what, path: path.clone(), access })
            }
            None => Ok(()),
        }
    }

    /// Whether devices can be had.
    pub fn check_devices(&self) -> Result<(), Error> {
        let reached = self.domain.as_ref().is_none_or(|domain| domain.grants(GROUPS));
        if reached { Ok(()) } else { Err(Error::NoVfio) }
    }
}

impl Grant {
    /// A path that must be there.
    pub fn new(what: &'static str, path: impl Into<PathBuf>, purpose: Purpose) -> Self {
        Self { what, path: path.into(), purpose, optional: false }
    }

    /// A path that need not.
    pub fn optional(what: &'static str, path: impl Into<PathBuf>, purpose: Purpose) -> Self {
        Self { optional: true, ..Self::new(what, path, purpose) }
    }

    /// The folder of `path`, which need not be there itself.
    pub fn folder(what: &'static str, path: &Path, purpose: Purpose) -> Self {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self::new(what, folder.unwrap_or(Path::new(".")), purpose)
    }
}

impl Purpose {
    /// The access of a rule that grants it.
    fn access(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Write | Self::Overwrite | Self::Sockets | Self::Removal => "w",
            Self::ReadWrite | Self::Device => "rw",
        }
    }
}

/// What hotbay needs of every host. Paths that it only resolves (links from a
/// function to its driver and group) need no rule.
fn host() -> Vec<Grant> {
    vec![
        Grant::optional("the hypervisor's node", "/dev/kvm", Purpose::Device),
        Grant::optional("VFIO's nodes", GROUPS, Purpose::Device),
        Grant::optional("IOMMU groups", "/sys/kernel/iommu_groups", Purpose::Read),
        // How a function can be reset, and the like.
        Grant::optional("functions", "/sys/devices", Purpose::Read),
        Grant::optional("the host's interrupt counts", "/proc/interrupts", Purpose::Read),
        // Whether pinning RAM is free of a limit.
        Grant::optional("the process's own status", "/proc/self/status", Purpose::Read),
    ]
}

#[cfg(test)]
mod tests;
