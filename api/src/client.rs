//! A blocking client: one connection a request, like ch-remote.
//!
//! What it sends, Cloud Hypervisor understands too; of an answer it wants no
//! more than HTTP/1.1 with a Content-Length.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use micro_http::ScmSocket;
use serde::de::DeserializeOwned;

use crate::request::{Request, Response};
use crate::route::{self, Wire};

/// Largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// The API behind one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Option<Duration>,
}

/// Why there is no answer, or which one there is.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to {}", .socket.display())]
    Connect {
        /// The API socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or the patience ended.
    #[error("the connection to {} broke", .socket.display())]
    Broken {
        /// The API socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The request cannot be JSON.
    #[error("the request cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    /// The answer is not what this client can read.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    /// The server said no.
    #[error("{0}")]
    Refused(Refusal),
}

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} [{code}] {}", .chain.join(": "))]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// hotbay's stable code; empty if the server gave none.
    pub code: String,
    /// Why, from what was asked to the root cause.
    pub chain: Vec<String>,
}

impl Client {
    /// A client of the server at `socket`, which need not be there yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), patience: None }
    }

    /// Gives up on an answer that pauses longer than this.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// Where the server listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] is the server's; the others are the connection's.
    pub fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        let wire = route::write(request).map_err(ClientError::Unwritable)?;
        let Some(body) = self.send(&wire)? else { return Ok(Response::Done) };
        match request {
            Request::Ping => read(&body).map(Response::Ping),
            Request::Info => read(&body).map(Box::new).map(Response::Info),
            Request::AddDevice(_)
            | Request::AddDisk(_)
            | Request::AddNet(_)
            | Request::AddVsock(_)
            | Request::AddUserDevice(_) => read(&body).map(Response::Added),
            Request::Counters => read(&body).map(Response::Counters),
            Request::Events(_) => read(&body).map(Response::Events),
            Request::Interrupts(_) => read(&body).map(Response::Interrupts),
            Request::VmmShutdown
            | Request::Create(_)
            | Request::Boot
            | Request::CheckDevice(_)
            | Request::RemoveDevice(_)
            | Request::TestInterrupt(_)
            | Request::Shutdown
            | Request::Reboot
            | Request::Pause
            | Request::Resize(_)
            | Request::Resume
            | Request::Nmi
            | Request::PowerButton
            | Request::Delete => Err(ClientError::Nonsense(format!("unexpected body {body:?}"))),
        }
    }

    /// Sends a request as it is, and returns the body of a success, if any.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn send(&self, wire: &Wire) -> Result<Option<String>, ClientError> {
        let mut stream = self.connect()?;
        let sent = write(&mut stream, wire);
        let broken = |source| ClientError::Broken { socket: self.socket.clone(), source };
        // A server may answer and close before it has read everything.
        let page = match Page::receive(&mut stream) {
            Ok(page) => page,
            Err(unanswered) => return Err(broken(sent.err().unwrap_or(unanswered))),
        };
        let body = String::from_utf8(page.body)
            .map_err(|_| ClientError::Nonsense("its body is not UTF-8".to_owned()))?;
        match page.status {
            200..300 => Ok(Some(body).filter(|body| !body.is_empty())),
            status => Err(ClientError::Refused(refusal(status, body))),
        }
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let failed = |source| ClientError::Connect { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).map_err(failed)?;
        stream.set_read_timeout(self.patience).map_err(failed)?;
        stream.set_write_timeout(self.patience).map_err(failed)?;
        Ok(stream)
    }
}

/// Descriptors go with the first bytes, as ch-remote's do.
fn write(stream: &mut UnixStream, wire: &Wire) -> io::Result<()> {
    let bytes = wire_bytes(wire);
    let mut rest = bytes.as_bytes();
    if let Some(handed) = &wire.handed {
        let sent = stream.send_with_fds(&[rest], &handed.numbers());
        rest = &rest[sent.map_err(io::Error::from)?..];
    }
    stream.write_all(rest)
}

