//! When the host's memory is taken: `false`, `true`, or hotbay's `"background"`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// The one word among the values.
const BACKGROUND: &str = "background";

/// When the host's memory is taken for the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefault {
    /// When the guest first touches it, or a device needs it (`false`).
    #[default]
    Off,
    /// Before the guest starts (`true`).
    On,
    /// While the guest runs, when nobody else needs the processors. (hotbay's)
    Background,
}

impl Serialize for Prefault {
    fn serialize<S: Serializer>(&self, sink: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => sink.serialize_bool(false),
            Self::On => sink.serialize_bool(true),
            Self::Background => sink.serialize_str(BACKGROUND),
        }
    }
}

impl<'de> Deserialize<'de> for Prefault {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(Value)
    }
}

struct Value;

impl Visitor<'_> for Value {
    type Value = Prefault;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "true, false or \"{BACKGROUND}\"")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Prefault, E> {
        Ok(if value { Prefault::On } else { Prefault::Off })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Prefault, E> {
        match value {
            BACKGROUND => Ok(Prefault::Background),
            other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_truths_and_a_word() {
        let all = [("false", Prefault::Off), ("true", Prefault::On)];
        for (text, value) in all.into_iter().chain([("\"background\"", Prefault::Background)]) {
            assert_eq!(serde_json::from_str::<Prefault>(text).unwrap(), value);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        for wrong in ["\"on\"", "1", "null"] {
            let why = serde_json::from_str::<Prefault>(wrong).unwrap_err().to_string();
            assert!(why.contains("expected true, false or \"background\""), "{why}");
        }
    }
}
