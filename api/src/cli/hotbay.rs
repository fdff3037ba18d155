//! Command line of `hotbay`: cloud-hypervisor's options, for what exists so far.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Parser, ValueEnum};

use super::options::{Key, Kind, body, object};
use super::{Line, Misuse, outcome};
use crate::schema::console::{ConsoleConfig, ConsoleMode};
use crate::schema::cpus::CpusConfig;
use crate::schema::device::AddDevice;
use crate::schema::landlock::LandlockConfig;
use crate::schema::machine::VmConfig;
use crate::schema::memory::MemoryConfig;
use crate::schema::payload::PayloadConfig;
use crate::server::Address;

mod balloon;
mod disk;
mod net;
mod user_device;
mod vsock;

pub(super) use self::disk::disk;
pub(super) use self::net::{net, take_over};
pub(super) use self::user_device::user_device;
pub(super) use self::vsock::vsock;

/// What `hotbay` is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct HotbayArgs {
    /// Where to listen for requests; without it, the VM of the command line is all there is.
    pub api_socket: Option<Address>,
    /// The VM to create and boot at once.
    pub vm: Option<VmConfig>,
    /// Paths that stay reachable besides what hotbay and its VM need; without it, all are.
    pub landlock: Option<Vec<LandlockConfig>>,
    /// What a forbidden system call does.
    pub seccomp: Seccomp,
    /// Where events are written; nowhere when absent.
    pub event_monitor: Option<EventMonitor>,
    /// Where log lines go; standard error when absent.
    pub log_file: Option<PathBuf>,
    /// How many times `-v` was given: 0 for warnings, 1 for information, 2 and more for all.
    pub verbosity: u8,
}

/// What a forbidden system call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Seccomp {
    /// It ends the process.
    True,
    /// Anything; nothing is forbidden.
    False,
    /// It is written to the kernel's log.
    Log,
}

/// Where events are written: `path=PATH` or `fd=N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventMonitor {
    /// A file, made or emptied, or a FIFO that is there.
    Path(PathBuf),
    /// A descriptor that was passed to this process.
    Fd(RawFd),
}

impl FromStr for EventMonitor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("path", path)) if !path.is_empty() => Ok(Self::Path(path.into())),
            Some(("fd", number)) => match number.parse() {
                Ok(fd) if fd >= 0 => Ok(Self::Fd(fd)),
                Ok(_) | Err(_) => Err(format!("{number:?} is not a descriptor number")),
            },
            Some(_) | None => Err("it must be path=PATH or fd=N".to_owned()),
        }
    }
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// One sentence about what is wrong with them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Line<HotbayArgs>, Misuse> {
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.check().map(Line::Do),
        Err(error) => outcome(&error),
    }
}

/// A virtual machine monitor that hot-plugs host PCI functions.
#[derive(Debug, Parser)]
#[command(name = "hotbay", version)]
struct Arguments {
    /// API socket to make and listen on: path=PATH, PATH, or fd=N for an inherited one
    #[arg(long, value_name = "ADDRESS")]
    api_socket: Option<Address>,
    #[command(flatten)]
    machine: Machine,
    /// What a forbidden system call does: end the process, nothing, or be logged
    #[arg(long, value_enum, default_value = "true")]
    seccomp: Seccomp,
    /// Reach no path of the host but what hotbay, its VM and its devices need (Landlock)
    #[arg(long)]
    landlock: bool,
    /// Path that stays reachable with --landlock: path=PATH,access=r|w|rw
    #[arg(long, value_name = "OPTIONS", requires = "landlock", num_args = 1.., action = ArgAction::Append)]
    landlock_rules: Vec<String>,
    /// Where events of the VM are written as JSON: path=PATH, or fd=N for an inherited descriptor
    #[arg(long, value_name = "PLACE")]
    event_monitor: Option<EventMonitor>,
    /// File for log lines instead of standard error
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// Log more; twice, log everything
    #[arg(short, action = ArgAction::Count)]
    verbosity: u8,
}

