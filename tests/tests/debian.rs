//! A Debian with its own root file system on a disk of ours: it boots to a login, has networks, and works on while disks,
//! network cards and functions of the host come and go. docs/testing.md has the long version.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::artifacts::pack_program;
use tests::debian::System;
use tests::error::{Doing, ensure};
use tests::guest::Guest;
use tests::held::Held;
use tests::host::run;
use tests::rounds::{chance, rounds};
use tests::sectors::{BLOCK, Disk, Plan};
use tests::wait::{Look, until};
use tests::{Error, Function, Host, Kind, Options, Result, Vm, in_lab};

/// Removals in every run of the tests.
const REMOVALS: u32 = 4;
/// Blocks of the disk that is written all the time.
const BLOCKS: u64 = 1024;
/// Bytes of a disk that comes and goes.
const VISITOR: usize = 8 << 20;
/// Until each part of the work has gone on.
const WORK_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn debian_works_on_while_disks_cards_and_functions_come_and_go() {
    in_lab(|host| {
        let (rounds, mut chance, begun) = (rounds(REMOVALS)?, chance()?, Instant::now());
        let dir = tempfile::tempdir().doing("make a folder")?;
        let (system, mut work) = (System::new(dir.path())?, Work::new(dir.path(), chance.u64(..))?);
        let mut vm = system.boot(work.options())?;
        println!("measured: logged in after {:.0?}", begun.elapsed());
        work.begin(&mut vm.guest)?;
        let mut visitors = visitors(host, dir.path())?;
        // Once, for what the first function of a VM makes, and stays.
        visitors[0].come(&vm)?;
        visitors[0].go(&mut vm)?;
        let before = Held::of(&vm, host)?;

        println!("measured: works after {:.0?}", begun.elapsed());

        let mut removed = 0;
        while removed < rounds {
            let visitor = chance.usize(..visitors.len());
            let visitor = &mut visitors[visitor];
            if visitor.is_there {
                visitor.go(&mut vm)?;
                removed += 1;
            } else {
                visitor.come(&vm)?;
            }
            work.goes_on(&mut vm.guest)?;
        }
        visitors.iter_mut().filter(|visitor| visitor.is_there).try_for_each(|v| v.go(&mut vm))?;

        println!("measured: {removed} removals after {:.0?}", begun.elapsed());
        before.returns(&vm, host)?;
        work.ends(&mut vm.guest)?;
        vm.guest.type_in("systemctl poweroff\n")?;
        vm.ended()?;
        work.is_all_there()?;
        system.is_clean()
    });
}

/// What the guest does all the time: a program that writes to a disk and reads again what it wrote, and pings through
/// two network cards.
struct Work {
    data: PathBuf,
    tools: PathBuf,
    cards: [Card; 2],
    seed: u64,
    /// The last write that was flushed, and each card's answers to pings, when somebody last looked.
    done: [u64; 3],
}

impl Work {
    fn new(dir: &Path, seed: u64) -> Result<Self> {
        let (data, tools) = (dir.join("data.img"), dir.join("tools.img"));
        let size = BLOCKS * BLOCK as u64;
        File::create(&data).and_then(|file| file.set_len(size)).doing("make an image")?;
        pack_program(env!("CARGO_BIN_EXE_scribe"), "scribe", dir, &dir.join("scribe.cpio"))?;
        run(Command::new("tar").arg("-C").arg(dir.join("scribe")).arg("-cf").arg(&tools).arg("."))?;
        let cards = [Card::new("lan0", 70)?, Card::new("lan1", 71)?];
        Ok(Self { data, tools, cards, seed, done: [0; 3] })
    }

    fn options(&self) -> Options {
        let disks = [
            format!("path={},id=data,num_queues=4", self.data.display()),
            format!("path={},id=tools,readonly=on", self.tools.display()),
        ];
        let disks = disks.into_iter().flat_map(|disk| ["--disk".to_owned(), disk]);
        let card = |card: &Card| format!("tap={0},mac={1},id={0}", card.id, card.mac());
        let cards = self.cards.iter().flat_map(|it| ["--net".to_owned(), card(it)]);
        Options {
            cpus: "boot=4",
            memory: "size=768M",
            arguments: disks.chain(cards).collect(),
            ..Options::default()
        }
    }

