//! `key=value,key=value` and how it becomes JSON.
//!
//! A value may be put in double quotes, which keep its commas; a list is
//! written in brackets, `[0,2]`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Misuse;

/// One key: its name on the command line, its name in JSON, its kind.
pub(super) struct Key(pub(super) &'static str, pub(super) &'static str, pub(super) Kind);

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// Bytes, with an optional suffix K, M, G or T.
    Size,
    /// `on`, `off`, `true` or `false`.
    Switch,
    /// As a switch, or this word.
    SwitchOr(&'static str),
    /// `[1,2]`, or one number.
    Numbers,
    /// One of these words, with their names in JSON.
    Word(&'static [(&'static str, &'static str)]),
}

/// Reads `text`, the value of `option`, as the JSON object of a body.
pub(super) fn object(option: &str, text: &str, keys: &[Key]) -> Result<Map<String, Value>, Misuse> {
    let misuse = |why: String| Misuse(format!("{option} {text}: {why}"));
    let mut object = Map::new();
    for part in split(text).map_err(misuse)? {
        let (name, value) = part.split_once('=').unwrap_or((&part, ""));
        let Some(Key(_, field, kind)) = keys.iter().find(|key| key.0 == name) else {
            return Err(misuse(unknown(name, keys)));
        };
        let value =
            kind.read(value).ok_or_else(|| misuse(format!("{name} {}", kind.expectation())))?;
        if object.insert((*field).to_owned(), value).is_some() {
            return Err(misuse(format!("{name} is given twice")));
        }
    }
    Ok(object)
}

/// Turns the object into the body it describes.
pub(super) fn body<T: DeserializeOwned>(
    option: &str,
    text: &str,
    object: impl Into<Value>,
) -> Result<T, Misuse> {
    serde_json::from_value(object.into())
        .map_err(|error| Misuse(format!("{option} {text}: {error}")))
}

/// Reads `text`, the value of `option`, as a JSON object of any fields. What a value looks
/// like decides what it is: a number, a switch, a list, or text.
pub(super) fn any(option: &str, text: &str) -> Result<Map<String, Value>, Misuse> {
    let misuse = |why: String| Misuse(format!("{option} {text}: {why}"));
    let mut object = Map::new();
    for part in split(text).map_err(misuse)? {
        let pair = part.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair.ok_or_else(|| misuse(format!("{part:?} is not key=value")))?;
        if object.insert(name.to_owned(), guess(value)).is_some() {
            return Err(misuse(format!("{name} is given twice")));
        }
    }
    Ok(object)
}

/// Bytes, the value of `option`, with an optional suffix K, M, G or T.
pub(super) fn bytes(option: &str, text: &str) -> Result<u64, Misuse> {
    size(text).ok_or_else(|| Misuse(format!("{option} {text}: {}", Kind::Size.expectation())))
}

fn guess(text: &str) -> Value {
    let list = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match (list, text) {
        (Some(list), _) => list.split(',').filter(|item| !item.is_empty()).map(guess).collect(),
        (None, "on" | "true") => true.into(),
        (None, "off" | "false") => false.into(),
        (None, _) => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    }
}

impl Kind {
    fn read(self, text: &str) -> Option<Value> {
        match self {
            Self::Text => Some(text).filter(|text| !text.is_empty()).map(Value::from),
            Self::Number => text.parse::<u64>().ok().map(Value::from),
            Self::Size => size(text).map(Value::from),
            Self::Switch => match text {
                "on" | "true" => Some(true.into()),
                "off" | "false" => Some(false.into()),
                _ => None,
            },
            Self::SwitchOr(word) if text == word => Some(text.into()),
            Self::SwitchOr(_) => Self::Switch.read(text),
            Self::Numbers => {
                let list = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let items = list.unwrap_or(text).split(',').filter(|item| !item.is_empty());
                items.map(|item| item.parse::<u64>().ok().map(Value::from)).collect()
            }
            Self::Word(words) => {
                words.iter().find(|(word, _)| *word == text).map(|(_, name)| Value::from(*name))
            }
        }
    }

    fn expectation(self) -> String {
        match self {
            Self::Text => "must not be empty".to_owned(),
            Self::Number => "must be a whole number".to_owned(),
            Self::Size => "must be a number of bytes, such as 512M or 2G".to_owned(),
            Self::Switch => "must be on or off".to_owned(),
            Self::SwitchOr(word) => format!("must be on, off or {word}"),
            Self::Numbers => "must be a list of numbers, such as [0,2]".to_owned(),
            Self::Word(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("must be one of {}", words.join(", "))
            }
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let suffixes = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let (number, shift) = suffixes
        .iter()
        .find_map(|(suffix, shift)| text.strip_suffix(suffix).map(|number| (number, *shift)))
        .unwrap_or((text, 0));
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn unknown(name: &str, keys: &[Key]) -> String {
    let known: Vec<&str> = keys.iter().map(|key| key.0).collect();
    format!("unknown key {name:?}; there are {}", known.join(", "))
}

/// Splits at commas outside of quotes and brackets; takes the quotes off.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut depth) = (false, 0_u32);
    for symbol in text.chars() {
        match symbol {
            '"' => quoted = !quoted,
            ',' if !quoted && depth == 0 => parts.push(String::new()),
            _ => {
                if !quoted {
                    depth = nesting(symbol, depth).ok_or("a ] has no [")?;
                }
                if let Some(part) = parts.last_mut() {
                    part.push(symbol);
                }
            }
        }
    }
    if quoted || depth > 0 {
        return Err("a quote or bracket is not closed".to_owned());
    }
    Ok(parts)
}

fn nesting(symbol: char, depth: u32) -> Option<u32> {
    match symbol {
        '[' => depth.checked_add(1),
        ']' => depth.checked_sub(1),
        _ => Some(depth),
    }
}
