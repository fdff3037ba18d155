//! The host a scene runs on: its PCI functions, and what a process there holds.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::artifacts::{script, variable};
use crate::error::{Doing, Error, Result, ensure};
use crate::wait::{Look, until};

/// Where sysfs keeps PCI functions.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// A driver's probe under emulation.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The address of a PCI function of the host, as sysfs writes it: `0000:00:04.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bdf(String);

impl Bdf {
    /// Its folder in sysfs, which is what `vm.add-device` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(FUNCTIONS).join(&self.0)
    }

    /// A file of its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Display for Bdf {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The emulated host. Only [`crate::in_lab`] hands it out.
#[derive(Debug)]
pub struct Host(());

impl Host {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// The function whose address the lab put into the variable `name`.
    pub fn function(&self, name: &str) -> Result<Bdf> {
        self.at(&variable(name)?)
    }

    /// The function at an address of the lab's board, which is the same in every lab.
    pub fn at(&self, address: &str) -> Result<Bdf> {
        let bdf = Bdf(address.to_owned());
        ensure(bdf.path().is_dir(), || format!("the lab has no PCI function {bdf}"))?;
        Ok(bdf)
    }

    /// Gives a function to vfio-pci.
    pub fn bind(&self, bdf: &Bdf) -> Result {
        run(Command::new(script("bind-vfio")).arg(&bdf.0)).map(drop)
    }

    /// Takes it back from vfio-pci.
    pub fn release(&self, bdf: &Bdf) -> Result {
        run(Command::new(script("bind-vfio")).args(["--release", &bdf.0])).map(drop)
    }

    /// Begins to take a function from vfio-pci, which waits until nobody has it open.
    pub fn begin_to_unbind(&self, bdf: &Bdf) -> Result<Unbinding> {
        let unbind = format!("echo {bdf} >/sys/bus/pci/drivers/vfio-pci/unbind");
        let child = Command::new("sh").args(["-c", &unbind]).spawn();
        Ok(Unbinding(child.doing("start a shell")?))
    }

