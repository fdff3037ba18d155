//! What hotbay says through `--event-monitor`, read from its file as it grows.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Doing, Error, Result};
use crate::wait::{Look, until};

/// A file that hotbay writes its events to.
#[derive(Debug)]
pub struct Events(PathBuf);

impl Events {
    /// Those that are or will be in this file.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self(file.into())
    }

    /// The argument that makes hotbay write them.
    pub fn argument(&self) -> String {
        format!("--event-monitor=path={}", self.0.display())
    }

    /// All so far. The last may still be being written.
    pub fn all(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.0).doing("read the events")?;
        let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let events = whole.split("\n\n").filter(|event| !event.is_empty());
        let read = |event| {
            serde_json::from_str(event).map_err(|error| {
                Error::Unexpected(format!("an event is no JSON ({error}): {event}"))
            })
        };
        events.map(read).collect()
    }

    /// Those of one kind so far.
    pub fn of(&self, name: &str) -> Result<Vec<Value>> {
        let mut events = self.all()?;
        events.retain(|event| event["event"] == name);
        Ok(events)
    }

    /// Waits for the first one of a kind for which `wanted` holds.
    pub fn expect(
        &self,
        name: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        until(&format!("the event {name}"), limit, || {
            let seen = self.of(name)?;
            let found = seen.iter().find(|event| wanted(event)).cloned();
            Ok(found.map_or_else(|| Look::NotYet(format!("{:?}", seen.last())), Look::Holds))
        })
    }
}
