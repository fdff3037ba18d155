//! HTTP bytes in pieces, through the server's connection code and a real socket.
//!
//! Input: one byte that says how the rest, the client's bytes, is cut. Held to: answers are
//! well-formed and documented; one request is in flight at a time; each is answered once and in
//! order; a request survives being written and read again; the cuts change nothing; and a client
//! that has sent everything is let go in the end.

#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use api::request::{Answer, Fault, Request, Response, Status, code};
use api::route;
use api::schema::device::PciDeviceInfo;
use api::server::Lone;
use fuzz::page;
use libfuzzer_sys::fuzz_target;

/// Each piece costs system calls, and few are enough to cut anywhere.
const MOST_PIECES: usize = 8;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let whole = Talk::hold([bytes]);
    let cut = (usize::from(cut) + 1).max(bytes.len() / MOST_PIECES + 1);
    let pieces = Talk::hold(bytes.chunks(cut));
    assert_eq!(whole.asked, pieces.asked, "requests depend on the cuts ({cut})");
    assert_eq!(whole.statuses, pieces.statuses, "answers depend on the cuts ({cut})");
});

/// One client's time with the server.
#[derive(Default)]
struct Talk {
    asked: Vec<Request>,
    heard: Vec<u8>,
    statuses: Vec<u16>,
}

impl Talk {
    fn hold<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut client, socket) = UnixStream::pair().expect("a pair of sockets");
        client.set_nonblocking(true).expect("a socket that does not block");
        let mut server = Lone::new(socket).expect("a socket that does not block");
        let mut talk = Self::default();
        for piece in pieces {
            // A server that has hung up has said why.
            let sent = client.write(piece);
            assert!(sent.map_or(true, |count| count == piece.len()), "an input fits the socket");
            talk.serve(&mut server, &mut client);
        }
        client.shutdown(Shutdown::Write).expect("the end of what the client sends");
        talk.serve(&mut server, &mut client);
        assert!(!server.is_open(), "nothing is left to wait for");
        talk.statuses = page::statuses(&talk.heard, true);
        let answered = talk.statuses.len();
        assert!(answered >= talk.asked.len(), "{answered} answers to {:?}", talk.asked);
        talk
    }

    /// Until the server waits for the client.
    fn serve(&mut self, server: &mut Lone, client: &mut UnixStream) {
        loop {
            let asked = server.advance();
            match &asked[..] {
                [] => return self.hear(client),
                [request] => {
                    assert!(server.advance().is_empty(), "one request is in flight at a time");
                    assert_survives(request);
                    server.answer(&answer(request));
                }
                more => panic!("asked at once: {more:?}"),
            }
            self.asked.extend(asked);
        }
    }

    fn hear(&mut self, client: &mut UnixStream) {
        match client.read_to_end(&mut self.heard) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the server broke the connection: {error}"),
        }
    }
}

/// A request means the same after it has been written and read again.
fn assert_survives(request: &Request) {
    let wire = route::write(request).expect("what came as JSON can be JSON");
    let body = wire.body.as_deref().unwrap_or_default();
    let again = route::parse(wire.method, &wire.path, body.as_bytes());
    assert_eq!(again.as_ref(), Ok(request), "{wire:?}");
}

/// Some answer of the kind that the machine gives.
fn answer(request: &Request) -> Answer {
    match request {
        Request::AddDevice(device) => Ok(Response::Added(PciDeviceInfo {
            id: device.id.clone().unwrap_or_default(),
            bdf: "0000:00:01.0".to_owned(),
        })),
        Request::AddDisk(disk) => Ok(Response::Added(PciDeviceInfo {
            id: disk.id.clone().unwrap_or_default(),
            bdf: "0000:00:02.0".to_owned(),
        })),
        Request::AddNet(net) => Ok(Response::Added(PciDeviceInfo {
            id: net.id.clone().unwrap_or_default(),
            bdf: "0000:00:03.0".to_owned(),
        })),
        Request::AddVsock(vsock) => Ok(Response::Added(PciDeviceInfo {
            id: vsock.id.clone().unwrap_or_default(),
            bdf: "0000:00:04.0".to_owned(),
        })),
        Request::AddUserDevice(device) => Ok(Response::Added(PciDeviceInfo {
            id: device.id.clone().unwrap_or_default(),
            bdf: "0000:00:04.0".to_owned(),
        })),
        Request::RemoveDevice(device) => Err(Fault::plain(
            Status::NotFound,
            code::DEVICE_NOT_FOUND,
            format_args!("there is no device {}", device.id),
        )),
        Request::Counters => Ok(Response::Counters([("nic0".to_owned(), [].into())].into())),
        _ => Ok(Response::Done),
    }
}