    /// The driver that holds a function.
    pub fn driver(&self, bdf: &Bdf) -> Option<String> {
        let target = fs::read_link(bdf.file("driver")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Version of its kernel, as far as it says what VFIO can do.
    pub fn kernel(&self) -> Result<(u32, u32)> {
        let file = "/proc/sys/kernel/osrelease";
        let release = fs::read_to_string(file).doing("read the kernel's version")?;
        let mut parts = release.split(['.', '-']).map_while(|part| part.parse().ok());
        let version = parts.next().zip(parts.next());
        version.ok_or_else(|| Error::Unexpected(format!("no version: {release}")))
    }

    /// The host's interrupt of a vector that vfio-pci has wired.
    pub fn interrupt(&self, bdf: &Bdf, vector: u16) -> Result<Interrupt> {
        let name = format!("vfio-msix[{vector}]({bdf})");
        let all = fs::read_to_string("/proc/interrupts").doing("read the host's interrupts")?;
        let row = all.lines().find(|row| row.ends_with(&name));
        let number = row.and_then(|row| row.trim().split_once(':')).map(|(number, _)| number);
        let number = number.ok_or_else(|| Error::Unexpected(format!("no {name} in {all}")))?;
        Ok(Interrupt(Path::new("/sys/kernel/irq").join(number).join("per_cpu_count")))
    }

    /// Lets the host's own driver have an igb; the name of its interface.
    pub fn with_its_driver(&self, physical: &Bdf) -> Result<String> {
        run(Command::new("modprobe").arg("igb"))?;
        put(Path::new("/sys/bus/pci/drivers_probe"), &physical.0)?;
        self.interface(physical)
    }

    /// Makes the first virtual function of an igb: its physical function up, the virtual one
    /// without a host driver and with a MAC address that survives a reset.
    pub fn virtual_function(&self, physical: &Bdf) -> Result<Bdf> {
        let made = physical.file("virtfn0");
        if !made.exists() {
            let net = self.with_its_driver(physical)?;
            run(Command::new("ip").args(["link", "set", &net, "up"]))?;
            put(&physical.file("sriov_drivers_autoprobe"), "0")?;
            put(&physical.file("sriov_numvfs"), "1")?;
            run(Command::new("ip").args(["link", "set", &net, "vf", "0", "mac", VF_MAC]))?;
        }
        let target =
            fs::read_link(&made).doing(format!("find the virtual function of {physical}"))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Bdf(name))
    }

    /// Takes every virtual function away, and the driver that made them.
    pub fn no_virtual_functions(&self, physical: &Bdf) -> Result {
        if physical.file("virtfn0").exists() {
            put(&physical.file("sriov_numvfs"), "0")?;
            put(&physical.file("driver/unbind"), &physical.0)?;
        }
        Ok(())
    }

    /// Takes a device file away until the answer is dropped.
    pub fn hide(&self, file: &str) -> Result<Hidden> {
        let (shown, hidden) = (PathBuf::from(file), PathBuf::from(format!("{file}.hidden")));
        fs::rename(&shown, &hidden).doing(format!("hide {file}"))?;
        Ok(Hidden { shown, hidden })
    }

    /// Interrupts that the kernel has allocated for a function.
    pub fn interrupts_of(&self, bdf: &Bdf) -> Result<usize> {
        let allocated = fs::read_dir(bdf.file("msi_irqs")).doing("list a function's interrupts")?;
        Ok(allocated.count())
    }

    /// Open descriptors of a process.
    pub fn descriptors(&self, pid: u32) -> Result<usize> {
        let fds =
            fs::read_dir(format!("/proc/{pid}/fd")).doing(format!("list the fds of {pid}"))?;
        Ok(fds.count())
    }

    /// Name and seccomp mode (0 off, 1 strict, 2 filter: proc(5)) of each thread of a process.
    pub fn threads(&self, pid: u32) -> Result<Vec<(String, u8)>> {
        let modes = self.thread_status(pid, "Seccomp")?.into_iter();
        Ok(modes.map(|(name, mode)| (name, mode.parse().unwrap_or(0))).collect())
    }

    /// Name of each thread of a process, and what a line of its status (proc(5)) says.
    pub fn thread_status(&self, pid: u32, key: &str) -> Result<Vec<(String, String)>> {
        let tasks =
            fs::read_dir(format!("/proc/{pid}/task")).doing(format!("list threads of {pid}"))?;
        let mut threads = Vec::new();
        for task in tasks.flatten() {
            let Ok(status) = fs::read_to_string(task.path().join("status")) else {
                continue; // it ended meanwhile
            };
            let value = |key: &str| {
                let mut lines = status.lines().filter_map(|line| line.split_once(':'));
                lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim().to_owned())
            };
            let what = || Error::Unexpected(format!("no {key} in {status}"));
            threads.push((value("Name").unwrap_or_default(), value(key).ok_or_else(what)?));
        }
        Ok(threads)
    }

    /// Interrupts with this name that the host has taken, all processors together.
    pub fn interrupts(&self, name: &str) -> Result<u64> {
        let all = fs::read_to_string("/proc/interrupts").doing("read the host's interrupts")?;
        let row = all.lines().find(|row| row.contains(name));
        let row = row.ok_or_else(|| Error::Unexpected(format!("no interrupt {name}: {all}")))?;
        Ok(row.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum())
    }