/// The VM to boot at once.
#[derive(Debug, clap::Args)]
struct Machine {
    /// Kernel to boot at once: bzImage, or ELF with a PVH note
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Initial RAM file system of the guest
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initramfs: Option<PathBuf>,
    /// Command line of the guest's kernel
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
    /// Processors of the guest: boot=N,max=N
    #[arg(long, value_name = "OPTIONS", requires = "kernel")]
    cpus: Option<String>,
    /// Memory of the guest: size=1G,shared=on|off,hugepages=on|off,hugepage_size=2M,prefault=on|off|background
    #[arg(long, value_name = "OPTIONS", requires = "kernel")]
    memory: Option<String>,
    /// Mainboard of the guest: num_pci_segments=N, each with room for 31 functions
    #[arg(long, value_name = "OPTIONS", requires = "kernel")]
    platform: Option<String>,
    /// Serial port of the guest: off|null|tty|pty|file=PATH|socket=PATH [default: null]
    #[arg(long, value_name = "PLACE", requires = "kernel")]
    serial: Option<String>,
    /// Paravirtual console of the guest: off|null|tty|pty|file=PATH|socket=PATH [default: off]
    #[arg(long, value_name = "PLACE", requires = "kernel")]
    console: Option<String>,
    /// Disk that the guest gets: path=IMAGE,id=NAME,readonly=on,direct=on,num_queues=N,...
    #[arg(long, value_name = "OPTIONS", requires = "kernel", num_args = 1.., action = ArgAction::Append)]
    disk: Vec<String>,
    /// Network card that the guest gets: tap=NAME (or fd=N, a tap that is open),mac=ADDRESS,id=NAME,num_queues=N,x_vhost=on,...
    #[arg(long, value_name = "OPTIONS", requires = "kernel", num_args = 1.., action = ArgAction::Append)]
    net: Vec<String>,
    /// Sockets (AF_VSOCK) between the guest and programs of the host: cid=N,id=NAME,...
    #[arg(long, value_name = "OPTIONS", requires = "kernel")]
    vsock: Option<String>,
    /// Balloon of the guest: size=BYTES,deflate_on_oom=on,free_page_reporting=on,id=NAME,...
    #[arg(long, value_name = "OPTIONS", requires = "kernel")]
    balloon: Option<String>,
    /// Source of random numbers that the guest gets: src=/dev/urandom,id=NAME,...
    #[arg(long, value_name = "OPTIONS", requires = "kernel")]
    rng: Option<String>,
    /// Host device that the guest gets: path=/sys/bus/pci/devices/BDF,id=NAME,...
    #[arg(long, value_name = "OPTIONS", requires = "kernel", num_args = 1.., action = ArgAction::Append)]
    device: Vec<String>,
    /// Function of a vfio-user server that the guest gets: socket=PATH,id=NAME,... (with --memory shared=on)
    #[arg(long, value_name = "OPTIONS", requires = "kernel", num_args = 1.., action = ArgAction::Append)]
    user_device: Vec<String>,
}

const CPUS: &[Key] = &[
    Key("boot", "boot_vcpus", Kind::Number),
    Key("max", "max_vcpus", Kind::Number),
    Key("topology", "topology", Kind::Text),
    Key("kvm_hyperv", "kvm_hyperv", Kind::Switch),
    Key("max_phys_bits", "max_phys_bits", Kind::Number),
    Key("affinity", "affinity", Kind::Text),
    Key("features", "features", Kind::Text),
    Key("nested", "nested", Kind::Switch),
];

const MEMORY: &[Key] = &[
    Key("size", "size", Kind::Size),
    Key("shared", "shared", Kind::Switch),
    Key("hugepages", "hugepages", Kind::Switch),
    Key("hugepage_size", "hugepage_size", Kind::Size),
    Key("prefault", "prefault", Kind::SwitchOr("background")),
    Key("mergeable", "mergeable", Kind::Switch),
    Key("thp", "thp", Kind::Switch),
    Key("reserve", "reserve", Kind::Switch),
    Key("hotplug_size", "hotplug_size", Kind::Size),
    Key("hotplugged_size", "hotplugged_size", Kind::Size),
    Key(
        "hotplug_method",
        "hotplug_method",
        Kind::Word(&[("acpi", "Acpi"), ("virtio-mem", "VirtioMem")]),
    ),
];

const LANDLOCK: &[Key] = &[
    Key("path", "path", Kind::Text),
    Key("access", "access", Kind::Word(&[("r", "r"), ("w", "w"), ("rw", "rw"), ("wr", "rw")])),
];

const PLATFORM: &[Key] = &[
    Key("num_pci_segments", "num_pci_segments", Kind::Number),
    Key("iommufd", "iommufd", Kind::Switch),
    Key("vfio_p2p_dma", "vfio_p2p_dma", Kind::Switch),
    Key("iommu_segments", "iommu_segments", Kind::Numbers),
    Key("iommu_address_width_bits", "iommu_address_width_bits", Kind::Number),
    Key("serial_number", "serial_number", Kind::Text),
    Key("uuid", "uuid", Kind::Text),
    Key("oem_strings", "oem_strings", Kind::Text),
    Key("tdx", "tdx", Kind::Switch),
    Key("sev_snp", "sev_snp", Kind::Switch),
];

const RNG: &[Key] = &[
    Key("src", "src", Kind::Text),
    Key("id", "id", Kind::Text),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
];

const DEVICE: &[Key] = &[
    Key("path", "path", Kind::Text),
    Key("id", "id", Kind::Text),
    Key("pci_device_id", "pci_device_id", Kind::Number),
    Key("x_exclude_mmap_bars", "x_exclude_mmap_bars", Kind::Numbers),
    Key("x_msix_noresize", "x_msix_noresize", Kind::Switch),
    Key("x_exact_pending", "x_exact_pending", Kind::Switch),
    Key("x_map_threads", "x_map_threads", Kind::Number),
    Key("pci_segment", "pci_segment", Kind::Number),
    Key("iommu", "iommu", Kind::Switch),
    Key("fd", "fd", Kind::Number),
    Key("x_nv_gpudirect_clique", "x_nv_gpudirect_clique", Kind::Number),
];

