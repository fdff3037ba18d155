//! How fast disks and networks of hotbay's are beside QEMU's, in one lab: `scripts/bench throughput`.
//!
//! Guests of both are up at once, but only the one that is measured runs: the others are stopped (SIGSTOP). Each measure
//! is taken of one after the other, in turns, so that what else happens on the machine meets all of them.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use tempfile::TempDir;
use tests::artifacts::{append, binary, pack_program};
use tests::error::{Doing, ensure};
use tests::evidence;
use tests::guest::Guest;
use tests::host::run;
use tests::peer::{Peer, Qemu};
use tests::{Error, Flavour, Options, Result, Vm};

const USAGE: &str =
    "usage: scripts/bench throughput [--rounds N] [--milliseconds N] [--only WORD] [--against HOTBAY]

  --rounds N        of every measure (5)
  --milliseconds N  of each (2000)
  --only WORD       measures whose name has WORD
  --against HOTBAY  another build of hotbay, measured as well

Exit status: 0 if all could be measured.";

/// Bytes of a disk. It lies in the host's RAM.
const DISK: usize = 256 << 20;
/// What hotbay's guests have by default. What serves the one vCPU has a processor of the lab's two to itself.
const CPUS: &str = "1";
const MEMORY: &str = "512";
/// Where the host listens.
const PORT: u16 = 5001;
/// No guest says that it stood still while others were measured.
const WORDS: &str = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1";

/// Something to measure: what `load` is told, and what its number counts.
struct Measure {
    name: &'static str,
    words: &'static str,
    unit: &'static str,
    /// What makes one of `unit`.
    of: f64,
}

const MB: f64 = 1e6;
const MEASURES: &[Measure] = &[
    disk("disk: read, 256 KiB in sequence, 4 at once", "read sequential /dev/vda 262144 4", MB),
    disk("disk: write, 256 KiB in sequence, 4 at once", "write sequential /dev/vda 262144 4", MB),
    disk("disk: read, 4 KiB anywhere, 1 at once", "read random /dev/vda 4096 1", 1.0),
    disk("disk: read, 4 KiB anywhere, 16 at once", "read random /dev/vda 4096 16", 1.0),
    disk("disk: write, 4 KiB anywhere, 16 at once", "write random /dev/vda 4096 16", 1.0),
    net("net: guest to host, one connection", "send", MB),
    net("net: host to guest, one connection", "receive", MB),
    net("net: request and answer, 64 bytes", "ask", 1.0),
];

impl Measure {
    fn is_disk(&self) -> bool {
        self.name.starts_with("disk")
    }
}

const fn disk(name: &'static str, words: &'static str, of: f64) -> Measure {
    Measure { name, words, unit: if of > 1.0 { "MB/s" } else { "requests/s" }, of }
}

const fn net(name: &'static str, words: &'static str, of: f64) -> Measure {
    disk(name, words, of)
}

fn main() -> ExitCode {
    let Some(plan) = Plan::read(env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if env::var_os("HOTBAY_LAB").is_none() {
        eprintln!("throughput: this needs the lab; scripts/bench throughput runs it there");
        return ExitCode::FAILURE;
    }
    match plan.carry_out() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            evidence::show();
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured, and how often.
struct Plan {
    rounds: usize,
    milliseconds: u64,
    only: String,
    against: Option<PathBuf>,
}

impl Plan {
    fn read(words: impl Iterator<Item = String>) -> Option<Self> {
        let mut plan = Self { rounds: 5, milliseconds: 2000, only: String::new(), against: None };
        let mut words = words;
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word.as_str() {
                "--rounds" => plan.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
                "--milliseconds" => plan.milliseconds = value.parse().ok()?,
                "--only" => plan.only = value,
                "--against" => plan.against = Some(value.into()),
                _ => return None,
            }
        }
        Some(plan)
    }

    fn carry_out(&self) -> Result {
        let stage = Stage::new()?;
        let mut all = stage.contenders(self.against.as_deref())?;
        for measure in MEASURES.iter().filter(|measure| measure.name.contains(&self.only)) {
            println!("{} ({})", measure.name, measure.unit);
            let mut all: Vec<_> =
                all.iter_mut().filter(|contender| contender.takes_part(measure)).collect();
            let mut figures: Vec<Vec<Figure>> = all.iter().map(|_| Vec::new()).collect();
            for round in 0..self.rounds {
                // There and back, so that nobody always goes first.
                let mut turns: Vec<usize> = (0..all.len()).collect();
                if round % 2 == 1 {
                    turns.reverse();
                }
                for turn in turns {
                    figures[turn].push(all[turn].measure(measure, self.milliseconds)?);
                }
            }
            report(&all, &figures);
        }
        Ok(())
    }
}

/// A line for each: its figures, and hotbay's in relation to them, with whom vhost-net does the work to the like.
fn report(all: &[&mut Contender], figures: &[Vec<Figure>]) {
    let column =
        |of: &[Figure], which: fn(&Figure) -> f64| of.iter().map(which).collect::<Vec<_>>();
    let rates: Vec<_> = figures.iter().map(|of| column(of, |figure| figure.rate)).collect();
    for ((contender, figures), theirs) in all.iter().zip(figures).zip(&rates) {
        let same_way = |other: &&mut Contender| other.vhost == contender.vhost;
        let rival = all.iter().position(|other| other.is_ours() && same_way(other)).unwrap_or(0);
        let ratios: Vec<f64> =
            rates[rival].iter().zip(theirs).map(|(ours, of)| ours / of).collect();
        let shown: Vec<_> = theirs.iter().map(|rate| format!("{rate:.0}")).collect();
        let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), ratio| {
            (least.min(*ratio), most.max(*ratio))
        });
        println!(
            "  {:<22} median {:>9.1}   each {:>5.2} exits, {:>5.2} interrupts   {} is {:.2} ({least:.2} to {most:.2}) times that   [{}]",
            contender.name,
            median(theirs),
            median(&column(figures, |figure| figure.exits)),
            median(&column(figures, |figure| figure.interrupts)),
            all[rival].name,
            median(&ratios),
            shown.join(" "),
        );
    }
}

