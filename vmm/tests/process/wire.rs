//! ch-remote's way to write a request and to read an answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use vmm_sys_util::ioctl::ioctl_with_mut_ref;

/// Nothing here takes long; whoever waits longer has been forgotten.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a request is written.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// In one piece.
    Whole,
    /// In up to four, each when the server has taken the one before.
    Pieces,
}

/// What ch-remote makes of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Without its end of line.
    pub status_line: String,
    /// What `Content-Length` announces; absent without that header.
    pub body: Option<String>,
}

/// Sends a request (`PUT vm.boot`) on a connection of its own, as ch-remote does, and reads
/// the answer.
pub fn ask(socket: &Path, request: &str, body: Option<&str>, manner: Manner) -> Answer {
    read(&mut send(socket, request, body, manner))
}

/// Sends it only.
pub fn send(socket: &Path, request: &str, body: Option<&str>, manner: Manner) -> UnixStream {
    let (method, verb) = request.split_once(' ').unwrap();
    let mut pieces =
        vec![format!("{method} /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n")];
    pieces.extend(body.map(|body| format!("Content-Length: {}\r\n", body.len())));
    pieces.push("\r\n".to_owned());
    pieces.extend(body.map(str::to_owned));

    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match manner {
        Manner::Whole => stream.write_all(pieces.concat().as_bytes()).unwrap(),
        Manner::Pieces => {
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                await_taken(&stream);
            }
        }
    }
    stream
}

/// Waits until the server has taken all that was written: the next piece comes alone.
#[expect(unsafe_code, reason = "asks a socket how much of what it was given is left")]
fn await_taken(stream: &UnixStream) {
    let asked = Instant::now();
    loop {
        let mut left: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (the same as TIOCOUTQ) writes one int.
        let done = unsafe { ioctl_with_mut_ref(stream, libc::TIOCOUTQ, &mut left) };
        assert_eq!(done, 0);
        if left == 0 {
            return;
        }
        assert!(asked.elapsed() < PATIENCE, "the server does not read");
        std::thread::yield_now();
    }
}

/// Reads 256 bytes at a time, each of which must be text, until the headers end or the
/// body is as long as they say.
pub fn read(stream: &mut UnixStream) -> Answer {
    let mut text = String::new();
    loop {
        let mut piece = [0; 256];
        let count = stream.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the server hung up after {text:?}");
        let piece = str::from_utf8(&piece[..count]).unwrap();
        assert!(piece.is_ascii(), "{piece:?}");
        text.push_str(piece);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
        let Some(length) = length.map(|length| length.parse::<usize>().unwrap()) else {
            assert_eq!(body, "");
            return Answer { status_line, body: None };
        };
        if body.len() >= length {
            assert_eq!(body.len(), length, "{text:?}");
            return Answer { status_line, body: Some(body.to_owned()) };
        }
    }
}
