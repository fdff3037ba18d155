//! The server when the process has no file descriptor left, and what becomes
//! of descriptors that clients pass. The limit and the count are the whole
//! process's, so these scenes are one test and have this file to themselves.

#![expect(unsafe_code, reason = "limits are set by system call")]
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use api::descriptors::MOST;
use api::mailbox::mailbox;
use api::server::{Address, Server};
use micro_http::ScmSocket;

const PING: &str = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";

fn limit_descriptors(count: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a pointer to a local.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let before = std::mem::replace(&mut limit.rlim_cur, count);
    // SAFETY: a pointer to a local.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    before
}

fn open_descriptors() -> usize {
    Path::new("/proc/self/fd").read_dir().unwrap().count()
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn status(mut client: &UnixStream) -> String {
    let mut line = [0; 13];
    client.read_exact(&mut line).unwrap();
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

#[test]
fn descriptors_run_out_and_are_not_parked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let (server, stop) = Server::bind(&Address::Path(path.clone())).unwrap();
    let (sender, receiver) = mailbox().unwrap();
    // Nobody is the machine: whoever is served hears 503 from the mailbox, with another code.
    drop(receiver);

    // More clients than spare descriptors knock while not a single one is left.
    let clients: Vec<UnixStream> = (0..20).map(|_| connect(&path)).collect();
    for mut client in &clients {
        client.write_all(PING.as_bytes()).unwrap();
    }
    let fillers = std::iter::from_fn(|| File::open("/dev/null").ok());
    let before = limit_descriptors(256);
    let fillers: Vec<File> = fillers.collect();
    let http = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || server.run(&sender))
        .unwrap();
    for client in &clients {
        let mut text = String::new();
        { client }.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 \r\n"), "{text}");
        assert!(text.contains("[api.busy]"), "{text}");
    }

    // With descriptors to be had, all is as before.
    limit_descriptors(before);
    drop(fillers);
    drop(clients);
    let mut client = connect(&path);
    client.write_all(PING.as_bytes()).unwrap();
    assert_eq!(status(&client), "HTTP/1.1 503");

    // Those passed with a request are closed with it, if it has no use for them; of those passed
    // piece by piece, no more are kept than a request needs.
    let (half, count) = (b"GET /api/v1/vmm.ping HTTP/1.1\r\n".as_slice(), open_descriptors());
    let (fds, passing) = (vec![client.as_raw_fd(); 100], connect(&path));
    passing.send_with_fds(&[half], &fds[..5]).unwrap();
    for _ in 0..100 {
        passing.send_with_fds(&[b"a: b\r\n".as_slice()], &fds[..1]).unwrap();
        // Both ends of `passing` are there too.
        assert!(open_descriptors() <= count + 2 + MOST);
    }
    { &passing }.write_all(b"\r\n").unwrap();
    assert_eq!(status(&passing), "HTTP/1.1 400");
    assert!(open_descriptors() <= count + 2);

    // More at once than a request needs are not taken at all.
    let refused = connect(&path);
    refused.send_with_fds(&[half], &fds).unwrap();
    assert_eq!(status(&refused), "HTTP/1.1 400");
    assert!(open_descriptors() <= count + 4);

    stop.stop();
    http.join().unwrap();
}
