//! Runs in a guest: sends back over `AF_VSOCK` what comes.
//!
//! `echo connect PORT` connects to the host; `echo listen PORT` says `listens`, and takes one connection. Each ends when the
//! other side has closed, with `echoed N`, or with what went wrong.

use std::env;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use tests::sockets::{HOST, Listener, connection};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [how, port] = words[..] else { return ExitCode::FAILURE };
    let Ok(port) = port.parse() else { return ExitCode::FAILURE };
    let echoed = match how {
        "connect" => connection(HOST, port).and_then(echo),
        _ => listen(port).and_then(echo),
    };
    match echoed {
        Ok(count) => {
            println!("echoed {count}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(port: u32) -> io::Result<UnixStream> {
    let listener = Listener::new(Some(port))?;
    println!("listens");
    listener.accept()
}

fn echo(mut stream: UnixStream) -> io::Result<u64> {
    let (mut piece, mut count) = (vec![0; 64 << 10], 0);
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            stream.shutdown(Shutdown::Both)?;
            return Ok(count);
        }
        stream.write_all(&piece[..length])?;
        count += length as u64;
    }
}
