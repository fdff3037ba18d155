//! A Debian guest: its root file system on a disk of ours, its own init and udev, and a login on the serial port.
//!
//! `scripts/lab.d/debian.sh` builds it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artifacts::variable;
use crate::error::Result;
use crate::host::run;
use crate::vm::{Options, Vm};

/// Its network interfaces keep the kernel's names: the harness looks for them before udev may have renamed them.
const WORDS: &str = "net.ifnames=0";

/// A root file system of its own for one guest.
#[derive(Debug)]
pub struct System {
    /// Its image.
    pub image: PathBuf,
}

impl System {
    /// A copy in `dir`; what is in the cache stays as it is.
    pub fn new(dir: &Path) -> Result<Self> {
        let image = dir.join("system.img");
        run(Command::new("cp").arg("--sparse=always").arg(variable("DEBIAN_ROOT")?).arg(&image))?;
        Ok(Self { image })
    }

    /// Boots it with `options`, whose disks come after its own, and logs in as root.
    pub fn boot(&self, mut options: Options) -> Result<Vm> {
        let disk = format!("path={},id=system", self.image.display());
        options.arguments.splice(..0, ["--disk".to_owned(), disk]);
        options.initramfs = Some(variable("DEBIAN_INITRAMFS")?.into());
        options.words = WORDS;
        let mut vm = options.start()?;
        vm.guest.log_in("root", &variable("DEBIAN_PASSWORD")?)?;
        Ok(vm)
    }

    /// Fails unless the file system is in order, now that nobody uses it.
    pub fn is_clean(&self) -> Result {
        run(Command::new("e2fsck").arg("-fn").arg(&self.image)).map(drop)
    }
}