    fn begin(&self, guest: &mut Guest) -> Result {
        for card in &self.cards {
            card.isolate()?;
            card.ping(guest)?;
            let (id, host, interface) = (card.id, card.address(1), card.interface(guest)?);
            begin(guest, id, &format!("ping -i 0.2 -I {interface} {host}"))?;
        }
        guest.run(&format!("tar -xf {} -C /opt", by_id("tools")))?;
        // With the libraries of the machine it was built on, and what comes and goes need not wait for it.
        let (program, plan) = ("/opt/bin/scribe", format!("{} {BLOCKS} 1", self.seed));
        let loader =
            "nice -n 19 /opt/lib64/ld-linux-x86-64.so.2 --library-path /opt/lib/x86_64-linux-gnu";
        let scribe = format!("{loader} {program} {} {plan}", by_id("data"));
        begin(guest, "scribe", &scribe)
    }

    /// Waits until each part of it has got further than when somebody last looked.
    fn goes_on(&mut self, guest: &mut Guest) -> Result {
        let before = self.done;
        self.done = until("more work of the guest", WORK_LIMIT, || {
            let (now, said) = Self::look(guest)?;
            let all = before.iter().zip(&now).all(|(before, now)| now > before);
            Ok(if all { Look::Holds(now) } else { Look::NotYet(format!("{before:?}, {said}")) })
        })?;
        Ok(())
    }

    /// How far each part of it is, and in which words. The program says `wrong` or `failed` in place of a number.
    fn look(guest: &mut Guest) -> Result<([u64; 3], String)> {
        let said = guest.run(
            "tail -n 1 /run/scribe; for card in lan0 lan1; do grep -c 'bytes from' /run/$card; done; true",
        )?;
        let mut numbers = said.lines().map(|line| line.trim_start_matches("flushed ").parse().ok());
        let done = [(); 3].map(|()| numbers.next().flatten().unwrap_or(0));
        Ok((done, said))
    }

    /// Ends it; no ping but the last may be without an answer.
    fn ends(&mut self, guest: &mut Guest) -> Result {
        self.goes_on(guest)?;
        for (name, signal) in [("lan0", "INT"), ("lan1", "INT"), ("scribe", "TERM")] {
            let process = format!("$(cat /run/{name}.pid)");
            guest.run(&format!("kill -{signal} {process}; wait {process}; true"))?;
        }
        self.done = Self::look(guest)?.0;
        for card in &self.cards {
            let report = guest.run(&format!("grep transmitted /run/{}", card.id))?;
            let mut numbers = report.split(' ').filter_map(|word| word.parse::<u64>().ok());
            let (sent, back) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            ensure(back > 0 && sent <= back + 1, || format!("{}: {report}", card.id))?;
        }
        println!("measured: {:?} writes that were flushed, and pings", self.done);
        Ok(())
    }

    /// What was flushed is in the image, and nothing that was never written.
    fn is_all_there(&self) -> Result {
        let image = fs::read(&self.data).doing("read the image")?;
        let now = Disk::read(&image).map_err(Error::Unexpected)?;
        let plan = Plan::new(self.seed, BLOCKS, 1);
        Disk::empty(BLOCKS).becomes(&now, plan, self.done[0]).map_err(Error::Unexpected)
    }
}

/// Starts a program in the guest that goes on; what it says is in a file of this name.
fn begin(guest: &mut Guest, name: &str, program: &str) -> Result {
    guest.run(&format!("{program} >/run/{name} 2>&1 & echo $! >/run/{name}.pid")).map(drop)
}

/// A device that comes and goes.
struct Visitor<'h> {
    id: &'static str,
    what: What<'h>,
    is_there: bool,
}

enum What<'h> {
    /// Its image.
    Disk(PathBuf),
    /// Made anew each time: its tap is in a network namespace then, where nobody finds it again.
    Card(u8, Option<Card>),
    Function(Function<'h>),
}

/// All that come and go, a function first.
fn visitors<'h>(host: &'h Host, dir: &Path) -> Result<Vec<Visitor<'h>>> {
    let all = [
        ("nvme", What::Function(Kind::Nvme.take(host)?)),
        ("e1000e", What::Function(Kind::E1000e.take(host)?)),
        ("igb", What::Function(Kind::Igb.take(host)?)),
        ("disk0", What::Disk(dir.join("disk0.img"))),
        ("disk1", What::Disk(dir.join("disk1.img"))),
        ("net0", What::Card(72, None)),
        ("net1", What::Card(73, None)),
    ];
    Ok(all.into_iter().map(|(id, what)| Visitor { id, what, is_there: false }).collect())
}

