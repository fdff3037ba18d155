//! HTTP/1.1 over a Unix socket, by hand: a scene must also be able to send what no client would.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Doing, Error, Result, ensure};

/// An add of a device may fault in and pin gigabytes of cold RAM under emulation.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);

/// The API of one VMM.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body, empty if there was none.
    pub body: String,
}

impl Api {
    /// The API behind a socket, which need not exist yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /api/v1/{verb}`.
    pub fn get(&self, verb: &str) -> Result<Answer> {
        self.raw(format!("GET /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    /// `PUT /api/v1/{verb}` without a body.
    pub fn put(&self, verb: &str) -> Result<Answer> {
        self.put_text(verb, "")
    }

    /// `PUT /api/v1/{verb}` with a JSON body.
    pub fn put_json(&self, verb: &str, body: &Value) -> Result<Answer> {
        self.put_text(verb, &body.to_string())
    }

    /// `PUT /api/v1/{verb}` with any body.
    pub fn put_text(&self, verb: &str, body: &str) -> Result<Answer> {
        let length = match body.len() {
            0 => String::new(),
            n => format!("Content-Length: {n}\r\n"),
        };
        let head = format!("PUT /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n");
        self.raw(format!("{head}{body}").as_bytes())
    }

    /// A connection, to send on in pieces.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)
            .doing(format!("connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).doing("set a timeout")?;
        stream.set_write_timeout(Some(ANSWER_LIMIT)).doing("set a timeout")?;
        Ok(stream)
    }

    /// Sends bytes as they are, on a connection of their own. A server that answers before it has
    /// read everything and closes is in its right, so a broken pipe is not an error here.
    pub fn raw(&self, bytes: &[u8]) -> Result<Answer> {
        let mut stream = self.connect()?;
        let sent = stream.write_all(bytes);
        receive(&mut stream).or_else(|unanswered| sent.doing("send a request").and(Err(unanswered)))
    }
}

/// Reads one answer.
pub fn receive(stream: &mut UnixStream) -> Result<Answer> {
    let mut seen = Vec::new();
    let head = loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, &mut seen)?;
    };
    let (status, length) = parse_head(&String::from_utf8_lossy(&seen[..head]))?;
    while seen.len() < head + length {
        more(stream, &mut seen)?;
    }
    let body = String::from_utf8_lossy(&seen[head..head + length]).into_owned();
    Ok(Answer { status, body })
}

fn more(stream: &mut UnixStream, seen: &mut Vec<u8>) -> Result {
    let mut piece = [0; 4096];
    let count = stream.read(&mut piece).doing("read an answer")?;
    ensure(count > 0, || {
        format!("the connection was closed after {:?}", String::from_utf8_lossy(seen))
    })?;
    seen.extend_from_slice(&piece[..count]);
    Ok(())
}

/// Status and body length of an answer's head.
fn parse_head(head: &str) -> Result<(u16, usize)> {
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    let status = status.ok_or_else(|| Error::Unexpected(format!("no HTTP answer: {head:?}")))?;
    Ok((status, length))
}

impl Answer {
    /// The JSON of a success; null if there was no body.
    pub fn ok(self) -> Result<Value> {
        ensure(matches!(self.status, 200 | 204), || format!("{} {}", self.status, self.body))?;
        match self.body.as_str() {
            "" => Ok(Value::Null),
            text => serde_json::from_str(text)
                .map_err(|error| Error::Unexpected(format!("no JSON ({error}): {text}"))),
        }
    }

    /// Checks a failure: its status, and that it is a JSON array of sentences, the first of which
    /// begins with the machine code in brackets. An empty `code` takes any.
    pub fn fails(self, status: u16, code: &str) -> Result {
        let sentences: Vec<String> = serde_json::from_str(&self.body).unwrap_or_default();
        let first = sentences.first().map_or("", String::as_str);
        let expected = self.status == status && first.starts_with(&format!("[{code}"));
        ensure(expected, || {
            format!("expected {status} [{code}..., got {} {}", self.status, self.body)
        })
    }
}
