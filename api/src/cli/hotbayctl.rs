//! Command line of `hotbayctl`: ch-remote's subcommands, for the verbs there are.

use std::error::Error;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use serde_json::Value;

use super::hotbay::device;
use super::{Line, Misuse, interrupts, outcome};
use crate::client::{Client, ClientError};
use crate::request::Request;
use crate::route::{self, Wire};
use crate::schema::device::RemoveDevice;
use crate::schema::interrupts::TestInterrupt;

/// One request to one server.
#[derive(Debug, PartialEq, Eq)]
pub struct Errand {
    socket: PathBuf,
    wire: Wire,
    show: Show,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    /// As it came, one field a line.
    Json,
    /// Interrupts as a table.
    Table,
}

/// Reads the arguments, the program's name first, and what they refer to.
///
/// # Errors
/// One sentence about what is wrong with them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Line<Errand>, Misuse> {
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments { api_socket, verb }) => {
            let socket = api_socket.strip_prefix("path=").unwrap_or(&api_socket).into();
            let show = verb.show();
            Ok(Line::Do(Errand { socket, wire: verb.wire()?, show }))
        }
        Err(error) => outcome(&error),
    }
}

impl Errand {
    /// Runs it; returns what to print, nothing for an answer without a body.
    ///
    /// # Errors
    /// The server's answer or the lack of one, a line for each cause.
    pub fn run(&self) -> Result<String, String> {
        match Client::new(&self.socket).send(&self.wire) {
            Ok(body) => Ok(body.map(|body| self.show.text(&body)).unwrap_or_default()),
            Err(error) => Err(explain(&error)),
        }
    }
}

/// Controls a running hotbay over its API socket.
#[derive(Debug, Parser)]
#[command(name = "hotbayctl", version)]
struct Arguments {
    /// API socket of the hotbay to talk to
    #[arg(long, value_name = "PATH")]
    api_socket: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Hand a host device to the guest
    AddDevice {
        /// path=/sys/bus/pci/devices/BDF,id=NAME,pci_segment=N,pci_device_id=N,
        /// x_exclude_mmap_bars=[N,...],x_msix_noresize=on,x_exact_pending=on
        device_config: String,
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
    /// Configuration, state and devices of the VM
    Info,
    /// Where interrupts are between host and guest, as a table
    Interrupts {
        /// The device's id; every device when absent
        id: Option<String>,
        /// Print the server's answer itself
        #[arg(long)]
        json: bool,
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
    /// Let a paused VM go on
    Resume,
    /// Stop the VM
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

impl Verb {
    fn show(&self) -> Show {
        if matches!(self, Self::Interrupts { json: false, .. }) { Show::Table } else { Show::Json }
    }

    fn wire(self) -> Result<Wire, Misuse> {
        let request = match self {
            Self::AddDevice { device_config } => {
                Request::AddDevice(device("add-device", &device_config)?)
            }
            Self::Boot => Request::Boot,
            Self::CheckDevice { device_config } => {
                Request::CheckDevice(device("check-device", &device_config)?)
            }
            Self::Counters => Request::Counters,
            Self::Create { path } => return configuration(&path).map(Wire::create),
            Self::Delete => Request::Delete,
            Self::Info => Request::Info,
            Self::Interrupts { id, json: _ } => Request::Interrupts(id),
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

impl Show {
    /// What to print for `body`. What is no table is printed as it is.
    fn text(self, body: &str) -> String {
        match (self, serde_json::from_str(body)) {
            (Self::Table, Ok(seen)) => interrupts::table(&seen),
            (Self::Table, Err(_)) | (Self::Json, _) => pretty(body),
        }
    }
}

fn pretty(body: &str) -> String {
    let parsed = serde_json::from_str::<Value>(body);
    parsed
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| body.to_owned())
}

fn explain(error: &ClientError) -> String {
    let mut lines = Vec::new();
    if let ClientError::Refused(refusal) = error {
        lines.clone_from(&refusal.chain);
        if let Some(first) = lines.first_mut() {
            first.push_str(&format!(" [{} {}]", refusal.status, refusal.code));
        }
    } else {
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            lines.push(error.to_string());
            cause = error.source();
        }
    }
    lines.join("\n  because ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errand(words: &[&str]) -> Errand {
        let program = ["hotbayctl", "--api-socket", "path=/run/a.sock"];
        match parse(program.iter().chain(words).map(OsString::from)).unwrap() {
            Line::Do(errand) => errand,
            Line::Say(text) => panic!("{text}"),
        }
    }

    #[test]
    fn subcommands_are_ch_remotes_and_cover_every_verb() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let subcommands: [&[&str]; 18] = [
            &["ping"],
            &["shutdown-vmm"],
            &["create", path],
            &["boot"],
            &["info"],
            &["add-device", "path=/d"],
            &["check-device", "path=/d"],
            &["remove-device", "nic0"],
            &["shutdown"],
            &["reboot"],
            &["pause"],
            &["resume"],
            &["delete"],
            &["nmi"],
            &["power-button"],
            &["counters"],
            &["interrupts"],
            &["test-interrupt", "nic0", "0"],
        ];

        assert_eq!(subcommands.len(), route::ROUTES.len());
        for (words, route) in subcommands.iter().zip(route::ROUTES) {
            let Errand { socket, wire, .. } = errand(words);

            assert_eq!(socket, Path::new("/run/a.sock"));
            assert_eq!(wire.path, format!("{}{}", route::PREFIX, route.verb));
            assert_eq!(wire.method, route.method);
        }
    }

    #[test]
    fn bodies_are_what_cloud_hypervisor_accepts() {
        let add = errand(&["add-device", "path=/sys/x,id=nic0"]).wire;
        let remove = errand(&["remove-device", "nic0"]).wire;

        let expected = r#"{"path":"/sys/x","id":"nic0","pci_segment":0,"x_exclude_mmap_bars":[]}"#;
        assert_eq!(add.body.unwrap(), expected);
        assert_eq!(remove.body.unwrap(), r#"{"id":"nic0"}"#);
    }

    #[test]
    fn configuration_goes_to_the_server_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{ \"anything\" }").unwrap();

        let wire = errand(&["create", file.path().to_str().unwrap()]).wire;

        assert_eq!(wire.body.unwrap(), "{ \"anything\" }");
    }

    #[test]
    fn interrupts_are_a_table_unless_json_is_asked_for() {
        let table = errand(&["interrupts", "nic0"]);
        let json = errand(&["interrupts", "--json"]);

        assert_eq!(table.wire.path, "/api/v1/vm.interrupts?id=nic0");
        assert_eq!(table.show.text("{}"), "There is no device.");
        assert_eq!(json.wire.path, "/api/v1/vm.interrupts");
        assert_eq!(json.show.text("{}"), "{}");
    }

    #[test]
    fn missing_socket_is_explained() {
        let error =
            Errand { socket: "/nonexistent".into(), ..errand(&["ping"]) }.run().unwrap_err();

        assert!(
            error.starts_with("cannot connect to /nonexistent\n  because No such file"),
            "{error}"
        );
    }
}
