//! Terminals: raw mode that is always undone, pseudo-terminals, and a standard
//! output that does not block. The C library's calls are here and nowhere else.
#![expect(unsafe_code, reason = "termios and pseudo-terminals exist only in the C library")]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What standard input's terminal was like before the first [`RawMode`].
static BEFORE: OnceLock<libc::termios> = OnceLock::new();
/// Whether it is different now.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Standard input's terminal passes every key on, until this is dropped, the
/// process exits, or [`restore`] is called.
pub(super) struct RawMode(());

impl RawMode {
    /// Enters raw mode; `None` when standard input is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        let Ok(now) = attributes(stdin.as_fd()) else { return Ok(None) };
        let before = BEFORE.get_or_init(|| {
            // SAFETY: registers a function of the right type; it takes no arguments
            // and uses only statics.
            unsafe { libc::atexit(restore_at_exit) };
            now
        });
        // The guest's line endings are complete, ours (in the log) are not: keep
        // the terminal's own output processing.
        let raw = libc::termios { c_oflag: before.c_oflag, ..raw(before) };
        CHANGED.store(true, Ordering::SeqCst);
        set_attributes(stdin.as_raw_fd(), &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if raw mode is on. Safe to call in a
/// signal handler, and as often as one likes.
pub fn restore() {
    if CHANGED.swap(false, Ordering::SeqCst)
        && let Some(before) = BEFORE.get()
    {
        // Nobody is left to tell if this fails.
        let _ = set_attributes(libc::STDIN_FILENO, before);
    }
}

extern "C" fn restore_at_exit() {
    restore();
}

/// A pseudo-terminal in raw mode.
pub(super) struct Pty {
    /// Our end; does not block.
    pub(super) master: File,
    /// The other end, held open so that our end never sees a hang-up while
    /// nobody is connected.
    pub(super) slave: OwnedFd,
    /// What others open.
    pub(super) path: PathBuf,
}

impl Pty {
    /// Opens a new one.
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: takes flags only.
        let master = unsafe {
            libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC)
        };
        check(master)?;
        // SAFETY: just opened, and nobody else has it.
        let master = unsafe { OwnedFd::from_raw_fd(master) };
        // SAFETY: the descriptor is open; takes no memory.
        check(unsafe { libc::grantpt(master.as_raw_fd()) })?;
        // SAFETY: as above.
        check(unsafe { libc::unlockpt(master.as_raw_fd()) })?;
        let path = slave_path(master.as_fd())?;
        let slave =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path)?;
        set_attributes(slave.as_raw_fd(), &raw(&attributes(slave.as_fd())?))?;
        Ok(Self { master: File::from(master), slave: slave.into(), path })
    }
}

/// A second handle on standard output that does not block. A terminal or pipe
/// is opened anew, because the flag of the one we were given is shared with
/// whoever started us; where that is not possible, writes may block.
pub(super) fn stdout() -> io::Result<File> {
    let ours = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let kind = ours.metadata()?.file_type();
    if !(kind.is_fifo() || kind.is_char_device()) {
        return Ok(ours);
    }
    let anew = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open("/proc/self/fd/1");
    Ok(anew.unwrap_or(ours))
}

fn slave_path(master: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let mut name: [c_char; 64] = [0; 64];
    // SAFETY: the buffer is ours and its length is passed along.
    let error = unsafe { libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the call succeeded, so the buffer holds a terminated string.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

fn attributes(terminal: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: the kernel fills the structure, which is ours.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), attributes.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it is filled.
    Ok(unsafe { attributes.assume_init() })
}

fn set_attributes(terminal: RawFd, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: the structure is only read; a wrong descriptor is an error code.
    check(unsafe { libc::tcsetattr(terminal, libc::TCSANOW, attributes) })
}

/// The same, without echo, editing, signals or translation.
fn raw(attributes: &libc::termios) -> libc::termios {
    let mut raw = *attributes;
    // SAFETY: changes fields of a structure that is ours.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    raw
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