/// What one measure came to.
struct Figure {
    /// Of the measure's units, a second.
    rate: f64,
    /// What each unit cost the guest; its timer's and its shell's are among them.
    exits: f64,
    interrupts: f64,
}

/// What the host's KVM has counted, of all guests (`virt/kvm/kvm_main.c`, debugfs).
struct Kvm {
    exits: u64,
    interrupts: u64,
}

impl Kvm {
    fn now() -> Result<Self> {
        let read = |name: &str| {
            let path = Path::new("/sys/kernel/debug/kvm").join(name);
            let text = fs::read_to_string(&path).doing("read what KVM has counted")?;
            let number = text.trim().parse();
            number.map_err(|_| Error::Unexpected(format!("{}: {text}", path.display())))
        };
        Ok(Self { exits: read("exits")?, interrupts: read("irq_injections")? })
    }
}

fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// What all guests have in common.
struct Stage {
    dir: TempDir,
    archive: PathBuf,
}

impl Stage {
    fn new() -> Result<Self> {
        for module in ["tun", "vhost_net"] {
            run(Command::new("modprobe").arg(module))?;
        }
        // In RAM, and without an overlay above it.
        let dir = tempfile::tempdir_in("/dev/shm").doing("make a folder")?;
        let archive = dir.path().join("load.cpio");
        let program = binary("load").display().to_string();
        pack_program(&program, "load", dir.path(), &archive)?;
        let listener = TcpListener::bind(("0.0.0.0", PORT)).doing("listen")?;
        thread::Builder::new()
            .name("server".into())
            .spawn(move || serve(&listener))
            .doing("start a server")?;
        Ok(Self { dir, archive })
    }

    /// hotbay first; all stopped.
    fn contenders(&self, against: Option<&Path>) -> Result<Vec<Contender>> {
        let mut all = vec![self.hotbay("hotbay", 0, (None, false))?];
        if let Some(other) = against {
            all.push(self.hotbay("hotbay, the other", 1, (Some(other.to_owned()), false))?);
        }
        all.push(self.hotbay("hotbay, vhost", 4, (None, true))?);
        all.push(self.qemu("QEMU, threads", 2, ("threads", false))?);
        all.push(self.qemu("QEMU, io_uring, vhost", 3, ("io_uring", true))?);
        Ok(all)
    }

    fn hotbay(
        &self,
        name: &'static str,
        number: u8,
        (program, vhost): (Option<PathBuf>, bool),
    ) -> Result<Contender> {
        let (image, tap) = (self.image(number)?, Tap::new(number)?);
        let x_vhost = if vhost { ",x_vhost=on" } else { "" };
        let arguments = vec![
            "--disk".to_owned(),
            format!("path={},id=disk", image.display()),
            "--net".to_owned(),
            format!("tap={},id=lan{x_vhost}", tap.name()),
        ];
        let archives = vec![self.archive.clone()];
        let options = Options { arguments, archives, program, words: WORDS, ..Options::default() };
        Contender::new((name, vhost), Machine::Hotbay(options.boot()?), tap)
    }

    fn qemu(
        &self,
        name: &'static str,
        number: u8,
        (aio, vhost): (&str, bool),
    ) -> Result<Contender> {
        let (image, tap) = (self.image(number)?, Tap::new(number)?);
        let (flavour, initramfs) =
            (Flavour::Amd64V6_12, self.dir.path().join(format!("initramfs{number}")));
        append(&flavour.initramfs()?, std::slice::from_ref(&self.archive), &initramfs)?;
        let image = image.display();
        let drive = format!("if=none,id=d,file={image},format=raw,cache=writeback,aio={aio}");
        let on = if vhost { "on" } else { "off" };
        let netdev = format!("tap,id=n,ifname={},script=no,downscript=no,vhost={on}", tap.name());
        let arguments = [
            ("-object", "iothread,id=io".to_owned()),
            ("-drive", drive),
            ("-device", "virtio-blk-pci,drive=d,iothread=io,disable-legacy=on".to_owned()),
            ("-netdev", netdev),
            ("-device", "virtio-net-pci,netdev=n,disable-legacy=on,romfile=".to_owned()),
        ];
        let arguments =
            arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect();
        let peer = Peer { flavour, initramfs, cpus: CPUS, memory: MEMORY, words: WORDS, arguments };
        Contender::new((name, vhost), Machine::Qemu(peer.boot()?), tap)
    }

