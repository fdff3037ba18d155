//! What has happened to the VM, for clients who ask. (hotbay's)

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest [`Follow::wait_ms`].
pub const LONGEST_WAIT_MS: u64 = 600_000;

/// Which events a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Follow {
    /// Those after the one with this number; all that are kept when absent.
    pub since: Option<u64>,
    /// If there are none, wait so many milliseconds for one, at most [`LONGEST_WAIT_MS`];
    /// do not wait when absent.
    pub wait_ms: Option<u64>,
}

/// Answer to `vm.events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Number of the last event there was: the next `since`.
    pub last: u64,
    /// So many after `since` are not kept any more.
    pub lost: u64,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1, the start of hotbay.
    pub number: u64,
    /// Since the start of hotbay; `{"secs", "nanos"}`.
    pub timestamp: Duration,
    /// `vmm` or `vm`.
    pub source: String,
    /// What it is called.
    pub event: String,
    /// More about it.
    pub properties: Option<BTreeMap<String, String>>,
}
