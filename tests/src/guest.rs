//! A guest, through its serial port: what it prints, and commands typed into its shell.
//!
//! `scripts/lab.d/guest-init` is the other side: a shell without prompt or echo.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result, ensure};
use crate::evidence;
use crate::standstill;
use crate::wait::{Look, until};

/// A boot takes about 10 s alone, and many times that on a shared machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// One command, including reading a whole disk.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// How long a guest that was nudged has to say something.
const NUDGED: Duration = Duration::from_secs(5);

/// What a guest that ticks prints.
const TICK: &str = "tick";

/// The shell's status of a command that SIGSEGV has ended.
const SEGMENTATION_FAULT: u8 = 139;

/// Shows the kernel's messages on the serial port, those for information, too; no program need start for it.
const TELL_ALL: &str = "echo 7 >/proc/sys/kernel/printk\n";

/// What `guest-init` prints when the guest is up.
const READY: &str = "hotbay-guest: ready";

/// The serial port of a guest.
#[derive(Debug)]
pub struct Guest {
    transcript: Arc<Transcript>,
    keyboard: UnixStream,
    /// Where the next search in the transcript begins.
    read: usize,
    commands: u32,
}

#[derive(Debug, Default)]
struct Transcript {
    printed: Mutex<Printed>,
    grew: Condvar,
}

#[derive(Debug, Default)]
struct Printed {
    text: String,
    closed: bool,
}

/// What a command in the guest printed, and its exit status.
#[derive(Debug)]
pub struct Output {
    /// Both streams, without the kernel's messages.
    pub text: String,
    /// Exit status.
    pub status: u8,
}

impl Guest {
    /// Listens to a serial port from now on.
    pub(crate) fn new(serial: UnixStream) -> Result<Self> {
        let keyboard = serial.try_clone().doing("share the serial port")?;
        let transcript = Arc::new(Transcript::default());
        let writer = Arc::clone(&transcript);
        thread::Builder::new()
            .name("serial".into())
            .spawn(move || writer.record(serial))
            .doing("start a reader of the serial port")?;
        Ok(Self { transcript, keyboard, read: 0, commands: 0 })
    }

    /// Waits until the guest is up: for the first time, or again after a reboot.
    pub fn ready(&mut self) -> Result {
        self.expect(READY, BOOT_LIMIT).map(drop)
    }

