//! One client: bytes in, requests out; answers in, bytes out. Never waits.
//!
//! ```text
//!            request            answer             answer and close
//!  Reading ----------> Asked ------------> Reading     ...----> Ending -> closed
//!     |  path, method or body wrong: answered at once
//!     '-- not HTTP, too large: answered, then Discarding (bounded) -> closed
//! ```
//! One request is in flight at a time, so answers keep the order of pipelined
//! requests, and a client that sends without end only fills its own socket.

use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;

use micro_http::{ConnectionError, HttpConnection, HttpHeaderError, Method, RequestError, Version};

use super::answer::{After, CONTINUE, render};
use super::stream::Stream;
use crate::descriptors;
use crate::request::{Answer, Fault, Request, Status, code};
use crate::route;

/// Longest body, in bytes; a real one has a few hundred.
const MAX_BODY: usize = 128 << 10;

/// Longest request with its headers, in bytes.
const MAX_REQUEST: usize = MAX_BODY + (16 << 10);

/// What of a refused request is read and forgotten before we hang up, in bytes.
const MAX_DISCARD: usize = 16 << 20;

/// micro_http reads at most this much at a time, in bytes.
const CHUNK: usize = 1024;

/// Steps of one client before others have their turn.
const TURN: usize = 64;

/// What a connection needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// An event on its socket, or an answer.
    Wait,
    /// Another turn; there is more to do.
    Again,
    /// To be dropped.
    Close,
}

/// What is expected of the client.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Requests.
    Reading,
    /// Patience: its request is with the machine.
    Asked(After),
    /// Nothing; we close when all is written.
    Ending,
    /// The rest of a request that was refused half-way.
    Discarding(Discard),
}

/// How much is to be read and forgotten, in bytes.
#[derive(Debug, Clone, Copy)]
struct Discard {
    /// The client certainly sends that much more.
    expected: usize,
    seen: usize,
}

/// A request that cannot be read to its end.
struct Broken {
    fault: Fault,
    allow: Vec<Method>,
    expected: usize,
}

