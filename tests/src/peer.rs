//! A QEMU with a guest like ours, to measure beside hotbay: the lab's own, from Debian 13.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::artifacts::{Flavour, variable};
use crate::error::{Doing, Result};
use crate::guest::Guest;
use crate::vm::Process;

/// How a QEMU is started. Its machine is a q35 without anything that is not named here.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Guest kernel, and the initramfs made for it.
    pub flavour: Flavour,
    /// What the guest boots into, archives appended.
    pub initramfs: PathBuf,
    /// Value of `-smp`.
    pub cpus: &'static str,
    /// Value of `-m`.
    pub memory: &'static str,
    /// More words for the guest's command line.
    pub words: &'static str,
    /// More arguments: devices and what is behind them.
    pub arguments: Vec<String>,
}

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    /// Its guest's serial port.
    pub guest: Guest,
    process: Process,
    _dir: TempDir,
}

impl Peer {
    /// Starts QEMU and waits until its guest is up.
    pub fn boot(self) -> Result<Qemu> {
        let dir = tempfile::Builder::new().prefix("peer-").tempdir().doing("make a folder")?;
        let serial = dir.path().join("serial.sock");
        let mut process = Process::start(self.command(&serial)?, dir.path().join("log"))?;
        let mut guest = Guest::new(process.connect(&serial)?)?;
        guest.ready()?;
        Ok(Qemu { guest, process, _dir: dir })
    }

    fn command(&self, serial: &Path) -> Result<Command> {
        let root = PathBuf::from(variable("QEMU_ROOT")?);
        // Of another release than the host: it has a loader and libraries of its own.
        let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu"));
        command.arg(root.join("usr/bin/qemu-system-x86_64"));
        for data in ["qemu", "seabios"] {
            command.arg("-L").arg(root.join("usr/share").join(data));
        }
        command.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-nodefaults"]);
        command.args(["-display", "none", "-vga", "none", "-no-reboot"]);
        command.args(["-smp", self.cpus, "-m", self.memory]);
        command.arg("-kernel").arg(self.flavour.kernel()?);
        command.arg("-initrd").arg(&self.initramfs);
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {}", self.words));
        let socket = format!("socket,id=serial,path={},server=on,wait=on", serial.display());
        command.args(["-chardev", &socket, "-serial", "chardev:serial"]);
        command.args(&self.arguments);
        Ok(command)
    }
}

impl Qemu {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}
