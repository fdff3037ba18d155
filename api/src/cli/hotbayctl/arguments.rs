//! What can be said to `hotbayctl`: ch-remote's subcommands with their arguments, and
//! hotbay's own.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use serde_json::json;

use super::super::Misuse;
use super::super::hotbay::{device, disk, net, take_over, user_device, vsock};
use super::super::options::bytes;
use super::foreign::Theirs;
use super::show::Show;
use crate::request::Request;
use crate::route::{self, Wire};
use crate::schema::device::RemoveDevice;
use crate::schema::events::Follow;
use crate::schema::interrupts::TestInterrupt;

/// Controls a running hotbay over its API socket
///
/// Subcommands and arguments are those of ch-remote, and more. What a verb does, and which
/// state of the VM allows it, is in docs/api.md.
#[derive(Debug, Parser)]
#[command(name = "hotbayctl", version)]
pub(super) struct Arguments {
    /// API socket of the hotbay to talk to
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) api_socket: Option<String>,
    /// Print the server's answer itself, and no table
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    #[command(flatten)]
    Ours(Ours),
    #[command(flatten)]
    Theirs(Theirs),
    /// Print what makes a shell complete these words
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the manual page, of all or of one subcommand, in troff
    Man {
        /// Name of the subcommand
        subcommand: Option<String>,
    },
}

/// Verbs that hotbay has.
#[derive(Debug, Subcommand)]
pub(super) enum Ours {
    /// Hand a host device to the guest
    AddDevice {
        /// path=/sys/bus/pci/devices/BDF,id=NAME,pci_segment=N,pci_device_id=N,
        /// x_exclude_mmap_bars=[N,...],x_msix_noresize=on,x_exact_pending=on
        device_config: String,
    },
    /// Give the guest a disk
    AddDisk {
        /// path=IMAGE,id=NAME,readonly=on,direct=on,num_queues=N,queue_size=N,serial=TEXT,
        /// pci_segment=N,pci_device_id=N
        disk_config: String,
    },
    /// Give the guest a network card on a tap of the host
    AddNet {
        /// tap=NAME,mac=ADDRESS,id=NAME,num_queues=N,queue_size=N,offload_tso=off,offload_ufo=off,
        /// offload_csum=off,x_vhost=on,pci_segment=N,pci_device_id=N
        net_config: String,
    },
    /// Give the guest sockets (AF_VSOCK) to programs of the host
    AddVsock {
        /// cid=N,id=NAME,pci_segment=N,pci_device_id=N
        vsock_config: String,
    },
    /// Give the guest a function that another process emulates (vfio-user)
    AddUserDevice {
        /// socket=PATH,id=NAME,pci_segment=N,pci_device_id=N
        device_config: String,
    },
    /// Put RAM into the guest's balloon, or take it out
    Resize {
        /// Bytes of the balloon, with an optional suffix K, M, G or T
        #[arg(long, value_name = "BYTES")]
        balloon: Option<String>,
        /// Number of processors (not offered by hotbay)
        #[arg(long, value_name = "N")]
        cpus: Option<u32>,
        /// Bytes of memory, with an optional suffix (not offered by hotbay)
        #[arg(long, value_name = "BYTES")]
        memory: Option<String>,
    },
    /// Boot the created VM
    Boot,
    /// Say whether add-device would be refused, and why
    CheckDevice {
        /// As for add-device
        device_config: String,
    },
    /// What each device did so far
    Counters,
    /// Create a VM from a JSON configuration
    Create {
        /// File with the configuration; - for standard input
        #[arg(default_value = "-")]
        path: PathBuf,
    },
    /// Stop the VM and forget it
    Delete,
    /// What has happened to the VM
    Events {
        /// Only after the event with this number
        #[arg(long, value_name = "N")]
        since: Option<u64>,
        /// If there is none, wait for one, at most this many milliseconds
        #[arg(long, value_name = "N")]
        wait_ms: Option<u64>,
    },
    /// Configuration, state and devices of the VM
    Info,
    /// Where interrupts are between host and guest
    Interrupts {
        /// The device's id; every device when absent
        id: Option<String>,
    },
    /// Interrupt every processor of the guest, whatever it has masked
    Nmi,
    /// Take the vCPUs out of the guest, where they stand
    Pause,
    /// Ask whether the server is there, and who it is
    Ping,
    /// Press the guest's power button
    PowerButton,
    /// Start the VM afresh
    Reboot,
    /// Take a device back from the guest
    RemoveDevice {
        /// The device's id
        id: String,
        /// Wait for the guest to let go, at most this many milliseconds
        #[arg(long)]
        wait_ms: Option<u64>,
        /// Take it even if the guest does not let go
        #[arg(long)]
        force: bool,
    },
    /// Let a paused guest go on
    Resume,
    /// Stop the guest, keep the VM
    Shutdown,
    /// Stop the VM and end the server
    ShutdownVmm,
    /// Fire an interrupt as the device would
    TestInterrupt {
        /// The device's id
        id: String,
        /// Which of its vectors; 0 for a line
        vector: u16,
    },
}

