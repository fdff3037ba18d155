//! A `hotbay` process with its guest: started with options, driven over its API socket, killed when dropped.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use api::schema::interrupts::{DeviceInterrupts, InterruptMode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::artifacts::{Flavour, append, binary};
use crate::error::{Doing, Error, Result};
use crate::evidence;
use crate::guest::Guest;
use crate::host::{Bdf, Host};
use crate::http::Api;
use crate::wait::{Look, until};

/// From the start of the process to its sockets; a device given at boot pins cold RAM first.
const START_LIMIT: Duration = Duration::from_secs(240);

/// From asking the guest to let go of a device, or to end, to its end.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// How a VM is started. The default is the smallest one that takes every kind of function.
#[derive(Debug, Clone)]
pub struct Options {
    /// Guest kernel, and the initramfs made for it.
    pub flavour: Flavour,
    /// Boot the ELF kernel through PVH, instead of the bzImage.
    pub elf: bool,
    /// Value of `--cpus`.
    pub cpus: &'static str,
    /// Value of `--memory`.
    pub memory: &'static str,
    /// Value of `--console`.
    pub console: String,
    /// More words for the guest's command line.
    pub words: &'static str,
    /// Functions the guest has from the start, with their ids.
    pub devices: Vec<(Bdf, &'static str)>,
    /// An initramfs in place of the flavour's own.
    pub initramfs: Option<PathBuf>,
    /// Archives to append to the initramfs; the kernel unpacks one after the other.
    pub archives: Vec<PathBuf>,
    /// More arguments for `hotbay`.
    pub arguments: Vec<String>,
    /// Another `hotbay` than the one built here.
    pub program: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flavour: Flavour::Amd64V6_12,
            elf: false,
            cpus: "boot=1",
            memory: "size=512M",
            console: "off".to_owned(),
            words: "",
            devices: Vec::new(),
            initramfs: None,
            archives: Vec::new(),
            arguments: Vec::new(),
            program: None,
        }
    }
}

/// A running `hotbay`.
#[derive(Debug)]
pub struct Vm {
    /// Its API.
    pub api: Api,
    /// Its guest's serial port.
    pub guest: Guest,
    process: Process,
    dir: TempDir,
}

impl Options {
    /// Starts `hotbay` and waits for its sockets; the guest is still booting.
    pub fn start(self) -> Result<Vm> {
        let dir = tempfile::Builder::new().prefix("hotbay-").tempdir().doing("make a folder")?;
        let (socket, serial) = (dir.path().join("api.sock"), serial_socket(&dir));
        let initramfs = self.initramfs(&dir)?;
        let command = self.command(&socket, &serial, &initramfs)?;
        let mut process = Process::start(command, dir.path().join("log"))?;
        let serial = process.connect(&serial)?;
        process.connect(&socket)?;
        Ok(Vm { api: Api::new(socket), guest: Guest::new(serial)?, process, dir })
    }

    /// Starts `hotbay` and waits until its guest is up.
    pub fn boot(self) -> Result<Vm> {
        let mut vm = self.start()?;
        vm.guest.ready()?;
        Ok(vm)
    }

    /// The initramfs, or a file with the archives after it.
    fn initramfs(&self, dir: &TempDir) -> Result<PathBuf> {
        let plain = self.initramfs.clone().map_or_else(|| self.flavour.initramfs(), Ok)?;
        if self.archives.is_empty() {
            return Ok(plain);
        }
        let long = dir.path().join("initramfs");
        append(&plain, &self.archives, &long)?;
        Ok(long)
    }

    fn command(&self, socket: &Path, serial: &Path, initramfs: &Path) -> Result<Command> {
        let kernel = if self.elf { self.flavour.elf()? } else { self.flavour.kernel()? };
        let program = self.program.clone().unwrap_or_else(|| binary("hotbay"));
        let mut command = Command::new(program);
        command.arg("--api-socket").arg(socket);
        command.arg("--kernel").arg(kernel);
        command.arg("--initramfs").arg(initramfs);
        command.arg("--cmdline").arg(format!("console=ttyS0 quiet panic=-1 {}", self.words));
        command.args(["--cpus", self.cpus, "--memory", self.memory, "--console", &self.console]);
        command.arg("--serial").arg(format!("socket={}", serial.display()));
        for (bdf, id) in &self.devices {
            command.arg("--device").arg(format!("path={},id={id}", bdf.path().display()));
        }
        // Shown only if a scene fails, and then every line counts.
        command.arg("-v").args(&self.arguments);
        Ok(command)
    }
}

impl Vm {
    /// Process id of the VMM.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Answer to `vm.info`.
    pub fn info(&self) -> Result<Value> {
        self.api.get("vm.info")?.ok()
    }

    /// Answer to `vm.counters`.
    pub fn counters(&self) -> Result<Value> {
        self.api.get("vm.counters")?.ok()
    }

    /// Answer to `vm.interrupts` for one device.
    pub fn interrupts(&self, id: &str) -> Result<DeviceInterrupts> {
        let mut all = self.api.get(&format!("vm.interrupts?id={id}"))?.ok()?;
        serde_json::from_value(all[id].take())
            .map_err(|error| Error::Unexpected(format!("no interrupts ({error}): {all}")))
    }

