//! From an [`Answer`] to the bytes a client reads.
//!
//! ch-remote is the strictest reader: no reason phrase in the status line, the
//! header spelled `Content-Length: N`, a body in one piece, errors as an array
//! of strings, and ASCII only, because it decodes 256 bytes at a time.

use std::io::{self, Write};

use micro_http::{Body, MediaType, Method, Response as Page, StatusCode, Version};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::request::{Answer, Fault, Response, Status};

/// Name we give in every answer.
const SERVER: &str = "hotbay";

/// Leave to send a body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 \r\n\r\n";

/// What follows an answer on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request.
    KeepAlive,
    /// Nothing: the server closes.
    Close,
}

/// An answer as bytes. `allow` are the methods that a 405 recommends.
pub(super) fn render(answer: &Answer, allow: &[Method], after: After) -> Vec<u8> {
    let (status, body) = match answer {
        Ok(response) => match content(response) {
            Some(body) => (StatusCode::OK, Some(body)),
            None => (StatusCode::NoContent, None),
        },
        Err(fault) => (status_code(fault.status), Some(explanation(fault))),
    };
    let mut page = Page::new(Version::Http11, status);
    page.set_server(SERVER);
    page.set_content_type(MediaType::ApplicationJson);
    page.set_allow(allow.to_vec());
    if let Some(body) = body {
        page.set_body(Body::new(body));
    }
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = page.write_all(&mut bytes);
    match after {
        After::KeepAlive => bytes,
        After::Close => announce_close(bytes),
    }
}

/// micro_http always promises to keep the connection; takes the promise back.
fn announce_close(mut bytes: Vec<u8>) -> Vec<u8> {
    const PROMISE: &[u8] = b"Connection: keep-alive\r\n";
    // The first occurrence is the header: only our own words come before it.
    if let Some(at) = bytes.windows(PROMISE.len()).position(|window| window == PROMISE) {
        bytes.splice(at..at + PROMISE.len(), *b"Connection: close\r\n");
    }
    bytes
}

fn content(response: &Response) -> Option<Vec<u8>> {
    match response {
        Response::Ping(body) => Some(ascii_json(body)),
        Response::Info(body) => Some(ascii_json(body)),
        Response::Added(body) => Some(ascii_json(body)),
        Response::Counters(body) => Some(ascii_json(body)),
        Response::Events(body) => Some(ascii_json(body)),
        Response::Interrupts(body) => Some(ascii_json(body)),
        Response::Done => None,
    }
}

/// The array of strings; its first begins with the code.
fn explanation(fault: &Fault) -> Vec<u8> {
    let mut strings = fault.chain.clone();
    match strings.first_mut() {
        Some(first) => first.insert_str(0, &format!("[{}] ", fault.code)),
        None => strings.push(format!("[{}]", fault.code)),
    }
    ascii_json(&strings)
}

fn status_code(status: Status) -> StatusCode {
    match status {
        Status::BadRequest => StatusCode::BadRequest,
        Status::NotFound => StatusCode::NotFound,
        Status::MethodNotAllowed => StatusCode::MethodNotAllowed,
        Status::PayloadTooLarge => StatusCode::PayloadTooLarge,
        Status::Internal => StatusCode::InternalServerError,
        Status::NotImplemented => StatusCode::NotImplemented,
        Status::Busy => StatusCode::ServiceUnavailable,
    }
}

fn ascii_json(body: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    match body.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii)) {
        Ok(()) => bytes,
        // Only a path that is not UTF-8 gets here, and such came in as JSON.
        Err(error) => format!("{:?}", [error.to_string()]).into_bytes(),
    }
}

/// Compact JSON with everything beyond ASCII escaped.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        sink: &mut W,
        text: &str,
    ) -> io::Result<()> {
        for symbol in text.chars() {
            if symbol.is_ascii() {
                write!(sink, "{symbol}")?;
                continue;
            }
            for unit in symbol.encode_utf16(&mut [0; 2]) {
                write!(sink, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::code;
    use crate::schema::device::PciDeviceInfo;

    fn text(answer: &Answer, allow: &[Method], after: After) -> String {
        String::from_utf8(render(answer, allow, after)).unwrap()
    }

    #[test]
    fn empty_success_is_204_without_reason_phrase_or_length() {
        assert_eq!(
            text(&Ok(Response::Done), &[], After::KeepAlive),
            "HTTP/1.1 204 \r\nServer: hotbay\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn success_with_a_body_is_200_and_json() {
        let info = PciDeviceInfo { id: "nic0".to_owned(), bdf: "0000:00:03.0".to_owned() };

        let text = text(&Ok(Response::Added(info)), &[], After::KeepAlive);

        assert_eq!(
            text,
            "HTTP/1.1 200 \r\nServer: hotbay\r\nConnection: keep-alive\r\n\
             Content-Type: application/json\r\nContent-Length: 34\r\n\r\n\
             {\"id\":\"nic0\",\"bdf\":\"0000:00:03.0\"}"
        );
    }

    #[test]
    fn failure_is_an_array_of_strings_that_begins_with_the_code() {
        let mut fault =
            Fault::plain(Status::NotFound, code::DEVICE_NOT_FOUND, "cannot remove \u{1f525}é");
        fault.chain.push("there is no such device".to_owned());

        let text = text(&Err(fault), &[], After::KeepAlive);

        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(text.starts_with("HTTP/1.1 404 \r\n"), "{text}");
        assert_eq!(
            body,
            r#"["[device.not-found] cannot remove \ud83d\udd25\u00e9","there is no such device"]"#
        );
    }

    #[test]
    fn refusal_of_a_method_says_which_is_allowed_and_that_we_close() {
        let fault = Fault::plain(Status::MethodNotAllowed, code::API_WRONG_METHOD, "no");

        let text = text(&Err(fault), &[Method::Get, Method::Put], After::Close);

        assert!(text.contains("\r\nAllow: GET, PUT\r\n"), "{text}");
        assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
        assert!(!text.contains("keep-alive"), "{text}");
    }
}
