//! A server on a real socket, with the test in the machine's place.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use api::mailbox::{Call, Receiver, Sender, mailbox};
use api::request::{Request, Response};
use api::server::{Address, Server, Stop};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Nothing here takes long; whoever waits longer has been forgotten.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; the test answers what arrives at `receiver`.
pub struct Scene {
    pub receiver: Receiver,
    epoll: Epoll,
    pub stop: Option<Stop>,
    http: Option<JoinHandle<()>>,
    pub address: Address,
    pub directory: tempfile::TempDir,
}

pub fn serve(server: Server, machine: Sender) -> JoinHandle<()> {
    std::thread::Builder::new().name("http".to_owned()).spawn(move || server.run(&machine)).unwrap()
}

impl Scene {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Path(directory.path().join("api.sock"));
        let (server, stop) = Server::bind(&address).unwrap();
        let (sender, receiver) = mailbox().unwrap();
        let epoll = Epoll::new().unwrap();
        let readable = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, receiver.as_raw_fd(), readable).unwrap();
        let http = Some(serve(server, sender));
        Self { receiver, epoll, stop: Some(stop), http, address, directory }
    }

    pub fn connect(&self) -> Raw {
        Raw::connect(&self.directory.path().join("api.sock"))
    }

    /// The next request that reached the machine.
    pub fn call(&self) -> Call {
        loop {
            if let Some(call) = self.receiver.next() {
                return call;
            }
            let patience = i32::try_from(PATIENCE.as_millis()).unwrap();
            let ready = self.epoll.wait(patience, &mut [EpollEvent::default()]).unwrap();
            assert_eq!(ready, 1, "no request reached the machine");
        }
    }

    /// Answers the next request, which must be `expected`.
    pub fn answer(&self, expected: &Request, response: Response) {
        let call = self.call();
        assert_eq!(&call.request, expected);
        call.reply.send(Ok(response));
    }

    pub fn stop(&mut self) {
        self.stop.as_ref().unwrap().stop();
        self.http.take().unwrap().join().unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if self.http.is_some() {
            self.stop();
        }
    }
}

/// Makes a descriptor of ours look as if whoever started us had passed it on.
#[expect(unsafe_code, reason = "a flag of a descriptor is set by system call")]
pub fn pass_on(fd: &impl AsRawFd) -> RawFd {
    // SAFETY: sets a flag; no memory is involved.
    assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    fd.as_raw_fd()
}

/// A client by hand.
pub struct Raw(pub UnixStream);

/// One answer, taken apart.
#[derive(Debug)]
pub struct Page {
    pub head: String,
    pub body: String,
}

impl Page {
    pub fn is(&self, status: u16) -> bool {
        self.head.starts_with(&format!("HTTP/1.1 {status} \r\n"))
    }
}

impl Raw {
    pub fn connect(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    pub fn get(&mut self, verb: &str) {
        self.send(&format!("GET /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    pub fn put(&mut self, verb: &str, body: &str) {
        let length = body.len();
        self.send(&format!(
            "PUT /api/v1/{verb} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }

    pub fn page(&mut self) -> Page {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Page { head, body: String::from_utf8(body).unwrap() }
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

pub fn counters(entries: usize) -> Response {
    let per_device = (0..entries).map(|number| (format!("counter-{number:06}"), 1 << 60)).collect();
    Response::Counters([("nic0".to_owned(), per_device)].into())
}