impl Ours {
    /// How its answer is shown to a person.
    pub(super) fn show(&self) -> Show {
        match self {
            Self::Interrupts { .. } => Show::Interrupts,
            Self::Events { .. } => Show::Events,
            Self::Info => Show::Info,
            Self::Counters => Show::Counters,
            Self::Ping => Show::Ping,
            Self::AddDevice { .. }
            | Self::AddDisk { .. }
            | Self::AddNet { .. }
            | Self::AddVsock { .. }
            | Self::AddUserDevice { .. } => Show::Added,
            Self::Boot
            | Self::CheckDevice { .. }
            | Self::Create { .. }
            | Self::Delete
            | Self::Nmi
            | Self::Pause
            | Self::PowerButton
            | Self::Reboot
            | Self::RemoveDevice { .. }
            | Self::Resize { .. }
            | Self::Resume
            | Self::Shutdown
            | Self::ShutdownVmm
            | Self::TestInterrupt { .. } => Show::Json,
        }
    }

    /// The request.
    pub(super) fn wire(self) -> Result<Wire, Misuse> {
        let request = match self {
            Self::AddDevice { device_config } => {
                Request::AddDevice(device("add-device", &device_config)?)
            }
            Self::AddDisk { disk_config } => Request::AddDisk(disk("add-disk", &disk_config)?),
            Self::AddNet { net_config } => {
                let mut card = net("add-net", &net_config)?;
                take_over("add-net", &net_config, &mut card)?;
                Request::AddNet(card)
            }
            Self::AddVsock { vsock_config } => {
                Request::AddVsock(vsock("add-vsock", &vsock_config)?)
            }
            Self::AddUserDevice { device_config } => {
                Request::AddUserDevice(user_device("add-user-device", &device_config)?)
            }
            Self::Resize { balloon, cpus, memory } => {
                return resize(balloon, cpus, memory).map(Wire::resize);
            }
            Self::Boot => Request::Boot,
            Self::CheckDevice { device_config } => {
                Request::CheckDevice(device("check-device", &device_config)?)
            }
            Self::Counters => Request::Counters,
            Self::Create { path } => return configuration(&path).map(Wire::create),
            Self::Delete => Request::Delete,
            Self::Events { since, wait_ms } => Request::Events(Follow { since, wait_ms }),
            Self::Info => Request::Info,
            Self::Interrupts { id } => Request::Interrupts(id),
            Self::Nmi => Request::Nmi,
            Self::Pause => Request::Pause,
            Self::Ping => Request::Ping,
            Self::PowerButton => Request::PowerButton,
            Self::Reboot => Request::Reboot,
            Self::RemoveDevice { id, wait_ms, force } => {
                Request::RemoveDevice(RemoveDevice { id, wait_ms, force: force.then_some(true) })
            }
            Self::Resume => Request::Resume,
            Self::Shutdown => Request::Shutdown,
            Self::ShutdownVmm => Request::VmmShutdown,
            Self::TestInterrupt { id, vector } => {
                Request::TestInterrupt(TestInterrupt { id, vector })
            }
        };
        route::write(&request).map_err(|error| Misuse(error.to_string()))
    }
}

fn configuration(path: &Path) -> Result<String, Misuse> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Misuse(format!("cannot read {}: {error}", path.display()))),
    }
}
/// Body of `vm.resize`, with all that ch-remote can ask for: the server judges.
fn resize(
    balloon: Option<String>,
    cpus: Option<u32>,
    memory: Option<String>,
) -> Result<String, Misuse> {
    let ram = memory.map(|text| bytes("resize --memory", &text)).transpose()?;
    let balloon = balloon.map(|text| bytes("resize --balloon", &text)).transpose()?;
    let body = json!({ "desired_vcpus": cpus, "desired_ram": ram, "desired_balloon": balloon });
    Ok(body.to_string())
}
