//! Landlock's calls, and what a domain admits.
#![expect(unsafe_code, reason = "asks the kernel for its version, which the crate keeps to itself")]

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};

use super::{Error, Grant, Purpose};

/// The oldest ABI whose domains keep what they promise: since it, files outside
/// cannot be cut off (Linux 6.2).
pub(super) const NEEDED: i64 = 3;

/// Flag of `landlock_create_ruleset`: only tell the version.
const VERSION: u32 = 1;

/// Of a file system, these are about one file and not about a folder's entries.
const OF_FILES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    Execute | ReadFile | WriteFile | Truncate | IoctlDev
});

/// A domain that the calling thread has entered, with the threads it starts.
#[derive(Debug)]
pub(super) struct Domain {
    abi: i64,
    granted: Vec<(PathBuf, BitFlags<AccessFs>)>,
    /// A rule is for an inode, and procfs makes a new one when it has forgotten a
    /// name: as long as these are open it does not.
    _pinned: Vec<PathFd>,
}

/// Lets the calling thread, which needs none, reach no path from here on; if the
/// host has no Landlock, nothing changes.
pub fn close_off() -> Result<(), Error> {
    match Domain::enter(&[]) {
        Ok(_) | Err(Error::Absent(_) | Error::TooOld(_)) => Ok(()),
        Err(other) => Err(other),
    }
}

impl Domain {
    /// Enters a domain in which nothing but `grants` can be reached.
    pub(super) fn enter(grants: &[Grant]) -> Result<Self, Error> {
        let abi = judge(version())?;
        let mut ruleset = ruleset()?;
        let (mut granted, mut pinned) = (Vec::new(), Vec::new());
        for grant in grants {
            let path = match grant.open() {
                Ok(path) => path,
                Err(_) if grant.optional => continue,
                Err(source) => {
                    let (what, path) = (grant.what, grant.path.clone());
                    return Err(Error::Missing { what, path, source });
                }
            };
            let rights = grant.rights();
            ruleset = ruleset.add_rule(PathBeneath::new(&path, rights))?;
            granted.push((canonical(&grant.path), rights));
            if grant.path.starts_with("/proc") {
                pinned.push(path);
            }
        }
        let status = ruleset.restrict_self()?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err(Error::Absent("the kernel does not enforce it"));
        }
        Ok(Self { abi, granted, _pinned: pinned })
    }

    /// Whether `grant` lies within what was granted. Rights of a folder and of
    /// what is below it add up.
    pub(super) fn admits(&self, grant: &Grant) -> bool {
        let path = canonical(&grant.path);
        let above = self.granted.iter().filter(|(granted, _)| path.starts_with(granted));
        let rights =
            above.fold(BitFlags::EMPTY, |all: BitFlags<AccessFs>, (_, rights)| all | *rights);
        rights.contains(grant.rights())
    }

    /// Whether there was such a path to be granted.
    pub(super) fn grants(&self, path: &str) -> bool {
        self.granted.iter().any(|(granted, _)| granted == Path::new(path))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Landlock (ABI {}) lets this process reach", self.abi)?;
        let mut before = "";
        for (path, _) in &self.granted {
            write!(f, "{before} {}", path.display())?;
            before = ",";
        }
        Ok(())
    }
}

impl Grant {
    fn open(&self) -> Result<PathFd, landlock::PathFdError> {
        if self.purpose == Purpose::Overwrite {
            // Should that fail, so does what follows, and says so.
            let _ = OpenOptions::new().append(true).create(true).open(&self.path);
        }
        PathFd::new(&self.path)
    }

    /// What a rule for it grants, or what it needs of rules for folders above it.
    fn rights(&self) -> BitFlags<AccessFs> {
        let rights = self.purpose.rights();
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => rights,
            Ok(_) => rights & OF_FILES,
            // To be made.
            Err(_) if self.purpose == Purpose::Overwrite => rights | AccessFs::MakeReg,
            Err(_) => rights & OF_FILES,
        }
    }
}

impl Purpose {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
            Self::Write => make_bitflags!(AccessFs::{
                WriteFile | Truncate | MakeReg | MakeSock | RemoveFile | IoctlDev
            }),
            Self::ReadWrite => Self::Read.rights() | Self::Write.rights(),
            Self::Device => make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev}),
            Self::Overwrite => make_bitflags!(AccessFs::{WriteFile | Truncate}),
            Self::Sockets => make_bitflags!(AccessFs::{MakeSock | RemoveFile}),
            Self::Removal => AccessFs::RemoveFile.into(),
        }
    }
}

/// Everything that Landlock can forbid is forbidden. What came with later kernels
/// (ioctls of devices opened later, TCP, signals and abstract sockets of others) is
/// where the kernel can.
fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V3))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()
}

/// The kernel's ABI, or why it has none.
fn version() -> io::Result<i64> {
    // SAFETY: with this flag the call takes no memory.
    let answer = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn judge(version: io::Result<i64>) -> Result<i64, Error> {
    match version {
        Ok(abi) if abi >= NEEDED => Ok(abi),
        Ok(abi) => Err(Error::TooOld(abi)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err(Error::Absent("this kernel has it switched off"))
        }
        Err(_) => Err(Error::Absent("this kernel has none")),
    }
}

/// Whether the host has what a domain is made of.
#[cfg(test)]
pub(super) fn is_offered() -> bool {
    judge(version()).is_ok()
}

/// The path without links; of what is not there yet, that of its folder and a name.
fn canonical(path: &Path) -> PathBuf {
    let folder = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Some(fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?.join(path.file_name()?))
    };
    fs::canonicalize(path).ok().or_else(folder).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_without_landlock_or_with_an_old_one_is_told_apart_and_given_a_remedy() {
        let none = judge(Err(io::Error::from_raw_os_error(libc::ENOSYS))).unwrap_err().to_string();
        let off =
            judge(Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))).unwrap_err().to_string();
        let old = judge(Ok(2)).unwrap_err().to_string();

        assert!(none.contains("has none") && none.contains("CONFIG_SECURITY_LANDLOCK"), "{none}");
        assert!(off.contains("switched off") && off.contains("lsm=landlock"), "{off}");
        assert!(old.contains("ABI 2") && old.contains("Linux 6.2"), "{old}");
        assert_eq!(judge(Ok(3)).unwrap(), 3);
    }
}
