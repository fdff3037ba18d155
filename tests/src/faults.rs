//! Makes a system call of a running process fail: one chosen by its number among all that may fail, so that a
//! scene can try each in turn and need not know what they are.
//!
//! A tracer in the sense of ptrace(2) counts the calls of threads with one name. The chosen call is not made; the
//! thread gets an error instead. seccomp is suspended in the threads that are traced (`PTRACE_O_SUSPEND_SECCOMP`),
//! for a call that is not made has the number -1, which is on no list.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::{Doing, Error, Result};
use crate::hold::threads_called;

/// `PTRACE_O_SUSPEND_SECCOMP`, which nix does not name.
const SUSPEND_SECCOMP: i32 = 1 << 21;
/// `KVM_RUN`: that the guest runs is no step of anything.
const KVM_RUN: u64 = 0xae80;
/// `PR_SET_NAME`: without its name a thread is not found.
const SET_NAME: u64 = libc::PR_SET_NAME.cast_unsigned() as u64;
/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;

/// The call that is to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Name of the threads whose calls are counted.
    pub thread: &'static str,
    /// How many such calls succeed before it.
    pub after: usize,
}

/// A call that was made to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    thread: &'static str,
    call: Call,
}

/// A system call that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    name: &'static str,
    /// What tells it from others of that name: an ioctl's request.
    request: Option<u64>,
    errno: Errno,
}

/// Does `act` while the tracer waits for the fault's moment; what `act` returned, and the call that failed, if there
/// were as many. `nudge` must make the process's first thread do something: the tracer takes leave then.
pub fn during<T>(
    pid: u32,
    fault: Fault,
    nudge: impl Fn() -> Result,
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, Option<Struck>)> {
    let over = AtomicBool::new(false);
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let tracer = scope.spawn(|| Tracer::new(pid, fault, &over).run(ready));
        // A tracer that failed has dropped its end, and tells why below.
        let acted = is_ready.recv().is_ok().then(act);
        over.store(true, Ordering::SeqCst);
        let nudged = if acted.is_some() { nudge() } else { Ok(()) };
        let struck = tracer.join().map_err(|_| unexpected("the tracer has panicked"))??;
        nudged?;
        let acted = acted.ok_or_else(|| unexpected("the tracer saw nothing"))??;
        Ok((acted, struck))
    })
}

/// ptrace's calls all come from the thread that this lives on.
struct Tracer<'o> {
    /// The process, and its first thread.
    pid: u32,
    fault: Fault,
    over: &'o AtomicBool,
    seen: usize,
    struck: Option<Struck>,
    /// The thread that is inside the call that fails.
    inside: Option<Pid>,
}

impl<'o> Tracer<'o> {
    fn new(pid: u32, fault: Fault, over: &'o AtomicBool) -> Self {
        Self { pid, fault, over, seen: 0, struck: None, inside: None }
    }

    /// Follows the process's first thread, all that it starts, and those with the fault's name.
    fn run(mut self, ready: Sender<()>) -> Result<Option<Struck>> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::from_bits_retain(SUSPEND_SECCOMP);
        let mut first = threads_called(self.pid, self.fault.thread)?;
        first.push(self.pid);
        first.sort_unstable();
        first.dedup();
        let mut waiting = first.len();
        for thread in first {
            let thread = Pid::from_raw(thread.cast_signed());
            ptrace::seize(thread, options).map_err(io::Error::from).doing("trace a thread")?;
            ptrace::interrupt(thread).map_err(io::Error::from).doing("stop a thread")?;
        }
        let mut ready = Some(ready);
        while !self.over.load(Ordering::SeqCst) {
            // Only this thread's tracees: the process itself is somebody else's child.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let stop = waitpid(None, Some(flags)).map_err(io::Error::from).doing("trace")?;
            if self.stopped(stop)? {
                waiting = waiting.saturating_sub(1);
                if waiting == 0
                    && let Some(ready) = ready.take()
                {
                    ready.send(()).map_err(|_| unexpected("nobody waits for the tracer"))?;
                }
            }
        }
        Ok(self.struck)
    }

    /// Lets a thread that has stopped go on. Returns whether it has just been taken on.
    fn stopped(&mut self, stop: WaitStatus) -> Result<bool> {
        let (thread, signal, is_new) = match stop {
            WaitStatus::PtraceSyscall(thread) => {
                self.call(thread)?;
                (thread, None, false)
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                (thread, None, event == libc::PTRACE_EVENT_STOP)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal), false),
            WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => return Ok(false),
        };
        match ptrace::syscall(thread, signal) {
            // It has been killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => Ok(is_new),
            Err(error) => Err(io::Error::from(error)).doing("let a thread go on"),
        }
    }

    /// A thread enters a system call or leaves it.
    fn call(&mut self, thread: Pid) -> Result {
        if self.inside == Some(thread) {
            self.inside = None;
            let errno = self.struck.as_ref().map_or(Errno::EIO, |struck| struck.call.errno);
            return change(thread, |registers| {
                registers.rax = i64::from(-(errno as i32)).cast_unsigned();
            });
        }
        if self.struck.is_some() || !enters(thread)? {
            return Ok(());
        }
        let registers = registers(thread)?;
        let Some(call) = Call::of(&registers) else { return Ok(()) };
        if !self.counts(thread) {
            return Ok(());
        }
        self.seen += 1;
        if self.seen > self.fault.after {
            self.inside = Some(thread);
            self.struck = Some(Struck { thread: self.fault.thread, call });
            change(thread, |registers| registers.orig_rax = u64::MAX)?;
        }
        Ok(())
    }

    /// Whether this thread has the name. A new thread has its starter's until it gives itself one.
    fn counts(&self, thread: Pid) -> bool {
        let name = |id: Pid| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        let first = Pid::from_raw(self.pid.cast_signed());
        let is_named = name(thread).trim() == self.fault.thread;
        is_named && (thread == first || name(first).trim() != self.fault.thread)
    }
}

