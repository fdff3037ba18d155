//! What happens when a thread makes a call that is not on its list: the kernel
//! sends it SIGSYS, and the handler says which call it was, puts the terminal
//! back and ends the process. Everything here is async-signal-safe: no
//! allocation, no lock.
#![expect(unsafe_code, reason = "a signal handler and the registers it is given")]

use std::fmt::{self, Write};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use devices::console::restore_terminal;
use libc::{REG_R8, REG_R9, REG_R10, REG_RDI, REG_RDX, REG_RSI, c_int, c_uint, c_void};
use vmm_sys_util::signal::register_signal_handler;

use super::{ioctls, names};

/// How a shell shows a process that SIGSYS ended; without a core dump, which
/// would hold the guest's memory.
const EXIT_CODE: c_int = 128 + libc::SIGSYS;
/// `si_code` of a signal that came from a filter.
const FROM_FILTER: c_int = 1;
/// Where the registers keep the arguments of a call, in order.
const ARGUMENTS: [c_int; 6] = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
/// Bytes of a thread's name, terminator included.
const NAME: usize = 16;
const NONE: RawFd = -1;

static SECOND_REPORT: AtomicI32 = AtomicI32::new(NONE);

/// Makes the report go to `file`, a log that stays open for good, as well as to
/// standard error.
pub fn also_report_to(file: RawFd) {
    SECOND_REPORT.store(file, Ordering::SeqCst);
}

/// Handles SIGSYS from now on. A thread that has blocked that signal dies of it
/// silently.
pub(super) fn install() -> io::Result<()> {
    // A backtrace opens files, which most threads may not, and the report about
    // that would hide the panic: its message has to do.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        eprintln!("hotbay: thread {}: {panic}", thread.name().unwrap_or("?"));
    }));
    register_signal_handler(libc::SIGSYS, report_and_exit).map_err(Into::into)
}

/// What the kernel says with SIGSYS (`siginfo_t`, sigaction(2)): the C library
/// has no names for the last three.
#[repr(C)]
struct Info {
    signal: c_int,
    error: c_int,
    code: c_int,
    call_address: *mut c_void,
    call: c_int,
    architecture: c_uint,
}

extern "C" fn report_and_exit(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid pointer, and this is how SIGSYS fills it.
    let info = unsafe { &*info.cast::<Info>() };
    // SAFETY: the handler is registered with SA_SIGINFO, so this is a ucontext.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    restore_terminal();
    if info.code == FROM_FILTER {
        let registers = &context.uc_mcontext.gregs;
        let register = |index: c_int| {
            usize::try_from(index).ok().and_then(|at| registers.get(at)).copied().unwrap_or(0)
        };
        let mut line = Line::default();
        // A line that is too long is cut off.
        let _ = describe(&mut line, info.call.into(), ARGUMENTS.map(register));
        print(libc::STDERR_FILENO, line.text());
        print(SECOND_REPORT.load(Ordering::SeqCst), line.text());
    }
    // SAFETY: ends the process at once; runs nothing else.
    unsafe { libc::_exit(EXIT_CODE) };
}

/// Writes the report about a call.
fn describe(line: &mut Line, number: i64, arguments: [i64; 6]) -> fmt::Result {
    write!(line, "hotbay: seccomp: thread ")?;
    line.push(thread_name().split(|byte| *byte == 0).next().unwrap_or_default());
    write!(line, " called {}(", names::name(number).unwrap_or("?"))?;
    for (index, argument) in arguments.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(line, "{comma}{argument:#x}")?;
    }
    write!(line, ")")?;
    if number == libc::SYS_ioctl {
        let request = arguments[1].cast_unsigned();
        write!(line, " [{}]", ioctls::name(request).unwrap_or("unknown request"))?;
    }
    writeln!(line, ", call {number}, which is not on its list; ending (see --seccomp)")
}

fn thread_name() -> [u8; NAME] {
    let mut name = [0; NAME];
    // SAFETY: the buffer has the size that the kernel fills at most.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

fn print(file: RawFd, text: &[u8]) {
    if file != NONE {
        // SAFETY: the buffer is valid for its length; a bad descriptor is an error
        // that nobody is left to hear of.
        unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
    }
}

/// A line of text on the stack.
struct Line {
    bytes: [u8; 400],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 400], length: 0 }
    }
}

impl Line {
    /// Appends as much of `text` as fits.
    fn push(&mut self, text: &[u8]) {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let taken = room.iter_mut().zip(text).map(|(to, from)| *to = *from).count();
        self.length += taken;
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(number: i64, arguments: [i64; 6]) -> String {
        let mut line = Line::default();
        describe(&mut line, number, arguments).unwrap();
        String::from_utf8(line.text().to_vec()).unwrap()
    }

    #[test]
    fn report_names_call_request_and_arguments() {
        let ioctl = described(libc::SYS_ioctl, [5, 0xae80, -1, 0, 0, 0]);
        assert!(ioctl.contains("ioctl(0x5, 0xae80, 0xffffffffffffffff, 0x0"), "{ioctl}");
        assert!(ioctl.contains("[KVM_RUN]") && ioctl.ends_with('\n'), "{ioctl}");
    }

    #[test]
    fn unknown_numbers_are_still_reported() {
        let report = described(100_000, [i64::MIN; 6]);
        assert!(report.contains("?(") && report.contains("call 100000"), "{report}");
    }

    #[test]
    fn long_text_is_cut_off() {
        let mut line = Line::default();
        line.push(&[b'x'; 1000]);
        assert_eq!(line.text().len(), 400);
    }
}
