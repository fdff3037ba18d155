//! Runs in a guest: uses a disk or a network as fast as it can, and says how fast that was.
//!
//! `load disk read|write sequential|random DEVICE BLOCK DEPTH MILLISECONDS` keeps DEPTH requests of BLOCK bytes under way, past
//! the page cache. `load net send|receive|ask ADDRESS MILLISECONDS` talks to the server of `throughput`. Each prints
//! `did N in MICROSECONDS of ALL`, N bytes or, for `random` and `ask`, requests, which are counted after a moment of warming
//! up; ALL has those of that moment, too.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::O_DIRECT;

/// Not counted.
const WARMING_UP: Duration = Duration::from_millis(300);
/// What memory must be aligned to for transfers past the page cache.
const PAGE: usize = 4096;
/// Bytes of a write to a socket, and of a request and its answer.
const PIECE: usize = 64 << 10;
const REQUEST: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let measured = match words[..] {
        ["disk", what, order, device, block, depth, time] => number(time).and_then(|time| {
            let pattern = Pattern { writes: what == "write", random: order == "random" };
            measure(time, &disk(device, pattern, number(block)?, number(depth)?)?)
        }),
        ["net", what, address, time] => {
            number(time).and_then(|time| measure(time, &net(what, address)?))
        }
        _ => Err(io::Error::other("what is to be done?")),
    };
    match measured {
        Ok(Done { counted, time, all }) => {
            println!("did {counted} in {} of {all}", time.as_micros());
            // Threads that are still at it end with the process.
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number<T: TryFrom<u64>>(word: &str) -> io::Result<T> {
    let number = word.parse().ok().and_then(|number: u64| T::try_from(number).ok());
    number.ok_or_else(|| io::Error::other(format!("{word} is no number")))
}

/// Work that threads do, and how it goes.
struct Work {
    /// What they have done.
    count: Arc<AtomicU64>,
    /// Where one that has failed says why.
    failures: mpsc::Receiver<io::Error>,
}

/// What has been done.
struct Done {
    /// In `time`.
    counted: u64,
    time: Duration,
    /// From the beginning on.
    all: u64,
}

/// How much is done in a time, after a moment of warming up.
fn measure(milliseconds: u64, work: &Work) -> io::Result<Done> {
    let wait = |time| match work.failures.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("nobody works any more")),
        Ok(error) => Err(error),
    };
    wait(WARMING_UP)?;
    let (before, begun) = (work.count.load(Ordering::Relaxed), Instant::now());
    wait(Duration::from_millis(milliseconds))?;
    let all = work.count.load(Ordering::Relaxed);
    Ok(Done { counted: all - before, time: begun.elapsed(), all })
}

/// Starts `workers` threads that each do `work` for ever.
fn start(
    workers: usize,
    work: impl Fn(&AtomicU64) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Work> {
    let (count, work) = (Arc::new(AtomicU64::new(0)), Arc::new(work));
    let (sender, failures) = mpsc::channel();
    for _ in 0..workers {
        let (count, work, sender): (_, _, Sender<io::Error>) =
            (Arc::clone(&count), Arc::clone(&work), sender.clone());
        thread::Builder::new().spawn(move || {
            if let Err(error) = work(&count) {
                // Nobody listens when the time is over.
                let _ = sender.send(error);
            }
        })?;
    }
    Ok(Work { count, failures })
}

/// What is asked of a disk.
#[derive(Clone, Copy)]
struct Pattern {
    writes: bool,
    random: bool,
}

fn disk(device: &str, pattern: Pattern, block: usize, depth: usize) -> io::Result<Work> {
    let Pattern { writes, random } = pattern;
    let mut disk =
        OpenOptions::new().read(true).write(writes).custom_flags(O_DIRECT).open(device)?;
    let bytes = block as u64;
    let blocks = disk.seek(SeekFrom::End(0))?.checked_div(bytes).filter(|blocks| *blocks > 0);
    let blocks = blocks.ok_or_else(|| io::Error::other("the disk is too small"))?;
    let next = AtomicU64::new(0);
    let each = if random { 1 } else { bytes };
    start(depth, move |count| {
        let mut space = vec![0xa5; block + PAGE];
        let begin = space.as_ptr().align_offset(PAGE);
        let buffer = &mut space[begin..begin + block];
        loop {
            let place = match random {
                true => fastrand::u64(..blocks),
                false => next.fetch_add(1, Ordering::Relaxed) % blocks,
            };
            match writes {
                true => disk.write_all_at(buffer, place * bytes)?,
                false => disk.read_exact_at(buffer, place * bytes)?,
            }
            count.fetch_add(each, Ordering::Relaxed);
        }
    })
}

fn net(what: &str, address: &str) -> io::Result<Work> {
    let (what, address) = (what.to_owned(), address.to_owned());
    start(1, move |count| {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_nodelay(true)?;
        // The first byte says what is wanted.
        stream.write_all(what.as_bytes().get(..1).unwrap_or_default())?;
        let mut piece = vec![0; PIECE];
        loop {
            let done = match what.as_str() {
                "send" => stream.write(&piece)?,
                "receive" => stream.read(&mut piece)?,
                _ => {
                    stream.write_all(&piece[..REQUEST])?;
                    stream.read_exact(&mut piece[..REQUEST])?;
                    1
                }
            };
            if done == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            count.fetch_add(done as u64, Ordering::Relaxed);
        }
    })
}