    /// Takes all free memory and gives it back. The emulator forgets then what it had translated from code that
    /// guests of other scenes have left there; else it does so when the page is taken next, and all its processors
    /// stand still meanwhile, for a second or more in a GiB.
    pub fn clear_free_memory(&self) -> Result {
        const PAGE: usize = 4096;
        /// For whoever else needs some meanwhile.
        const LEFT: usize = 1 << 30;
        let all = fs::read_to_string("/proc/meminfo").doing("read how much memory is free")?;
        let free = all.lines().find_map(|line| line.strip_prefix("MemFree:"));
        let kib = free.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
        let kib = kib.ok_or_else(|| Error::Unexpected(format!("no MemFree: {all}")))?;
        let mut memory = vec![0_u8; (kib << 10).saturating_sub(LEFT)];
        memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        std::hint::black_box(&memory);
        Ok(())
    }

    /// Exits of a process's vCPUs to userspace, and so far: KVM's tracepoint `kvm_userspace_exit`,
    /// counted while `scene` runs. All of the host's virtual machines count.
    pub fn userspace_exits(&self, scene: impl FnOnce() -> Result) -> Result<usize> {
        let tracing = Path::new("/sys/kernel/tracing");
        let event = tracing.join("events/kvm/kvm_userspace_exit/enable");
        put(&tracing.join("trace"), "")?;
        put(&event, "1")?;
        let played = scene();
        put(&event, "0")?;
        played?;
        let trace = fs::read_to_string(tracing.join("trace")).doing("read the trace")?;
        Ok(trace.lines().filter(|line| line.contains("kvm_userspace_exit:")).count())
    }

    /// The network interface of a function that its host driver holds.
    fn interface(&self, bdf: &Bdf) -> Result<String> {
        until(&format!("a network interface of {bdf}"), PROBE_LIMIT, || {
            let first = fs::read_dir(bdf.file("net")).ok().and_then(|mut nets| nets.next()?.ok());
            Ok(first.map_or_else(
                || Look::NotYet(format!("driver {:?}", self.driver(bdf))),
                |net| Look::Holds(net.file_name().to_string_lossy().into_owned()),
            ))
        })
    }
}

/// An interrupt of the host, for as long as it is allocated; `/proc/interrupts` hides one without a handler.
#[derive(Debug)]
pub struct Interrupt(PathBuf);

impl Interrupt {
    /// How often any processor has taken it.
    pub fn taken(&self) -> Result<u64> {
        let each = fs::read_to_string(&self.0).doing(format!("read {}", self.0.display()))?;
        let counts: Option<Vec<u64>> = each.trim().split(',').map(|n| n.parse().ok()).collect();
        let counts = counts.ok_or_else(|| Error::Unexpected(format!("no counts: {each}")))?;
        Ok(counts.iter().sum())
    }
}

/// A device file that is away; it comes back when this is dropped.
#[derive(Debug)]
pub struct Hidden {
    shown: PathBuf,
    hidden: PathBuf,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = fs::rename(&self.hidden, &self.shown) {
            eprintln!("{} stays hidden: {error}", self.shown.display());
        }
    }
}

/// A function being taken from vfio-pci.
#[derive(Debug)]
pub struct Unbinding(Child);

impl Unbinding {
    /// Whether the kernel still waits for the function.
    pub fn waits(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().doing("wait for a shell")?.is_none())
    }

    /// Waits until the host has the function back.
    pub fn ended(&mut self) -> Result {
        let status = until("the end of the unbinding", UNBIND_LIMIT, || {
            let status = self.0.try_wait().doing("wait for a shell")?;
            Ok(status.map_or_else(|| Look::NotYet("it waits".into()), Look::Holds))
        })?;
        ensure(status.success(), || format!("the unbinding: {status}"))
    }
}

/// From asking for a function to having it: what a guest takes to let go.
const UNBIND_LIMIT: Duration = Duration::from_secs(120);

/// Locally administered, so that it collides with none of QEMU's own.
const VF_MAC: &str = "02:00:00:00:00:01";

/// Runs a command of the host to its end; what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().doing(format!("run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Error::Unexpected(format!("{command:?}: {}: {text}{errors}", output.status)))
}

fn put(file: &Path, value: &str) -> Result {
    fs::write(file, value).doing(format!("write {value:?} to {}", file.display()))
}