impl Visitor<'_> {
    fn come(&mut self, vm: &Vm) -> Result {
        match &mut self.what {
            What::Disk(image) => {
                let mut bytes = vec![0; VISITOR];
                fastrand::fill(&mut bytes);
                fs::write(&*image, bytes).doing("make an image")?;
                let disk = json!({ "path": image, "id": self.id, "num_queues": 4 });
                vm.api.put_json("vm.add-disk", &disk)?.ok()?;
            }
            What::Card(network, card) => {
                let new = Card::new(self.id, *network)?;
                let net = json!({ "tap": new.id, "mac": new.mac(), "id": new.id });
                vm.api.put_json("vm.add-net", &net)?.ok()?;
                new.isolate()?;
                *card = Some(new);
            }
            What::Function(function) => drop(vm.add(&function.bdf, self.id)?),
        }
        self.is_there = true;
        Ok(())
    }

    /// Is used, and goes.
    fn go(&mut self, vm: &mut Vm) -> Result {
        match &mut self.what {
            What::Disk(image) => {
                copy_half(&mut vm.guest, self.id, image)?;
                vm.remove(self.id)?;
                is_doubled(image)?;
            }
            What::Card(_, card) => {
                card.as_ref().map_or(Ok(()), |card| card.ping(&mut vm.guest))?;
                vm.remove(self.id)?;
                *card = None;
            }
            What::Function(function) => {
                function.kind.use_in(&mut vm.guest)?;
                vm.remove(self.id)?;
            }
        }
        self.is_there = false;
        Ok(())
    }
}

/// The guest reads all of a disk, which is what its image holds, and writes the first half of it over the second.
fn copy_half(guest: &mut Guest, id: &str, image: &Path) -> Result {
    const PIECE: usize = 64 << 10;
    let disk = by_id(id);
    guest.wait_for("udev's name of the disk", &format!("test -b {disk}"))?;
    let expected = run(Command::new("sha256sum").arg(image))?;
    let read =
        guest.run(&format!("dd if={disk} bs={PIECE} iflag=direct status=none | sha256sum"))?;
    ensure(read.get(..64) == expected.get(..64), || format!("{id}: {read}, not {expected}"))?;
    let half = VISITOR / 2 / PIECE;
    let how = format!("bs={PIECE} count={half} seek={half} conv=notrunc,fsync status=none");
    guest.run(&format!("dd if={disk} of={disk} {how}")).map(drop)
}

fn is_doubled(image: &Path) -> Result {
    let image = fs::read(image).doing("read an image")?;
    let (first, second) = image.split_at(VISITOR / 2);
    ensure(first == second, || "the image does not hold what the guest has written".into())
}

/// What udev calls a disk by its serial number, which is its id.
fn by_id(id: &str) -> String {
    format!("/dev/disk/by-id/virtio-{id}")
}

/// A network card of the guest, whose tap is alone with an address in a network namespace of its name.
struct Card {
    id: &'static str,
    network: u8,
}

impl Card {
    /// A tap for hotbay to open, which is in its own network namespace.
    fn new(id: &'static str, network: u8) -> Result<Self> {
        run(Command::new("modprobe").arg("tun"))?;
        let card = Self { id, network };
        ip(&["netns", "add", id])?;
        // hotbay has no capabilities: a tap is its user's, or not for it.
        ip(&["tuntap", "add", "dev", id, "mode", "tap", "user", "root"])?;
        Ok(card)
    }

    /// Moves the tap, now that hotbay has it, away from all others.
    fn isolate(&self) -> Result {
        ip(&["link", "set", self.id, "netns", self.id])?;
        ip(&["-n", self.id, "addr", "add", &format!("{}/24", self.address(1)), "dev", self.id])?;
        ip(&["-n", self.id, "link", "set", self.id, "up"])
    }

    fn mac(&self) -> String {
        format!("02:68:6f:74:62:{:02x}", self.network)
    }

    fn address(&self, host: u8) -> String {
        format!("192.168.{}.{host}", self.network)
    }

    fn interface(&self, guest: &mut Guest) -> Result<String> {
        let find =
            format!("grep -l {} /sys/class/net/*/address | cut -d / -f 5 | grep .", self.mac());
        guest.wait_for("the card", &find)
    }

    /// Gives the guest's end an address and pings the tap.
    fn ping(&self, guest: &mut Guest) -> Result {
        let (interface, ours, theirs) = (self.interface(guest)?, self.address(1), self.address(2));
        guest.run(&format!(
            "ip link set {interface} up; ip addr replace {theirs}/24 dev {interface}"
        ))?;
        let ping = format!("ping -I {interface}");
        guest.wait_for("an answer of the host", &format!("{ping} -c 1 -W 2 {ours}"))?;
        guest.run(&format!("{ping} -i 0.2 -c 3 -W 5 {ours} | grep ' 0% packet loss'")).map(drop)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // Either fails when it is not there: the tap goes with its namespace.
        let _ = ip(&["netns", "del", self.id]);
        let _ = ip(&["link", "del", self.id]);
    }
}

fn ip(arguments: &[&str]) -> Result {
    run(Command::new("ip").args(arguments)).map(drop)
}
