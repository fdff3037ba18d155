//! Requests after checking. A value of one of these types needs no more doubt.

use std::path::PathBuf;

use api::schema::balloon::BalloonConfig;
use api::schema::console::{ConsoleConfig, ConsoleMode};
use api::schema::cpus::CpusConfig;
use api::schema::device::AddDevice;
use api::schema::disk::DiskConfig;
use api::schema::machine::VmConfig;
use api::schema::memory::MemoryConfig;
use api::schema::net::NetConfig;
use api::schema::payload::PayloadConfig;
use api::schema::platform::PlatformConfig;
use api::schema::prefault;
use api::schema::rng::RngConfig;
use api::schema::user_device::UserDeviceConfig;
use api::schema::vsock::VsockConfig;
use devices::pci::Segment;

use crate::boot::Payload;
use crate::memory::ram::{Backings, Prefault};
use crate::sandbox::Grant;

pub mod balloon;
pub mod console;
pub mod device;
pub mod disk;
pub mod net;
pub mod reach;
pub mod rng;
pub mod user_device;
pub mod vsock;
pub mod wanted;

use self::balloon::BalloonSpec;
use self::console::ConsoleSpec;
use self::device::{DeviceError, DeviceSpec, NoSegment};
use self::disk::DiskSpec;
use self::net::NetSpec;
use self::rng::RngSpec;
use self::user_device::UserDeviceSpec;
use self::vsock::VsockSpec;
use self::wanted::Wanted;

/// Most vCPUs: their APIC ids are 0 to 254, 255 addresses them all.
const MOST_VCPUS: u32 = 255;
/// Bytes of a hugepage when the request does not say.
const HUGEPAGE: u64 = 2 << 20;

/// A machine to build, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// Processors, 1 to 255.
    pub vcpus: u8,
    /// Its RAM.
    pub memory: Backings,
    /// PCI segments, 1 to [`Segment::MOST`].
    pub segments: u8,
    /// What it boots, if that has been said.
    pub payload: Option<Payload>,
    /// Where its serial port goes.
    pub serial: SerialSpec,
    /// Where its paravirtual console goes.
    pub console: SerialSpec,
    /// Devices it has from the start: disks, the source of random numbers, host functions.
    pub devices: Vec<Wanted>,
    /// What stays reachable besides its own paths, if the process is to reach no more.
    pub landlock: Option<Vec<Grant>>,
}

/// Where the bytes of the serial port, or of the paravirtual console, go to and come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialSpec {
    /// The guest has no such port.
    Off,
    /// Nowhere.
    Null,
    /// The terminal of this process.
    Tty,
    /// A new pseudo-terminal.
    Pty,
    /// This file.
    File(PathBuf),
    /// A Unix socket at this path.
    Socket(PathBuf),
}

/// What was wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// None, too many, or fewer at most than at boot.
    #[error("boot_vcpus {boot} and max_vcpus {max} are not 1 <= boot <= max <= {MOST_VCPUS}")]
    Vcpus {
        /// Wanted at boot.
        boot: u32,
        /// Wanted at most.
        max: u32,
    },
    /// The guest would wait for processors that never come.
    #[error(
        "max_vcpus {max} is more than boot_vcpus {boot}, but adding vCPUs to a running guest \
         is not offered: give the same number"
    )]
    MoreLater {
        /// Wanted at boot.
        boot: u32,
        /// Wanted at most.
        max: u32,
    },
    /// Not a size that a processor has.
    #[error("hugepage_size {0} is not a power of two from 2 MiB up")]
    HugepageSize(u64),
    /// None, or more than there is room for.
    #[error("num_pci_segments {0} is not 1 to {most}", most = Segment::MOST)]
    Segments(u16),
    /// A device on a segment that the VM does not have.
    #[error("there is no place for {}", .0.display())]
    NoSegment(PathBuf, #[source] NoSegment),
    /// A payload without a kernel.
    #[error("the payload names no kernel")]
    NoKernel,
    /// A mode that needs a path came without.
    #[error("mode {0:?} needs a path")]
    NoPath(ConsoleMode),
    /// Both would read what is typed there.
    #[error("serial and console are both on the terminal: have one of them elsewhere")]
    TwoOnTheTerminal,
    /// One of its devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// They cannot be given back in parts.
    #[error("a balloon gives back pages of 4 KiB, and hugepages are larger: leave one of them out")]
    BalloonOfHugepages,
    /// Rules of nothing.
    #[error("landlock_rules are given, but Landlock is not asked for: set landlock_enable")]
    RulesWithoutLandlock,
    /// Two devices of one name.
    #[error("two devices have the id {0}")]
    TwoDevices(String),
}

