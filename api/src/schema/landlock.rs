//! What of the host's file system the process may reach.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::known::knows;

/// An entry of a VM's `landlock_rules`: a path that stays reachable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct LandlockConfig {
    /// A file, or a folder with everything below it. It must be there.
    pub path: PathBuf,
    /// What may be done there.
    pub access: LandlockAccess,
}

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LandlockAccess {
    /// Files are read, folders listed.
    #[serde(rename = "r")]
    Read,
    /// Files and sockets are made, written and removed.
    #[serde(rename = "w")]
    Write,
    /// Both.
    #[serde(rename = "rw", alias = "wr")]
    ReadWrite,
}

knows!(LandlockConfig, &[]);
