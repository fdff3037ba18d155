//! Stages of a VM with a guest of 35 bytes on the real `/dev/kvm`. The guest asks
//! a port what to do next, so a test decides where its processor is.

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use api::mailbox::{Call, Reply};
use api::request::{Answer, Request, Response, Status, code};
use api::schema::cpus::CpusConfig;
use api::schema::memory::MemoryConfig;
use api::schema::payload::PayloadConfig;
use devices::io::Access;
use devices::space::Claim;

use super::*;
use crate::control;
use crate::kvm::testing;
use crate::seccomp::Mode;

mod attention;
mod check;
mod disks;
mod pause;
mod reboot;
mod start;
mod stop;
mod told;
mod verbs;
mod warm;

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
/// Where the guest asks.
const PORT: u64 = 0x81;

/// What the guest is told.
const NOTHING: u8 = 0xff;
const POWER_OFF: u8 = 1;
const RESET: u8 = 2;
const TRIPLE_FAULT: u8 = 3;

/// ```text
/// 00 again: in al, 0x81        10 off:   mov edx, 0x600
/// 02        cmp al, NOTHING    15        mov al, 0x34
/// 04        je again           17        jmp write
/// 06        cmp al, POWER_OFF  19 reset: mov edx, 0x602
/// 08        je off             1e        mov al, 1
/// 0a        cmp al, RESET      20 write: out dx, al
/// 0c        je reset           21        jmp again
/// 0e        ud2
/// ```
const GUEST: [u8; 35] = [
    0xe4, 0x81, 0x3c, 0xff, 0x74, 0xfa, 0x3c, 0x01, 0x74, 0x06, 0x3c, 0x02, 0x74, 0x0b, 0x0f, 0x0b,
    0xba, 0x00, 0x06, 0x00, 0x00, 0xb0, 0x34, 0xeb, 0x07, 0xba, 0x02, 0x06, 0x00, 0x00, 0xb0, 0x01,
    0xee, 0xeb, 0xdd,
];

type Command = Box<dyn FnOnce() -> u8 + Send>;

/// Runs what the test sends on the vCPU's thread; its result is the answer.
struct Port(Mutex<Receiver<Command>>);

impl Access for Port {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        let command = self.0.lock().unwrap().try_recv();
        data.fill(command.map_or(NOTHING, |command| command()));
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

/// A VM that has been created. Field order is teardown order.
struct Scene {
    vmm: Vmm,
    claims: Vec<Claim>,
    commands: Option<Sender<Command>>,
    kernel: tempfile::NamedTempFile,
}

/// A vCPU that is inside an access.
struct Inside(Sender<u8>);

/// `None` on a machine without a hypervisor.
fn scene() -> Option<Scene> {
    if !testing::has_hypervisor() {
        return None;
    }
    let kernel = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kernel.path(), elf(&GUEST)).unwrap();
    let filters = Arc::new(Filters::new(Mode::False).unwrap());
    let mut vmm = Vmm::new(filters, Monitor::default()).unwrap();
    let payload = PayloadConfig { kernel: Some(kernel.path().to_owned()), ..Default::default() };
    let config = VmConfig {
        payload: Some(payload),
        cpus: CpusConfig { boot_vcpus: 2, max_vcpus: 2 },
        memory: MemoryConfig { size: 64 * MIB, ..MemoryConfig::default() },
        ..VmConfig::default()
    };
    vmm.create(config).unwrap();
    Some(Scene { vmm, claims: Vec::new(), commands: None, kernel })
}

fn running() -> Option<Scene> {
    let mut scene = scene()?;
    scene.boot();
    scene.plug();
    Some(scene)
}

fn paused() -> Option<Scene> {
    let mut scene = running()?;
    scene.pause();
    Some(scene)
}

/// An ELF file of one segment at 16 MiB, entered there through a PVH note.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(24, &(16 * MIB).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    for (index, kind, [offset, start, size]) in
        [(0, 1_u32, [256, 16 * MIB, 64]), (1, 4, [384, 0, 20])]
    {
        let at = 64 + 56 * index;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &start.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    }
    put(256, code);
    put(384, b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01");
    image
}

impl Scene {
    /// Puts the port into the machine there is now.
    fn plug(&mut self) {
        let (commands, received) = mpsc::channel();
        let machine = self.vmm.vm.as_ref().unwrap().stage.machine().unwrap();
        let port = Arc::new(Port(Mutex::new(received)));
        self.claims.push(machine._spaces.ports.claim(PORT, 1, port).unwrap());
        self.commands = Some(commands);
    }

