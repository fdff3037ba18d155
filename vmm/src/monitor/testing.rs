//! A monitor whose notices a test reads.
use std::sync::mpsc::{self, Receiver};

use super::Monitor;
use super::writer::Message;

/// Makes a monitor with room for `room` unread events, and where they arrive.
pub(crate) fn monitor(room: usize) -> (Monitor, Heard) {
    let (queue, messages) = mpsc::sync_channel(room);
    (Monitor::to(queue), Heard(messages))
}

/// What the monitor was told.
pub(crate) struct Heard(Receiver<Message>);

impl Heard {
    /// Events since the last call, as JSON.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let text = |message| match message {
            Message::Text(text) => serde_json::from_str(&text).ok(),
            Message::End => None,
        };
        self.0.try_iter().filter_map(text).collect()
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |event: serde_json::Value| event["event"].as_str().map(str::to_owned);
        self.events().into_iter().filter_map(name).collect()
    }
}