impl TryFrom<VmConfig> for VmSpec {
    type Error = SpecError;

    fn try_from(body: VmConfig) -> Result<Self, SpecError> {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let VmConfig {
            payload,
            cpus,
            memory,
            serial,
            console,
            platform,
            disks,
            net,
            rng,
            vsock,
            balloon,
            devices,
            user_devices,
            landlock_enable,
            landlock_rules,
        } = body;
        let (serial, console) = (SerialSpec::try_from(serial)?, SerialSpec::try_from(console)?);
        if (&serial, &console) == (&SerialSpec::Tty, &SerialSpec::Tty) {
            return Err(SpecError::TwoOnTheTerminal);
        }
        let segments = segments(&platform.unwrap_or_default())?;
        let memory: Backings = memory.try_into()?;
        let balloon = balloon.map(|body| self::balloon(body, memory)).transpose()?;
        Ok(Self {
            vcpus: vcpus(&cpus)?,
            segments,
            memory,
            payload: payload.map(TryInto::try_into).transpose()?,
            serial,
            devices: wanted(
                (disks.unwrap_or_default(), net.unwrap_or_default(), (rng, vsock, balloon)),
                (devices.unwrap_or_default(), user_devices.unwrap_or_default()),
                (ConsoleSpec::of(&console), segments),
            )?,
            console,
            landlock: reach::landlock(landlock_enable, landlock_rules.unwrap_or_default())?,
        })
    }
}

fn segments(body: &PlatformConfig) -> Result<u8, SpecError> {
    let PlatformConfig { num_pci_segments: wanted } = *body;
    let count = u8::try_from(wanted).ok().filter(|count| (1..=Segment::MOST).contains(count));
    count.ok_or(SpecError::Segments(wanted))
}

/// What a VM has one of at most.
type Singles = (Option<RngConfig>, Option<VsockConfig>, Option<BalloonSpec>);

/// A balloon for this RAM.
fn balloon(body: BalloonConfig, memory: Backings) -> Result<BalloonSpec, SpecError> {
    let spec = BalloonSpec::try_from(body)?;
    spec.fits(memory.size)?;
    match memory.hugepage {
        None => Ok(spec),
        Some(_) => Err(SpecError::BalloonOfHugepages),
    }
}

/// Every device, each on a segment that there is and with a name of its own.
fn wanted(
    (disks, cards, (rng, vsock, balloon)): (Vec<DiskConfig>, Vec<NetConfig>, Singles),
    (functions, served): (Vec<AddDevice>, Vec<UserDeviceConfig>),
    (console, segments): (Option<ConsoleSpec>, u8),
) -> Result<Vec<Wanted>, SpecError> {
    let disks = disks.into_iter().map(|body| DiskSpec::try_from(body).map(Wanted::Disk));
    let cards = cards.into_iter().map(|body| NetSpec::try_from(body).map(Wanted::Net));
    let rng = rng.into_iter().map(|body| RngSpec::try_from(body).map(Wanted::Rng));
    let vsock = vsock.into_iter().map(|body| VsockSpec::try_from(body).map(Wanted::Vsock));
    let balloon = balloon.into_iter().map(|spec| Ok(Wanted::Balloon(spec)));
    let console = console.into_iter().map(|spec| Ok(Wanted::Console(spec)));
    let functions = functions.into_iter().map(|body| DeviceSpec::try_from(body).map(Wanted::Host));
    let served = served.into_iter().map(|body| UserDeviceSpec::try_from(body).map(Wanted::Served));
    let mut all: Vec<Wanted> = Vec::new();
    let ours = disks.chain(cards).chain(rng).chain(vsock).chain(balloon).chain(console);
    for wanted in ours.chain(functions).chain(served) {
        let wanted = wanted?;
        if let Err(error) = wanted.fits(segments) {
            return Err(SpecError::NoSegment(wanted.path().to_owned(), error));
        }
        match wanted.id() {
            Some(id) if all.iter().any(|other| other.id() == Some(id)) => {
                return Err(SpecError::TwoDevices(id.to_string()));
            }
            Some(_) | None => all.push(wanted),
        }
    }
    Ok(all)
}