    /// Waits for a login, logs in, and asks for a shell as `guest-init` gives one: without prompt or echo.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result {
        self.expect("login: ", BOOT_LIMIT)?;
        self.type_in(&format!("{user}\n"))?;
        // Whatever is typed before it is forgotten.
        self.expect("Password: ", COMMAND_LIMIT)?;
        self.type_in(&format!("{password}\n"))?;
        self.expect(":~# ", COMMAND_LIMIT)?;
        self.type_in("stty -echo -onlcr; echo 'logged' in; exec env PS1= PS2= sh +m\n")?;
        self.expect("logged in", COMMAND_LIMIT).map(drop)
    }

    /// Waits until the guest prints `needle`; what it printed before.
    pub fn expect(&mut self, needle: &str, limit: Duration) -> Result<String> {
        self.expect_in(None, needle, limit)
    }

    /// The same, but fails as soon as the guest prints `never` before it.
    fn expect_in(&mut self, never: Option<&str>, needle: &str, limit: Duration) -> Result<String> {
        let begun = Instant::now();
        let mut printed = self.transcript.lock();
        loop {
            let unread = &printed.text[self.read..];
            if let Some(at) = unread.find(needle) {
                let before = unread[..at].to_owned();
                self.read += at + needle.len();
                return Ok(before);
            }
            if let Some(never) = never.filter(|never| unread.contains(never)) {
                return Err(Error::Unexpected(format!("{never:?} instead of {needle:?}")));
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() || printed.closed {
                let last = unread.lines().last().unwrap_or_default().to_owned();
                let awaited = format!("{needle:?} on the serial port");
                let stands_still = !printed.closed;
                drop(printed);
                if stands_still {
                    standstill::keep();
                    self.nudge();
                }
                return Err(Error::TimedOut { awaited, limit: begun.elapsed(), seen: last });
            }
            let grown = self.transcript.grew.wait_timeout(printed, left);
            printed = grown.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types one more line into a guest that does not answer and keeps what comes of it: if it goes on, an interrupt of its
    /// serial port was lost; if not, what was typed is somewhere between.
    fn nudge(&mut self) {
        let printed = self.transcript.lock().text.len();
        let typed = self.type_in("\n");
        let silent = |transcript: &mut Printed| transcript.text.len() == printed;
        let waited =
            self.transcript.grew.wait_timeout_while(self.transcript.lock(), NUDGED, silent);
        let transcript = waited.unwrap_or_else(PoisonError::into_inner).0;
        let said = transcript.text.get(printed..).unwrap_or_default();
        evidence::keep("the guest after one more line", format!("{typed:?}; it said {said:?}"));
    }

    /// Runs a command and fails unless it succeeds; what it printed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let Output { text, status } = self.try_run(command)?;
        ensure(status == 0, || format!("in the guest, `{command}` failed with {status}: {text}"))?;
        Ok(text)
    }

    /// Runs a command, whatever it returns.
    pub fn try_run(&mut self, command: &str) -> Result<Output> {
        self.commands += 1;
        let (begin, end) =
            (format!("<begin {}>", self.commands), format!("<end {} ", self.commands));
        self.type_in(&format!(
            "echo '{begin}'; {{ {command}\n}} </dev/null 2>&1; echo \"{end}$?>\"\n"
        ))?;
        let restarted = Some(READY);
        self.expect_in(restarted, &begin, COMMAND_LIMIT)?;
        let printed = self.expect_in(restarted, &end, COMMAND_LIMIT)?;
        let status = self.expect(">", COMMAND_LIMIT)?;
        let Ok(status) = status.parse() else { return Err(self.misread(&status)) };
        if status == SEGMENTATION_FAULT {
            // The kernel says where the next ones are, and which instructions it reads there: those of the
            // program, when the emulator executes others, or else the guest's RAM is wrong.
            self.type_in(TELL_ALL)?;
        }
        Ok(Output { text: without_kernel_messages(&printed), status })
    }

    /// The guest has printed what was typed: it is not where we take it to be. What it prints next tells why.
    fn misread(&mut self, status: &str) -> Error {
        let more = self.expect_in(None, READY, BOOT_LIMIT);
        Error::Unexpected(format!(
            "the exit status {status:?}; then, until it was up again: {more:?}"
        ))
    }

    /// Types a line of which nothing comes back, such as one that ends the guest.
    pub fn type_in(&mut self, text: &str) -> Result {
        self.keyboard.write_all(text.as_bytes()).doing("type into the guest")
    }

    /// What the guest has printed that nobody has looked at.
    pub fn unread(&self) -> String {
        self.transcript.lock().text[self.read..].to_owned()
    }

    /// Lets the guest print a line every tenth of a second, until it is told to stop. The lines look
    /// like the kernel's messages, so no command's output has them.
    pub fn begin_to_tick(&mut self) -> Result {
        self.run(&format!(
            "(while read up _ </proc/uptime; do echo \"[$up] {TICK}\"; usleep 100000; done >/dev/ttyS0) & \
             echo $! >/tmp/ticking"
        ))?;
        self.expect(TICK, COMMAND_LIMIT).map(drop)
    }

    /// Ends what [`Guest::begin_to_tick`] began.
    pub fn stop_ticking(&mut self) -> Result {
        self.run("kill $(cat /tmp/ticking)").map(drop)
    }

    /// Fails if the guest prints anything in `period`; what is on the way to us has time to arrive first.
    pub fn stays_silent(&self, period: Duration) -> Result {
        let mut before = None;
        let length = until("a serial port that has nothing more to say", COMMAND_LIMIT, || {
            let now = self.transcript.lock().text.len();
            let settled = before.replace(now) == Some(now);
            Ok(if settled { Look::Holds(now) } else { Look::NotYet(format!("{now} bytes")) })
        })?;
        let grown = |printed: &mut Printed| printed.text.len() == length;
        let waited = self.transcript.grew.wait_timeout_while(self.transcript.lock(), period, grown);
        let printed = waited.unwrap_or_else(PoisonError::into_inner).0;
        ensure(printed.text.len() == length, || format!("it said {:?}", &printed.text[length..]))
    }

    /// How long the guest has been up by its own clock.
    pub fn uptime(&mut self) -> Result<Duration> {
        let text = self.run("cut -d ' ' -f 1 /proc/uptime")?;
        let seconds = text.trim().parse().map(Duration::from_secs_f64);
        seconds.map_err(|_| Error::Unexpected(format!("no uptime: {text}")))
    }

    /// Repeats a command in the guest until it succeeds.
    pub fn wait_for(&mut self, awaited: &str, command: &str) -> Result<String> {
        until(&format!("in the guest: {awaited}"), COMMAND_LIMIT, || {
            let Output { text, status } = self.try_run(command)?;
            Ok(if status == 0 { Look::Holds(text) } else { Look::NotYet(text) })
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        evidence::keep("the guest's serial port", self.transcript.lock().text.clone());
    }
}

impl Transcript {
    fn record(&self, mut serial: UnixStream) {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = serial.read(&mut piece) {
            self.lock().text.push_str(&String::from_utf8_lossy(&piece[..count]));
            self.grew.notify_all();
        }
        self.lock().closed = true;
        self.grew.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops lines such as `[   12.345678] e1000e: ...`.
fn without_kernel_messages(printed: &str) -> String {
    let from_kernel = |line: &&str| {
        let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map(|(t, _)| t);
        stamp.is_some_and(|t| t.trim().parse::<f64>().is_ok())
    };
    let lines: Vec<&str> = printed.lines().filter(|line| !from_kernel(line)).collect();
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_messages_are_no_output() {
        let printed = "\n[    7.334776] hpet0: 3 comparators\n[a] stays\n3\r\n[   12.5] x\n";

        assert_eq!(without_kernel_messages(printed), "[a] stays\n3");
    }

    #[test]
    fn a_guest_that_restarts_meanwhile_ends_no_command() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut guest = Guest::new(ours).unwrap();
        theirs.write_all(format!("<begin 1>\nhel{READY}").as_bytes()).unwrap();

        let error = guest.try_run("echo hello").unwrap_err();

        assert!(error.to_string().contains("instead of"), "{error}");
    }

    #[test]
    fn a_command_s_output_ends_at_its_marker() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut guest = Guest::new(ours).unwrap();
        theirs.write_all(b"noise\n<begin 1>\nhello\n<end 1 7>\n").unwrap();

        let output = guest.try_run("echo hello; exit 7").unwrap();

        assert_eq!((output.text.as_str(), output.status), ("hello", 7));
    }
}