impl Arguments {
    fn check(self) -> Result<HotbayArgs, Misuse> {
        let Self { api_socket, machine, seccomp, event_monitor, log_file, verbosity, .. } = self;
        let rules = self.landlock_rules.iter().map(|text| landlock_rule(text));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        let mut vm = machine.config()?;
        if let Some(vm) = vm.as_mut().filter(|_| self.landlock) {
            vm.landlock_enable = true;
            vm.landlock_rules = Some(rules.clone()).filter(|rules| !rules.is_empty());
        }
        let landlock = self.landlock.then_some(rules);
        if vm.is_none() && api_socket.is_none() {
            return Err(Misuse("nothing to do: give --kernel, --api-socket, or both".to_owned()));
        }
        Ok(HotbayArgs { api_socket, vm, landlock, seccomp, event_monitor, log_file, verbosity })
    }
}

impl Machine {
    fn config(self) -> Result<Option<VmConfig>, Misuse> {
        let Some(kernel) = self.kernel else { return Ok(None) };
        let mut config = VmConfig {
            payload: Some(PayloadConfig {
                kernel: Some(kernel),
                cmdline: self.cmdline,
                initramfs: self.initramfs,
            }),
            ..VmConfig::default()
        };
        if let Some(text) = self.cpus {
            config.cpus = cpus(&text)?;
        }
        if let Some(text) = self.memory {
            config.memory = memory(&text)?;
        }
        if let Some(text) = self.platform {
            config.platform =
                Some(body("--platform", &text, object("--platform", &text, PLATFORM)?)?);
        }
        if let Some(text) = self.serial {
            config.serial = place("--serial", &text)?;
        }
        if let Some(text) = self.console {
            config.console = place("--console", &text)?;
        }
        let disks = self.disk.iter().map(|text| disk("--disk", text));
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        config.disks = Some(disks).filter(|disks| !disks.is_empty());
        let cards = self.net.iter().map(|text| net("--net", text));
        let cards = cards.collect::<Result<Vec<_>, _>>()?;
        config.net = Some(cards).filter(|cards| !cards.is_empty());
        if let Some(text) = self.rng {
            config.rng = Some(body("--rng", &text, object("--rng", &text, RNG)?)?);
        }
        config.vsock = self.vsock.map(|text| vsock("--vsock", &text)).transpose()?;
        let balloon = self.balloon.map(|text| balloon::balloon("--balloon", &text));
        config.balloon = balloon.transpose()?;
        let devices = self.device.iter().map(|text| device("--device", text));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        config.devices = Some(devices).filter(|devices| !devices.is_empty());
        let served = self.user_device.iter().map(|text| user_device("--user-device", text));
        let served = served.collect::<Result<Vec<_>, _>>()?;
        config.user_devices = Some(served).filter(|served| !served.is_empty());
        Ok(Some(config))
    }
}

fn cpus(text: &str) -> Result<CpusConfig, Misuse> {
    let mut fields = object("--cpus", text, CPUS)?;
    let boot = fields.entry("boot_vcpus").or_insert(1.into()).clone();
    fields.entry("max_vcpus").or_insert(boot);
    body("--cpus", text, fields)
}

fn memory(text: &str) -> Result<MemoryConfig, Misuse> {
    let mut fields = object("--memory", text, MEMORY)?;
    fields.entry("size").or_insert(MemoryConfig::default().size.into());
    body("--memory", text, fields)
}

fn landlock_rule(text: &str) -> Result<LandlockConfig, Misuse> {
    let option = "--landlock-rules";
    body(option, text, object(option, text, LANDLOCK)?)
}

/// A host device, as `--device` and `hotbayctl add-device` describe it.
pub(super) fn device(option: &str, text: &str) -> Result<AddDevice, Misuse> {
    body(option, text, object(option, text, DEVICE)?)
}

fn place(option: &str, text: &str) -> Result<ConsoleConfig, Misuse> {
    let config = match text.split_once('=') {
        None => ConsoleConfig::of(match text {
            "off" => ConsoleMode::Off,
            "null" => ConsoleMode::Null,
            "tty" => ConsoleMode::Tty,
            "pty" => ConsoleMode::Pty,
            _ => return Err(no_such_place(option, text)),
        }),
        Some(("file", path)) if !path.is_empty() => {
            ConsoleConfig { mode: ConsoleMode::File, file: Some(path.into()), socket: None }
        }
        Some(("socket", path)) if !path.is_empty() => {
            ConsoleConfig { mode: ConsoleMode::Socket, file: None, socket: Some(path.into()) }
        }
        Some(_) => return Err(no_such_place(option, text)),
    };
    Ok(config)
}

fn no_such_place(option: &str, text: &str) -> Misuse {
    Misuse(format!("{option} {text}: must be off, null, tty, pty, file=PATH or socket=PATH"))
}

#[cfg(test)]
mod tests;