fn vcpus(body: &CpusConfig) -> Result<u8, SpecError> {
    let CpusConfig { boot_vcpus: boot, max_vcpus: max } = *body;
    let fits = (1..=max).contains(&boot) && max <= MOST_VCPUS;
    if fits && boot < max {
        return Err(SpecError::MoreLater { boot, max });
    }
    let boot_count = u8::try_from(boot).ok().filter(|_| fits);
    boot_count.ok_or(SpecError::Vcpus { boot, max })
}

impl TryFrom<MemoryConfig> for Backings {
    type Error = SpecError;

    fn try_from(body: MemoryConfig) -> Result<Self, SpecError> {
        let MemoryConfig { size, shared, hugepages, hugepage_size, prefault } = body;
        let hugepage = hugepages.then_some(hugepage_size.unwrap_or(HUGEPAGE));
        match hugepage {
            Some(size) if !size.is_power_of_two() || size < HUGEPAGE => {
                Err(SpecError::HugepageSize(size))
            }
            Some(_) | None => Ok(Self { size, shared, hugepage, prefault: prefault.into() }),
        }
    }
}

impl From<prefault::Prefault> for Prefault {
    fn from(body: prefault::Prefault) -> Self {
        match body {
            prefault::Prefault::Off => Self::Never,
            prefault::Prefault::On => Self::AtBoot,
            prefault::Prefault::Background => Self::InBackground,
        }
    }
}

impl TryFrom<PayloadConfig> for Payload {
    type Error = SpecError;

    fn try_from(body: PayloadConfig) -> Result<Self, SpecError> {
        let PayloadConfig { kernel, cmdline, initramfs } = body;
        let kernel = kernel.ok_or(SpecError::NoKernel)?;
        Ok(Self { kernel, initramfs, cmdline: cmdline.unwrap_or_default() })
    }
}

impl TryFrom<ConsoleConfig> for SerialSpec {
    type Error = SpecError;

