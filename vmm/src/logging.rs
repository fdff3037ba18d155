//! Where log lines go: standard error, or a file.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

/// A line each: seconds since the start, thread, level, text.
struct Lines {
    start: Instant,
    output: Mutex<Output>,
}

enum Output {
    Stderr,
    File(File),
}

impl Output {
    fn file(&self) -> Option<&File> {
        match self {
            Self::File(file) => Some(file),
            Self::Stderr => None,
        }
    }
}

/// Starts logging what is at least as important as `level`, to `file` or else
/// to standard error. Once a process. Returns the file, which stays open for good.
pub fn start(level: LevelFilter, file: Option<&Path>) -> io::Result<Option<RawFd>> {
    let output = match file {
        Some(path) => Output::File(File::options().create(true).append(true).open(path)?),
        None => Output::Stderr,
    };
    let file = output.file().map(AsRawFd::as_raw_fd);
    static LINES: OnceLock<Lines> = OnceLock::new();
    let lines = LINES.get_or_init(|| Lines { start: Instant::now(), output: Mutex::new(output) });
    if log::set_logger(lines).is_ok() {
        log::set_max_level(level);
    }
    Ok(file)
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let seconds = self.start.elapsed().as_secs_f64();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        let (level, text) = (record.level(), record.args());
        // In one piece, so that lines of several processes do not mix; `\r` for
        // a terminal that a serial port has put into raw mode.
        let line = |end| format!("hotbay: {seconds:.6} {name} {level}: {text}{end}");
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written cannot be complained about.
        let _ = match &mut *output {
            Output::Stderr => io::stderr().write_all(line("\r\n").as_bytes()),
            Output::File(file) => file.write_all(line("\n").as_bytes()),
        };
    }

    fn flush(&self) {}
}
