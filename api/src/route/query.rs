//! Parameters in a path: `?id=nic0` (RFC 3986, section 3.4). A parameter that a
//! verb does not take is refused by name, like a field of a body.

use std::collections::BTreeMap;

/// Parameters by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// What follows the `?` of `path`, if it consists of `known` parameters.
    ///
    /// # Errors
    /// One sentence about the first that is wrong.
    pub(super) fn parse(path: &str, known: &[&str]) -> Result<Self, String> {
        let mut found = BTreeMap::new();
        let text = path.split_once('?').map_or("", |(_, text)| text);
        for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) {
                return Err(unknown(&name, known));
            }
            if found.insert(name.clone(), value).is_some() {
                return Err(format!("duplicate parameter `{name}`"));
            }
        }
        Ok(Self(found))
    }

    /// The value of a parameter.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The value of a parameter that is a whole number, as large as JSON's clients have them (`int64`).
    ///
    /// # Errors
    /// One sentence, if it is something else.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let number = |text: String| match text.parse::<i64>().map(u64::try_from) {
            // A sign is no digit.
            Ok(Ok(number)) if text.bytes().all(|digit| digit.is_ascii_digit()) => Ok(number),
            Ok(_) | Err(_) => {
                Err(format!("`{name}` is {text:?}, and no whole number up to {}", i64::MAX))
            }
        };
        self.take(name).map(number).transpose()
    }
}

/// Parameters as they stand in a path, question mark included; nothing if there are none.
pub(super) fn write(parameters: &[(&str, String)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    match pairs.collect::<Vec<_>>() {
        pairs if pairs.is_empty() => String::new(),
        pairs => format!("?{}", pairs.join("&")),
    }
}

/// Puts `%41` for what is not a plain letter, digit or mark.
fn encode(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                text.push(byte.into());
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

fn unknown(name: &str, known: &[&str]) -> String {
    match known {
        [] => format!("unknown parameter `{name}`, there are none"),
        _ => format!("unknown parameter `{name}`, expected `{}`", known.join("`, `")),
    }
}

/// Takes `%41` for `A`.
fn decode(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is not percent-encoded UTF-8");
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|two| two.bytes().all(|d| d.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(bad)?;
        bytes.push(byte);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Option<String>, String> {
        Query::parse(path, &["id", "all"]).map(|mut query| query.take("id"))
    }

    #[test]
    fn parameters_are_found_by_name() {
        assert_eq!(parse("/x"), Ok(None));
        assert_eq!(parse("/x?"), Ok(None));
        assert_eq!(parse("/x?all=1&id=nic0&"), Ok(Some("nic0".to_owned())));
        assert_eq!(parse("/x?id"), Ok(Some(String::new())));
        assert_eq!(parse("/x?id=a=b?c"), Ok(Some("a=b?c".to_owned())));
    }

    #[test]
    fn any_value_survives_the_way_out_and_in() {
        for value in ["nic0", "0000:01:00.0", "a b&c=d%/?+#", "N\u{fc}rnberg \u{1f4a9}", ""] {
            let written = write(&[("all", "1".to_owned()), ("id", value.to_owned())]);
            assert_eq!(parse(&format!("/x{written}")), Ok(Some(value.to_owned())));
        }
    }

    #[test]
    fn numbers_are_digits_and_fit() {
        let number =
            |text: &str| Query::parse(&format!("/x?id={text}"), &["id"]).unwrap().number("id");

        assert_eq!(number("009223372036854775807"), Ok(Some(i64::MAX as u64)));
        for wrong in ["", "-1", "%2B1", "1.5", "0x1", "9223372036854775808", "one"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Query::default().number("id"), Ok(None));
    }

    #[test]
    fn unknown_parameter_is_refused_by_name() {
        let none = Query::parse("/x?y=1", &[]).unwrap_err();
        let others = Query::parse("/x?%79=1", &["id", "all"]).unwrap_err();

        assert_eq!(none, "unknown parameter `y`, there are none");
        assert_eq!(others, "unknown parameter `y`, expected `id`, `all`");
    }

    #[test]
    fn same_parameter_twice_is_refused() {
        assert_eq!(parse("/x?id=a&id=b"), Err("duplicate parameter `id`".to_owned()));
    }

    #[test]
    fn broken_encodings_are_refused() {
        for text in ["%", "%4", "%4g", "%+1", "%ff", "%\u{e9}"] {
            assert!(parse(&format!("/x?id={text}")).is_err(), "{text}");
        }
    }
}