    /// A disk whose bytes are all there.
    fn image(&self, number: u8) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("disk{number}"));
        fs::write(&path, vec![0x5a; DISK]).doing("make an image")?;
        Ok(path)
    }
}

/// Who is measured.
struct Contender {
    name: &'static str,
    /// The host's kernel serves its network.
    vhost: bool,
    machine: Machine,
    tap: Tap,
}

enum Machine {
    Hotbay(Vm),
    Qemu(Qemu),
}

impl Machine {
    fn guest(&mut self) -> &mut Guest {
        match self {
            Self::Hotbay(vm) => &mut vm.guest,
            Self::Qemu(qemu) => &mut qemu.guest,
        }
    }

    fn signal(&self, signal: &str) -> Result {
        let pid = match self {
            Self::Hotbay(vm) => vm.pid(),
            Self::Qemu(qemu) => qemu.pid(),
        };
        run(Command::new("kill").arg(signal).arg(pid.to_string())).map(drop)
    }
}

impl Contender {
    /// One whose guest has found its devices, and stands still from now on.
    fn new((name, vhost): (&'static str, bool), mut machine: Machine, tap: Tap) -> Result<Self> {
        let (ours, theirs) = (tap.address(1), tap.address(2));
        let guest = machine.guest();
        guest.wait_for("its devices", "test -b /dev/vda && ls -d /sys/class/net/eth0")?;
        guest.run(&format!("ifconfig eth0 {theirs} netmask 255.255.255.0 up"))?;
        guest.wait_for("an answer of the host", &format!("ping -c 1 -W 2 {ours}"))?;
        machine.signal("-STOP")?;
        Ok(Self { name, vhost, machine, tap })
    }

    fn is_ours(&self) -> bool {
        matches!(self.machine, Machine::Hotbay(_))
    }

    /// vhost-net is nothing to hotbay's disks; QEMU's other disk goes with it.
    fn takes_part(&self, measure: &Measure) -> bool {
        !measure.is_disk() || !self.vhost || !self.is_ours()
    }

    /// Lets the guest run, and do this.
    fn measure(&mut self, measure: &Measure, milliseconds: u64) -> Result<Figure> {
        let command = match measure.is_disk() {
            true => format!("load disk {} {milliseconds}", measure.words),
            false => {
                let to = self.tap.address(1);
                format!("load net {} {to}:{PORT} {milliseconds}", measure.words)
            }
        };
        self.machine.signal("-CONT")?;
        let before = Kvm::now()?;
        let said = self.machine.guest().run(&command)?;
        let after = Kvm::now()?;
        self.machine.signal("-STOP")?;
        let numbers = said.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        match numbers.collect::<Vec<_>>()[..] {
            [count, microseconds, all] if microseconds > 0.0 => {
                ensure(count > 0.0, || format!("{}: {command} did nothing", self.name))?;
                let each =
                    |after: u64, before| after.saturating_sub(before) as f64 * measure.of / all;
                Ok(Figure {
                    rate: count / measure.of / microseconds * 1e6,
                    exits: each(after.exits, before.exits),
                    interrupts: each(after.interrupts, before.interrupts),
                })
            }
            _ => Err(Error::Unexpected(format!("{}: {command}: {said}", self.name))),
        }
    }
}

/// A tap of the host with an address, in a network of its own.
struct Tap(u8);

impl Tap {
    fn new(number: u8) -> Result<Self> {
        let tap = Self(number);
        let (name, address) = (tap.name(), format!("{}/24", tap.address(1)));
        for words in [
            // hotbay has no capabilities: a tap is its user's, or not for it.
            ["tuntap", "add", "dev", &name, "mode", "tap", "user", "root"].as_slice(),
            &["addr", "add", &address, "dev", &name],
            &["link", "set", &name, "up"],
        ] {
            run(Command::new("ip").args(words))?;
        }
        Ok(tap)
    }

    fn name(&self) -> String {
        format!("tp{}", self.0)
    }

    fn address(&self, host: u8) -> String {
        format!("192.168.{}.{host}", 80 + self.0)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The lab's host ends with the program, and its taps with it.
        let _ = Command::new("ip").args(["link", "del", &self.name()]).output();
    }
}

/// The host's side: does for each connection what its first byte says, until the guest ends it.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let thread = thread::Builder::new().name("connection".into());
        if let Err(error) = thread.spawn(move || answer(stream)) {
            eprintln!("throughput: nobody serves a connection: {error}");
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut what, mut piece, mut request) = ([0], vec![0; 64 << 10], [0; 64]);
    stream.read_exact(&mut what)?;
    loop {
        match what {
            [b's'] => {
                if stream.read(&mut piece)? == 0 {
                    return Ok(());
                }
            }
            [b'r'] => stream.write_all(&piece)?,
            _ => {
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
            }
        }
    }
}
