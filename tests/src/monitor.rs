//! What hotbay tells its event monitor.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::error::{Doing, Error, Result};
use crate::wait::{Look, until};

/// From something that happened to its event in the file.
const EVENT_LIMIT: Duration = Duration::from_secs(120);

/// A file that hotbay writes its events to.
#[derive(Debug)]
pub struct Monitor(NamedTempFile);

impl Monitor {
    /// An empty file.
    pub fn new() -> Result<Self> {
        NamedTempFile::new().doing("make a file for events").map(Self)
    }

    /// Arguments that have hotbay write to it.
    pub fn arguments(&self) -> Vec<String> {
        vec!["--event-monitor".into(), format!("path={}", self.0.path().display())]
    }

    /// All events so far.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.0.path()).doing("read events")?;
        // What follows the last empty line is still being written.
        let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let event = |line: &str| {
            serde_json::from_str(line)
                .map_err(|error| Error::Unexpected(format!("no event ({error}): {line}")))
        };
        whole.split("\n\n").filter(|line| !line.is_empty()).map(event).collect()
    }

    /// Names of the events of a device so far.
    pub fn of(&self, id: &str) -> Result<Vec<String>> {
        let events = self.events()?.into_iter();
        let own = events.filter(|event| event["properties"]["id"] == id);
        Ok(own.map(|event| event["event"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Those of one kind so far.
    pub fn named(&self, name: &str) -> Result<Vec<Value>> {
        let mut events = self.events()?;
        events.retain(|event| event["event"] == name);
        Ok(events)
    }

    /// Waits for the first event of a kind for which `wanted` holds.
    pub fn first(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        until(&format!("the event {name}"), EVENT_LIMIT, || {
            let seen = self.named(name)?;
            let found = seen.iter().find(|event| wanted(event)).cloned();
            Ok(found.map_or_else(|| Look::NotYet(format!("{:?}", seen.last())), Look::Holds))
        })
    }

    /// Waits until a device has had an event of this name; its properties, of the last one.
    pub fn expect(&self, id: &str, name: &str) -> Result<Value> {
        until(&format!("{name} of {id}"), EVENT_LIMIT, || {
            let events = self.events()?;
            let wanted = |event: &&Value| event["properties"]["id"] == id && event["event"] == name;
            let found = events.iter().rfind(wanted).map(|event| event["properties"].clone());
            Ok(found.map_or_else(|| Look::NotYet(format!("{events:?}")), Look::Holds))
        })
    }

    /// Waits until so many bytes of RAM are mapped for a device that is being added.
    pub fn mapped(&self, bytes: u64) -> Result {
        let enough = |event: &Value| {
            let done = event["properties"]["bytes_done"].as_str();
            done.and_then(|done| done.parse().ok()).is_some_and(|done: u64| done >= bytes)
        };
        self.first("device-progress", enough).map(drop)
    }
}