    fn command(&self, command: impl FnOnce() -> u8 + Send + 'static) {
        self.commands.as_ref().unwrap().send(Box::new(command)).unwrap();
    }

    /// Tells the guest what to do, and returns when it is about to.
    fn tell(&self, what: u8) {
        self.stop_inside().go_on(what);
    }

    /// Returns when the vCPU is inside an access, where it stays.
    fn stop_inside(&self) -> Inside {
        let (answer, answers) = mpsc::channel();
        let (entered, is_entered) = mpsc::channel();
        self.command(move || {
            entered.send(()).unwrap();
            // Without an answer the test has failed or ended.
            answers.recv_timeout(PATIENCE).unwrap_or(NOTHING)
        });
        is_entered.recv_timeout(PATIENCE).unwrap();
        Inside(answer)
    }

    /// Asks, and returns where the answer will be.
    fn ask(&mut self, request: Request) -> Receiver<Answer> {
        let (reply, answer) = Reply::channel();
        control::handle(&mut self.vmm, Call { request, reply });
        answer
    }

    fn does(&mut self, request: Request) {
        let asked = format!("{request:?}");
        let answer = self.ask(request).try_recv().unwrap();
        assert!(answer.is_ok(), "{asked}: {answer:?}");
    }

    /// Boots, and waits for the guest to run.
    fn boot(&mut self) {
        let answer = self.ask(Request::Boot);
        self.until(|vmm| state(vmm) == Some(VmState::Running));
        assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    }

    /// Shuts down or deletes, and waits until that is done.
    fn stop(&mut self, how: Request) {
        let answer = self.ask(how);
        self.until(|vmm| vmm.vm.as_ref().is_none_or(|vm| matches!(vm.stage, Stage::Shutdown)));
        assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    }

    fn refuses(&mut self, request: Request) -> (u16, &'static str) {
        let asked = format!("{request:?} is refused");
        let fault = self.ask(request).try_recv().unwrap().expect_err(&asked);
        (fault.status.code(), fault.code)
    }

    /// Lets the event loop's work be done until `done`.
    fn until(&mut self, done: impl Fn(&Vmm) -> bool) {
        while !done(&self.vmm) {
            self.serve();
        }
    }

    /// Waits until the process is to end.
    fn over(&mut self) -> Ending {
        loop {
            if let ControlFlow::Break(ending) = self.vmm.over() {
                return ending;
            }
            self.serve();
        }
    }

    /// Does the event loop's work once.
    fn serve(&mut self) {
        self.await_event();
        self.vmm.take_events();
        self.vmm.take_finished();
    }

    /// Waits until the event loop has something to take.
    fn await_event(&self) {
        let fds = [self.vmm.inbox.as_raw_fd(), self.vmm.finished.as_raw_fd()];
        let mut poll = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let patience = i32::try_from(PATIENCE.as_millis()).unwrap();
        // SAFETY: two pollfds, valid for the call.
        #[expect(unsafe_code, reason = "waits for descriptors")]
        let ready = unsafe { libc::poll(poll.as_mut_ptr(), 2, patience) };
        assert!(ready > 0, "no event came");
    }

    fn pause(&mut self) {
        let answer = self.ask(Request::Pause);
        self.until(|vmm| state(vmm) == Some(VmState::Paused));
        assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    }

    fn reboot(&mut self) {
        let answer = self.ask(Request::Reboot);
        self.until(|vmm| stands(vmm, Standing::Running));
        assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    }

    /// Whether the guest executes instructions now.
    fn guest_runs(&self) {
        let (ran, has_run) = mpsc::channel();
        self.command(move || {
            ran.send(()).unwrap();
            NOTHING
        });
        has_run.recv_timeout(PATIENCE).unwrap();
    }
}

impl Inside {
    fn go_on(self, what: u8) {
        self.0.send(what).unwrap();
    }
}

fn state(vmm: &Vmm) -> Option<VmState> {
    vmm.vm.as_ref().map(|vm| vm.stage.state())
}

fn stands(vmm: &Vmm, standing: Standing) -> bool {
    vmm.vm.as_ref().map_or(Standing::None, |vm| vm.stage.standing()) == standing
}
