//! Body of `vm.create`: everything about a VM before it runs.

use serde::{Deserialize, Serialize};

use super::balloon::BalloonConfig;
use super::console::{ConsoleConfig, ConsoleMode};
use super::cpus::CpusConfig;
use super::device::AddDevice;
use super::disk::DiskConfig;
use super::known::{Table, knows};
use super::landlock::LandlockConfig;
use super::memory::MemoryConfig;
use super::net::NetConfig;
use super::payload::PayloadConfig;
use super::platform::PlatformConfig;
use super::rng::RngConfig;
use super::user_device::UserDeviceConfig;
use super::vsock::VsockConfig;

/// A virtual machine's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct VmConfig {
    /// What it boots; without a payload it can be created, not booted.
    #[serde(default)]
    pub payload: Option<PayloadConfig>,
    /// Its processors.
    #[serde(default)]
    pub cpus: CpusConfig,
    /// Its memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// Its 16550 serial port; `Null` when absent, as in Cloud Hypervisor.
    #[serde(default = "default_serial")]
    pub serial: ConsoleConfig,
    /// Its paravirtual console; `Off` when absent, unlike Cloud Hypervisor's
    /// `Tty`, which would take what is typed from a serial port.
    #[serde(default = "default_console")]
    pub console: ConsoleConfig,
    /// Its mainboard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformConfig>,
    /// Disks it has from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskConfig>>,
    /// Network cards it has from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<NetConfig>>,
    /// Its source of random numbers; none when absent, unlike Cloud Hypervisor's, which
    /// is always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rng: Option<RngConfig>,
    /// Its sockets to programs of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// Its balloon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// Host devices it has from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<AddDevice>>,
    /// Functions of vfio-user servers that it has from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_devices: Option<Vec<UserDeviceConfig>>,
    /// The process reaches no path from now on but what this VM and its devices
    /// need, and `landlock_rules`. It stays so when the VM is deleted.
    #[serde(default)]
    pub landlock_enable: bool,
    /// Paths that stay reachable besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_rules: Option<Vec<LandlockConfig>>,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            payload: None,
            cpus: CpusConfig::default(),
            memory: MemoryConfig::default(),
            serial: default_serial(),
            console: default_console(),
            platform: None,
            disks: None,
            net: None,
            rng: None,
            vsock: None,
            balloon: None,
            devices: None,
            user_devices: None,
            landlock_enable: false,
            landlock_rules: None,
        }
    }
}

fn default_serial() -> ConsoleConfig {
    ConsoleConfig::of(ConsoleMode::Null)
}

fn default_console() -> ConsoleConfig {
    ConsoleConfig::of(ConsoleMode::Off)
}

pub(super) const KNOWN: Table = &[
    ("debug_console", r#"{"mode":"Off","file":null,"iobase":233}"#),
    ("fs", "null"),
    ("gdb", "false"),
    ("generic_vhost_user", "null"),
    ("iommu", "false"),
    ("ivshmem", "null"),
    ("numa", "null"),
    ("pci_segments", "null"),
    ("pmem", "null"),
    ("pvmemcontrol", "null"),
    ("pvpanic", "false"),
    ("rate_limit_groups", "null"),
    ("rtc", r#"{"iommu":false,"id":null,"pci_segment":0,"pci_device_id":null}"#),
    ("sgx_epc", "null"),
    ("tpm", "null"),
    ("vdpa", "null"),
    ("watchdog", "false"),
];
knows!(VmConfig, KNOWN);