impl Call {
    /// The call that a thread is about to make, if it may fail: it asks the kernel for something. Calls that
    /// wait, that give back or that only tell are none, and neither is memory for the heap: Rust ends a process
    /// that gets none.
    fn of(registers: &user_regs_struct) -> Option<Self> {
        let number = c_long::try_from(registers.orig_rax).ok()?;
        let (name, errno) = match number {
            libc::SYS_ioctl if registers.rsi == KVM_RUN => return None,
            libc::SYS_ioctl => ("ioctl", Errno::ENOMEM),
            libc::SYS_mmap if maps_for_a_reason(registers) => ("mmap", Errno::ENOMEM),
            // Of a thread's stack. One that takes rights away guards a signal's, and std cannot go on without.
            libc::SYS_mprotect if registers.rdx != 0 => ("mprotect", Errno::ENOMEM),
            libc::SYS_madvise => ("madvise", Errno::ENOMEM),
            libc::SYS_clone3 => ("clone3", Errno::EAGAIN),
            libc::SYS_clone => ("clone", Errno::EAGAIN),
            libc::SYS_eventfd2 => ("eventfd2", Errno::EMFILE),
            libc::SYS_openat => ("openat", Errno::EMFILE),
            libc::SYS_readlink => ("readlink", Errno::ENOMEM),
            libc::SYS_readlinkat => ("readlinkat", Errno::ENOMEM),
            libc::SYS_statx => ("statx", Errno::ENOMEM),
            libc::SYS_getdents64 => ("getdents64", Errno::ENOMEM),
            libc::SYS_pread64 => ("pread64", Errno::EIO),
            libc::SYS_pwrite64 => ("pwrite64", Errno::EIO),
            libc::SYS_fcntl => ("fcntl", Errno::EMFILE),
            libc::SYS_epoll_ctl => ("epoll_ctl", Errno::ENOMEM),
            libc::SYS_timerfd_settime => ("timerfd_settime", Errno::EINVAL),
            libc::SYS_prctl if registers.rdi == SET_NAME => return None,
            libc::SYS_prctl => ("prctl", Errno::EINVAL),
            libc::SYS_seccomp => ("seccomp", Errno::ENOMEM),
            _ => return None,
        };
        let request = (number == libc::SYS_ioctl).then_some(registers.rsi);
        Some(Self { name, request, errno })
    }
}

/// Whether it maps a file, or a thread's stack, which glibc opens to writing later. A stack that can be written from the
/// start is a signal's: std ends the process that gets none.
fn maps_for_a_reason(registers: &user_regs_struct) -> bool {
    let flag = |flag: i32| registers.r10 & u64::from(flag.cast_unsigned()) != 0;
    !flag(libc::MAP_ANONYMOUS) || (flag(libc::MAP_STACK) && registers.rdx == 0)
}

impl Display for Struck {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Call { name, request, errno } = self.call;
        write!(f, "{} of a thread called {}", name, self.thread)?;
        if let Some(request) = request {
            write!(f, ", request {request:#x},")?;
        }
        write!(f, " with {errno:?}")
    }
}

fn enters(thread: Pid) -> Result<bool> {
    let info = ptrace::syscall_info(thread).map_err(io::Error::from);
    Ok(info.doing("look at a system call")?.op == ENTRY)
}

fn registers(thread: Pid) -> Result<user_regs_struct> {
    ptrace::getregs(thread).map_err(io::Error::from).doing("read registers")
}

fn change(thread: Pid, change: impl FnOnce(&mut user_regs_struct)) -> Result {
    let mut registers = registers(thread)?;
    change(&mut registers);
    ptrace::setregs(thread, registers).map_err(io::Error::from).doing("write registers")
}

fn unexpected(what: &str) -> Error {
    Error::Unexpected(what.to_owned())
}
