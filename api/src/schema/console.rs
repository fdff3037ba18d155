//! Where the guest's serial port and console go.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::{Table, knows};

/// Where a port's bytes go to and come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleMode {
    /// The guest has no such port.
    Off,
    /// A new pseudo-terminal, whose name `vm.info` shows as `file`.
    Pty,
    /// The terminal of the `hotbay` process.
    Tty,
    /// Written to `file`.
    File,
    /// A Unix socket that `hotbay` listens on at `socket`.
    Socket,
    /// The guest has the port; nobody listens.
    Null,
}

/// `serial` or `console` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Where the bytes go.
    pub mode: ConsoleMode,
    /// Path for [`ConsoleMode::File`]; of the pseudo-terminal in `vm.info`.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Path for [`ConsoleMode::Socket`].
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

impl ConsoleConfig {
    /// A port of a mode that needs no path.
    pub fn of(mode: ConsoleMode) -> Self {
        Self { mode, file: None, socket: None }
    }
}

pub(super) const KNOWN: Table =
    &[("iommu", "false"), ("id", "null"), ("pci_segment", "0"), ("pci_device_id", "null")];
knows!(ConsoleConfig, KNOWN);