/// State of one client's connection.
pub(super) struct Connection {
    http: HttpConnection<Stream>,
    stream: Stream,
    state: State,
    broken: Option<Broken>,
    /// What to answer instead of asking the machine.
    refusal: Option<Fault>,
    /// The client sends no more; it may still listen.
    ended: bool,
    /// `stream.received()` when the last request was complete.
    counted: usize,
    out: Vec<u8>,
    written: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        let mut http = HttpConnection::new(stream.clone());
        http.set_payload_max_size(MAX_BODY);
        Self {
            http,
            stream,
            state: State::Reading,
            broken: None,
            refusal: None,
            ended: false,
            counted: 0,
            out: Vec::new(),
            written: 0,
        }
    }

    /// A connection whose first request is answered with `fault`.
    pub(super) fn refusing(stream: Stream, fault: Fault) -> Self {
        Self { refusal: Some(fault), ..Self::new(stream) }
    }

    /// Does what can be done without waiting; requests go to `ask`.
    pub(super) fn advance(&mut self, ask: &dyn Fn(Request)) -> Turn {
        (0..TURN).find_map(|_| self.step(ask)).unwrap_or(Turn::Again)
    }

    /// Takes the machine's answer to the request in flight.
    pub(super) fn answer(&mut self, answer: &Answer) {
        if let State::Asked(after) = self.state {
            self.say(answer, &[], after);
        }
    }

    /// Is there something the client has not been told yet?
    pub(super) fn has_unsent(&self) -> bool {
        self.written < self.out.len()
    }

    /// Sends the refusal now, request or not; the caller hangs up.
    pub(super) fn give_up(&mut self) {
        if let Some(fault) = self.refusal.take() {
            self.say(&Err(fault), &[], After::Close);
            self.flush();
        }
    }

    fn step(&mut self, ask: &dyn Fn(Request)) -> Option<Turn> {
        if let Some(turn) = self.flush() {
            return Some(turn);
        }
        match self.state {
            State::Reading => self.read(ask),
            State::Asked(_) => Some(Turn::Wait),
            State::Ending => Some(Turn::Close),
            State::Discarding(discard) => self.discard(discard),
        }
    }

    /// Writes what there is; says why if not all of it went out.
    fn flush(&mut self) -> Option<Turn> {
        while self.has_unsent() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Some(Turn::Close),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Turn::Wait),
                Err(_) => return Some(Turn::Close),
            }
        }
        self.out = Vec::new();
        self.written = 0;
        None
    }

    fn read(&mut self, ask: &dyn Fn(Request)) -> Option<Turn> {
        if let Some(request) = self.http.pop_parsed_request() {
            self.counted = self.stream.received();
            self.stream.make_room();
            self.take(request, ask);
            return None;
        }
        if let Some(broken) = self.broken.take() {
            self.refuse(&broken);
            return None;
        }
        if self.ended {
            return Some(Turn::Close);
        }
        self.receive()
    }

    fn receive(&mut self) -> Option<Turn> {
        let outcome = self.http.try_read();
        if self.http.pending_write() {
            // micro_http wants to say "100 Continue", in another server's name.
            self.http.clear_write_buffer();
            self.out.extend_from_slice(CONTINUE);
        }
        match outcome {
            Ok(()) if self.stream.received().wrapping_sub(self.counted) > MAX_REQUEST => {
                self.broken = self.broken.take().or_else(|| Some(too_large(0)));
            }
            Ok(()) => {}
            Err(ConnectionError::ConnectionClosed) => self.ended = true,
            Err(ConnectionError::ParseError(error)) => {
                self.broken = Some(self.stream.with_latest(|latest| diagnose(&error, latest)));
            }
            Err(ConnectionError::StreamReadError(error)) => match error.errno() {
                libc::EAGAIN => return Some(Turn::Wait),
                libc::EINTR => {}
                libc::ENOBUFS => self.broken = Some(too_many()),
                _ => return Some(Turn::Close),
            },
            Err(ConnectionError::InvalidWrite | ConnectionError::StreamWriteError(_)) => {
                return Some(Turn::Close);
            }
        }
        None
    }

    fn take(&mut self, mut request: micro_http::Request, ask: &dyn Fn(Request)) {
        if request.headers.chunked() {
            self.refuse(&bad_http("a chunked body is not supported; send Content-Length"));
            return;
        }
        if let Some(fault) = self.refusal.take() {
            self.say(&Err(fault), &[], After::Close);
            return;
        }
        let after = wishes(&request);
        let came = std::mem::take(&mut request.files).into_iter().map(OwnedFd::from).collect();
        let (method, path) = (request.method(), request.uri().get_abs_path());
        let body = request.body.as_ref().map(micro_http::Body::raw).unwrap_or_default();
        match route::parse(method, path, body).and_then(|request| route::hand(request, came)) {
            Ok(request) => {
                self.state = State::Asked(after);
                ask(request);
            }
            Err(fault) => self.say_no(fault, method, path, after),
        }
    }

    fn say_no(&mut self, fault: Fault, method: Method, path: &str, after: After) {
        let allow = match fault.status {
            Status::MethodNotAllowed => route::allowed(path),
            Status::BadRequest
            | Status::NotFound
            | Status::PayloadTooLarge
            | Status::Internal
            | Status::NotImplemented
            | Status::Busy => None,
        };
        if method == Method::Head {
            // An answer to HEAD has no body, whatever its Content-Length says.
            self.say(&Err(fault), allow.as_slice(), After::Close);
            let end = self.out.windows(4).position(|window| window == b"\r\n\r\n");
            self.out.truncate(end.map_or(0, |end| end + 4));
        } else {
            self.say(&Err(fault), allow.as_slice(), after);
        }
    }

    fn say(&mut self, answer: &Answer, allow: &[Method], after: After) {
        self.out.extend(render(answer, allow, after));
        self.state = match after {
            After::KeepAlive => State::Reading,
            After::Close => State::Ending,
        };
    }

    fn refuse(&mut self, broken: &Broken) {
        self.say(&Err(broken.fault.clone()), &broken.allow, After::Close);
        self.state = State::Discarding(Discard { expected: broken.expected, seen: 0 });
    }

    /// Closing with input unread would reset the client before it has our answer.
    fn discard(&mut self, discard: Discard) -> Option<Turn> {
        match self.stream.discard(MAX_DISCARD - discard.seen) {
            Ok(0) => return Some(Turn::Close),
            Ok(count) => {
                let seen = discard.seen + count;
                self.state = State::Discarding(Discard { seen, ..discard });
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && discard.seen < discard.expected =>
            {
                return Some(Turn::Wait);
            }
            Err(_) => return Some(Turn::Close),
        }
        None
    }
}

