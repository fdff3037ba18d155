//! Answers as a strict client reads them (RFC 9112): whatever is not exactly what hotbay promises
//! in `docs/api.md` panics.

use api::request::code;
use serde_json::Value;

/// Status of the leave to send a body, which is no answer.
const CONTINUE: u16 = 100;

/// Statuses of all answers in `bytes`, in order. `closed`: the server has hung up after them, so
/// that the last one may be to HEAD, without the body that its length announces.
pub fn statuses(mut bytes: &[u8], closed: bool) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let (status, length) = one(bytes, closed);
        bytes = &bytes[length..];
        if status != CONTINUE {
            statuses.push(status);
        }
    }
    statuses
}

/// Status and length of the first answer.
fn one(bytes: &[u8], closed: bool) -> (u16, usize) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head ends");
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let status = status(lines.next().expect("there is a first line"));
    let headers: Vec<(&str, &str)> =
        lines.map(|line| line.split_once(": ").expect("a header has a name and a value")).collect();
    let value = |name: &str| {
        let mut found = headers.iter().filter(|(other, _)| *other == name);
        let first = found.next().map(|(_, value)| *value);
        assert!(found.next().is_none(), "{name} comes once");
        first
    };
    let rest = &bytes[end + 4..];
    let length = value("Content-Length").map_or(0, |n| n.parse().expect("a length is a number"));
    if status == CONTINUE {
        return (status, end + 4);
    }
    let connection = value("Connection").expect("it says what follows");
    assert!(matches!(connection, "keep-alive" | "close"), "{connection}");
    assert_eq!(status == 405, value("Allow").is_some(), "405 names the methods, and only 405");
    if rest.is_empty() && status >= 400 && closed && connection == "close" {
        // To HEAD.
        return (status, end + 4);
    }
    assert!(rest.len() >= length, "an answer is whole: {length} of {}", rest.len());
    body(status, &rest[..length]);
    (status, end + 4 + length)
}

fn status(line: &str) -> u16 {
    let code = line.strip_prefix("HTTP/1.1 ").expect("the version").strip_suffix(' ');
    code.expect("no reason").parse().expect("a number")
}

/// 204 has none, 200 has JSON, failures say why, all in ASCII.
fn body(status: u16, bytes: &[u8]) {
    assert!(bytes.is_ascii(), "a body is ASCII");
    if status == 204 {
        return assert!(bytes.is_empty(), "204 has no body");
    }
    let json: Value = serde_json::from_slice(bytes).expect("a body is JSON");
    if status == 200 {
        return;
    }
    let chain: Vec<String> =
        serde_json::from_value(json).expect("a failure is an array of strings");
    let first = chain.first().expect("a failure has a reason");
    let code = first.strip_prefix('[').and_then(|rest| rest.split_once(']')).expect("a code").0;
    assert!(code::ALL.iter().any(|(known, _)| *known == code), "{code} is documented");
}
