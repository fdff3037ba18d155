//! Files a scene uses: our binaries, the guests' kernels and images. `scripts/lab paths` exports where they are.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Doing, Error, Result, ensure};

/// A stock guest kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Linux 6.12 for PCs.
    Amd64V6_12,
    /// Linux 6.12 for virtual machines in clouds; has no drivers for Intel's NICs.
    CloudV6_12,
    /// Linux 6.1 for PCs.
    Amd64V6_1,
    /// Linux 6.1 for virtual machines in clouds.
    CloudV6_1,
}

impl Flavour {
    /// The kernel as distributed, a bzImage.
    pub fn kernel(self) -> Result<PathBuf> {
        self.path("KERNEL")
    }

    /// The ELF kernel inside it, for a PVH boot.
    pub fn elf(self) -> Result<PathBuf> {
        self.path("VMLINUX")
    }

    /// busybox and this kernel's drivers; its init gives a shell on the first serial port.
    pub fn initramfs(self) -> Result<PathBuf> {
        self.path("INITRAMFS")
    }

    fn path(self, kind: &str) -> Result<PathBuf> {
        let name = match self {
            Self::Amd64V6_12 => "6_12_AMD64",
            Self::CloudV6_12 => "6_12_CLOUD_AMD64",
            Self::Amd64V6_1 => "6_1_AMD64",
            Self::CloudV6_1 => "6_1_CLOUD_AMD64",
        };
        variable(&format!("{kind}_{name}")).map(PathBuf::from)
    }
}

/// A binary of ours, built for release.
pub fn binary(name: &str) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), Into::into);
    target.join("release").join(name)
}

/// A script of ours.
pub fn script(name: &str) -> PathBuf {
    repository().join("scripts").join(name)
}

/// Packs everything below `root` into `archive`, in the format of an initramfs.
pub fn pack(root: &Path, archive: &Path) -> Result {
    let file = File::create(archive).doing("make an archive")?;
    let packed = Command::new("sh")
        .args(["-c", "find . | cpio -o -H newc --quiet"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(file)
        .status()
        .doing("run cpio")?;
    ensure(packed.success(), || format!("cpio: {packed}"))
}

/// Packs `program` as `/bin/NAME`, and the libraries it needs, into `archive`, for a guest's initramfs. `dir` is for the
/// pieces.
pub fn pack_program(program: &str, name: &str, dir: &Path, archive: &Path) -> Result {
    let root = dir.join(name);
    let libraries = Command::new("ldd").arg(program).output().doing("run ldd")?;
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    fs::create_dir_all(root.join("bin")).doing("make a folder")?;
    fs::copy(program, root.join("bin").join(name)).doing(format!("copy {program}"))?;
    for library in libraries {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap_or(&root)).doing("make a folder")?;
        fs::copy(library, copy).doing(format!("copy {library}"))?;
    }
    pack(&root, archive)
}

/// Makes `long` of an initramfs and the archives after it; the kernel unpacks one after the other.
pub fn append(initramfs: &Path, archives: &[PathBuf], long: &Path) -> Result {
    let mut file = File::create(long).doing("make an initramfs")?;
    for part in std::iter::once(initramfs).chain(archives.iter().map(PathBuf::as_path)) {
        let mut part = File::open(part).doing(format!("open {}", part.display()))?;
        io::copy(&mut part, &mut file).doing("append to an initramfs")?;
    }
    Ok(())
}

/// What the lab's environment says about `name`.
pub fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| Error::Unexpected(format!("the lab did not set {name}")))
}

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