    /// Waits until the guest has this kind of interrupt on, and the host too.
    pub fn mode_becomes(&self, id: &str, mode: InterruptMode) -> Result {
        until(&format!("{mode:?} of {id}"), STOP_LIMIT, || {
            let seen = self.interrupts(id)?;
            let both = (seen.mode, seen.host_mode) == (mode, mode);
            Ok(if both { Look::Holds(()) } else { Look::NotYet(format!("{seen:?}")) })
        })
    }

    /// Plugs a function in; its address in the guest.
    pub fn add(&self, bdf: &Bdf, id: &str) -> Result<String> {
        let added = self.api.put_json("vm.add-device", &add_body(bdf, id))?.ok()?;
        Ok(added["bdf"].as_str().unwrap_or_default().to_owned())
    }

    /// Plugs a function in with one of the fields set that are on or off; its address in the guest.
    pub fn add_with(&self, bdf: &Bdf, id: &str, switch: &str) -> Result<String> {
        let mut body = add_body(bdf, id);
        body[switch] = true.into();
        let added = self.api.put_json("vm.add-device", &body)?.ok()?;
        Ok(added["bdf"].as_str().unwrap_or_default().to_owned())
    }

    /// Asks the guest to let go of a device, and waits until it is gone and closed.
    pub fn remove(&self, id: &str) -> Result {
        self.api.put_json("vm.remove-device", &json!({ "id": id }))?.ok()?;
        self.gone(id)
    }

    /// Waits until a device that leaves is gone and closed.
    pub fn gone(&self, id: &str) -> Result {
        until(&format!("the removal of {id}"), STOP_LIMIT, || {
            let devices = self.info()?["device_tree"].take();
            Ok(match devices.get(id) {
                None => Look::Holds(()),
                Some(still) => Look::NotYet(still.to_string()),
            })
        })
    }

    /// Stops the guest where it stands.
    pub fn pause(&self) -> Result {
        self.api.put("vm.pause")?.ok().map(drop)
    }

    /// Lets a guest that stands still go on.
    pub fn resume(&self) -> Result {
        self.api.put("vm.resume")?.ok().map(drop)
    }

    /// `Running`, `Paused`...
    pub fn state(&self) -> Result<String> {
        Ok(self.info()?["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Boots a VM that was shut down; its serial port is a new one. The guest is still booting.
    pub fn boot_again(&mut self) -> Result {
        self.api.put("vm.boot")?.ok()?;
        let serial = self.process.connect(&serial_socket(&self.dir))?;
        self.guest = Guest::new(serial)?;
        Ok(())
    }

    /// Waits until the VMM has as many open descriptors as it once had.
    pub fn descriptors_return_to(&self, host: &Host, before: usize) -> Result {
        until(&format!("the return to {before} descriptors"), STOP_LIMIT, || {
            let now = host.descriptors(self.pid())?;
            Ok(if now == before { Look::Holds(()) } else { Look::NotYet(format!("{now}")) })
        })
    }

    /// How many descriptors the VMM has open when the connections of the last requests are closed.
    pub fn settled_descriptors(&self, host: &Host) -> Result<usize> {
        let mut last = None;
        until("a number of descriptors that stays", STOP_LIMIT, || {
            let now = host.descriptors(self.pid())?;
            let settled = last.replace(now) == Some(now);
            Ok(if settled { Look::Holds(now) } else { Look::NotYet(format!("{now}")) })
        })
    }

    /// Waits until the process has ended by itself.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        self.process.ended()
    }

    /// What `hotbay` has logged so far.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }
}

fn serial_socket(dir: &TempDir) -> PathBuf {
    dir.path().join("serial.sock")
}

/// Body of a `vm.add-device`.
pub fn add_body(bdf: &Bdf, id: &str) -> Value {
    json!({ "path": bdf.path(), "id": id })
}

/// A child that does not outlive its scene, and whose log is kept as evidence.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts `command`, whose messages go to `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).doing("make a log file")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().doing(format!("start {command:?}"))?;
        Ok(Self { child, log })
    }

    /// Connects to a socket as soon as the process listens on it.
    pub(crate) fn connect(&mut self, socket: &Path) -> Result<UnixStream> {
        until(&format!("a connection to {}", socket.display()), START_LIMIT, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = self.log()?;
                return Err(Error::Unexpected(format!("it ended with {status}: {log}")));
            }
            Ok(match UnixStream::connect(socket) {
                Ok(stream) => Look::Holds(stream),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        until("the end of hotbay", STOP_LIMIT, || {
            let status = self.child.try_wait().doing("wait for hotbay")?;
            Ok(status.map_or_else(|| Look::NotYet("still running".into()), Look::Holds))
        })
    }

    fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).doing("read hotbay's log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        evidence::keep("the VMM's threads", whereabouts(self.child.id()));
        // Either fails only if the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        evidence::keep("the VMM's log", self.log().unwrap_or_default());
    }
}

/// Where in the kernel each thread of a process is: a guest that stands still may wait for one of them.
fn whereabouts(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let line = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        format!("{}: {} in {}", read("comm").trim(), read("syscall").trim(), read("wchan").trim())
    };
    tasks.map(line).collect::<Vec<_>>().join("\n")
}