/// Does the client want to keep the connection?
fn wishes(request: &micro_http::Request) -> After {
    let says = |word: &str| {
        request
            .headers
            .custom_entries()
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .any(|(_, value)| value.split(',').any(|token| token.trim().eq_ignore_ascii_case(word)))
    };
    match request.http_version() {
        Version::Http11 if says("close") => After::Close,
        Version::Http10 if !says("keep-alive") => After::Close,
        Version::Http10 | Version::Http11 => After::KeepAlive,
    }
}

/// `latest` is what came last, with the mistake in it.
fn diagnose(error: &RequestError, latest: &[u8]) -> Broken {
    match error {
        RequestError::SizeLimitExceeded(_, size) => too_large(*size),
        RequestError::HeaderError(HttpHeaderError::SizeLimitExceeded(_)) => too_large(0),
        RequestError::InvalidHttpMethod(_) => Broken {
            fault: Fault::plain(
                Status::MethodNotAllowed,
                code::API_WRONG_METHOD,
                "unknown method; GET and PUT are the only ones",
            ),
            allow: allowed_instead(latest),
            expected: 0,
        },
        RequestError::BodyWithoutPendingRequest
        | RequestError::HeaderError(_)
        | RequestError::HeadersWithoutPendingRequest
        | RequestError::InvalidHttpVersion(_)
        | RequestError::InvalidRequest
        | RequestError::InvalidUri(_)
        | RequestError::Overflow
        | RequestError::Underflow => bad_http(&error.to_string()),
    }
}

/// What the path of the request line with an unknown method answers to; all that any path
/// does, if that line is not to be found whole.
fn allowed_instead(latest: &[u8]) -> Vec<Method> {
    let named = latest.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
        let (method, path, version) = (words.next()?, words.next()?, words.next()?);
        let line = Method::try_from(method).is_err() && version.starts_with(b"HTTP/");
        line.then(|| std::str::from_utf8(path).ok().and_then(route::allowed))?
    });
    named.map_or_else(|| vec![Method::Get, Method::Put], |method| vec![method])
}

/// `size` is that of the body, as far as it is known.
fn too_large(size: usize) -> Broken {
    Broken {
        fault: Fault::plain(
            Status::PayloadTooLarge,
            code::API_TOO_LARGE,
            format_args!("the request is too large; a body may have {MAX_BODY} bytes"),
        ),
        allow: Vec::new(),
        // Some of it may have come in the chunk that named the size.
        expected: size.saturating_sub(CHUNK),
    }
}

/// The kernel has closed descriptors that came, and what came with them is lost.
fn too_many() -> Broken {
    let why = format_args!(
        "more descriptors came with the request than the {} that it may have, or this process has none left",
        descriptors::MOST
    );
    let fault = Fault::plain(Status::BadRequest, code::API_BAD_DESCRIPTORS, why);
    Broken { fault, allow: Vec::new(), expected: 0 }
}

fn bad_http(why: &str) -> Broken {
    let mut fault = Fault::plain(Status::BadRequest, code::API_BAD_HTTP, "cannot read the request");
    fault.chain.push(why.to_owned());
    Broken { fault, allow: Vec::new(), expected: 0 }
}