    fn try_from(body: ConsoleConfig) -> Result<Self, SpecError> {
        let ConsoleConfig { mode, file, socket } = body;
        let missing = SpecError::NoPath(mode);
        match mode {
            ConsoleMode::Off => Ok(Self::Off),
            ConsoleMode::Null => Ok(Self::Null),
            ConsoleMode::Tty => Ok(Self::Tty),
            ConsoleMode::Pty => Ok(Self::Pty),
            ConsoleMode::File => file.map(Self::File).ok_or(missing),
            ConsoleMode::Socket => socket.map(Self::Socket).ok_or(missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut VmConfig)) -> Result<VmSpec, SpecError> {
        let mut body = VmConfig::default();
        change(&mut body);
        body.try_into()
    }

    #[test]
    fn defaults_are_one_vcpu_and_512_mib_without_a_payload() {
        let spec = with(|_| {}).unwrap();

        assert_eq!((spec.vcpus, spec.memory.size, spec.payload), (1, 512 << 20, None));
        assert_eq!(spec.serial, SerialSpec::Null);
    }

    #[test]
    fn vcpu_counts_out_of_range_are_refused() {
        for (boot, max) in [(0, 1), (2, 1), (1, 256), (300, 300)] {
            let refused = with(|body| body.cpus = CpusConfig { boot_vcpus: boot, max_vcpus: max });
            assert_eq!(refused, Err(SpecError::Vcpus { boot, max }));
        }
        let later = with(|body| body.cpus = CpusConfig { boot_vcpus: 2, max_vcpus: 4 });
        assert_eq!(later, Err(SpecError::MoreLater { boot: 2, max: 4 }));
        let most = with(|body| body.cpus = CpusConfig { boot_vcpus: 255, max_vcpus: 255 });
        assert_eq!(most.unwrap().vcpus, 255);
    }

    #[test]
    fn hugepage_size_counts_only_with_hugepages() {
        let ask = |hugepages, size| {
            with(|body| {
                body.memory.hugepages = hugepages;
                body.memory.hugepage_size = size;
            })
        };
        assert_eq!(ask(true, None).unwrap().memory.hugepage, Some(2 << 20));
        assert_eq!(ask(false, Some(5)).unwrap().memory.hugepage, None);
        assert_eq!(ask(true, Some(5)), Err(SpecError::HugepageSize(5)));
    }

    #[test]
    fn balloon_is_smaller_than_the_ram_and_not_for_hugepages() {
        let ask = |size, hugepages| {
            with(|body| {
                body.memory.hugepages = hugepages;
                let balloon = serde_json::json!({ "size": size });
                body.balloon = Some(serde_json::from_value(balloon).unwrap());
            })
        };
        let all = 512 << 20;
        assert!(ask(all - 4096, false).is_ok());
        assert_eq!(ask(all, false), Err(SpecError::Device(DeviceError::Balloon(all))));
        assert_eq!(ask(0, true), Err(SpecError::BalloonOfHugepages));
    }

    #[test]
    fn segments_are_1_to_16_and_devices_sit_on_those_there_are() {
        let with_segments = |num_pci_segments| {
            with(|body| body.platform = Some(PlatformConfig { num_pci_segments }))
        };
        assert_eq!(with(|_| {}).unwrap().segments, 1);
        assert_eq!(with_segments(16).unwrap().segments, 16);
        assert_eq!(with_segments(0), Err(SpecError::Segments(0)));
        assert_eq!(with_segments(300), Err(SpecError::Segments(300)));

        let device = r#"{"path":"/sys/x","pci_segment":1}"#;
        let lost = with(|body| body.devices = Some(vec![serde_json::from_str(device).unwrap()]));
        let why = NoSegment(Segment::new(1).unwrap(), 1);
        assert_eq!(lost, Err(SpecError::NoSegment("/sys/x".into(), why)));
    }

    #[test]
    fn console_is_a_device_unless_it_is_off_and_not_on_a_terminal_that_is_taken() {
        let consoles = |mode| {
            let spec = with(|body| body.console = ConsoleConfig::of(mode)).unwrap();
            spec.devices.iter().filter(|wanted| matches!(wanted, Wanted::Console(_))).count()
        };
        assert_eq!(
            [ConsoleMode::Off, ConsoleMode::Null, ConsoleMode::Tty].map(consoles),
            [0, 1, 1]
        );

        let both = with(|body| {
            body.serial = ConsoleConfig::of(ConsoleMode::Tty);
            body.console = ConsoleConfig::of(ConsoleMode::Tty);
        });
        assert_eq!(both, Err(SpecError::TwoOnTheTerminal));
    }

    #[test]
    fn modes_with_a_path_need_one_and_a_payload_needs_a_kernel() {
        let file = with(|body| body.serial = ConsoleConfig::of(ConsoleMode::File));
        assert_eq!(file, Err(SpecError::NoPath(ConsoleMode::File)));

        let console = with(|body| body.console = ConsoleConfig::of(ConsoleMode::Socket));
        assert_eq!(console, Err(SpecError::NoPath(ConsoleMode::Socket)));

        let payload = with(|body| body.payload = Some(PayloadConfig::default()));
        assert_eq!(payload, Err(SpecError::NoKernel));
    }
}