/// Head and body in one piece.
fn wire_bytes(wire: &Wire) -> String {
    let Wire { method, path, body, handed: _ } = wire;
    let head = format!("{} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n", method.to_str());
    match body {
        Some(body) => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        None => format!("{head}\r\n"),
    }
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T, ClientError> {
    serde_json::from_str(body)
        .map_err(|error| ClientError::Nonsense(format!("{error} in {body:?}")))
}

/// Takes an error body apart: an array of strings, the first with the code.
fn refusal(status: u16, body: String) -> Refusal {
    let mut chain: Vec<String> = serde_json::from_str(&body).unwrap_or_else(|_| vec![body]);
    let split = chain.first().and_then(|first| first.strip_prefix('[')?.split_once("] "));
    let Some((code, rest)) = split.map(|(code, rest)| (code.to_owned(), rest.to_owned())) else {
        return Refusal { status, code: String::new(), chain };
    };
    if let Some(first) = chain.first_mut() {
        *first = rest;
    }
    Refusal { status, code, chain }
}

/// One answer.
struct Page {
    status: u16,
    body: Vec<u8>,
}

impl Page {
    fn receive(stream: &mut impl Read) -> io::Result<Self> {
        let mut seen = Vec::new();
        loop {
            let head = head(stream, &mut seen)?;
            let (status, length) = take_apart(&head)?;
            // "100 Continue" and its kin come before the answer.
            if (100..200).contains(&status) {
                continue;
            }
            if length > MAX_ANSWER {
                return Err(invalid(format!("an answer of {length} bytes")));
            }
            while seen.len() < length {
                more(stream, &mut seen)?;
            }
            seen.truncate(length);
            return Ok(Self { status, body: seen });
        }
    }
}

/// Takes one head out of what has been seen.
fn head(stream: &mut impl Read, seen: &mut Vec<u8>) -> io::Result<String> {
    const END: &[u8] = b"\r\n\r\n";
    loop {
        if let Some(at) = seen.windows(END.len()).position(|window| window == END) {
            let rest = seen.split_off(at + END.len());
            let head = std::mem::replace(seen, rest);
            return Ok(String::from_utf8_lossy(&head).into_owned());
        }
        if seen.len() > MAX_HEAD {
            return Err(invalid("an endless head".to_owned()));
        }
        more(stream, seen)?;
    }
}

/// Status and length of the body.
fn take_apart(head: &str) -> io::Result<(u16, usize)> {
    let bad = || invalid(format!("no HTTP answer: {head:?}"));
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Some(0), |(_, value)| value.trim().parse().ok());
    status.zip(length).ok_or_else(bad)
}

fn more(stream: &mut impl Read, seen: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            seen.extend_from_slice(&piece[..count]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_cloud_hypervisor_and_in_pieces_are_read() {
        let text = b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:  2\r\n\r\n{}next";

        let page = Page::receive(&mut OneByOne(text)).unwrap();

        assert_eq!((page.status, page.body.as_slice()), (200, b"{}".as_slice()));
    }

    #[test]
    fn answer_that_is_cut_off_is_an_error() {
        let text: &[u8] = b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nabc";

        let error = Page::receive(&mut OneByOne(text)).err().unwrap();

        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn refusal_is_taken_apart() {
        let body = r#"["[device.not-bound] cannot add device nic0","it is bound to igb"]"#;

        let refusal = refusal(400, body.to_owned());

        assert_eq!(refusal.code, "device.not-bound");
        assert_eq!(refusal.chain, ["cannot add device nic0", "it is bound to igb"]);
    }

    #[test]
    fn refusal_of_another_server_keeps_its_words() {
        assert_eq!(refusal(500, "oh no".to_owned()).chain, ["oh no"]);
        assert_eq!(refusal(500, r#"["Error from API"]"#.to_owned()).chain, ["Error from API"]);
    }

    struct OneByOne(&'static [u8]);

    impl Read for OneByOne {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(1);
            (&mut self.0).read(&mut buffer[..length])
        }
    }
}
