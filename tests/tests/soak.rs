//! Plugged and unplugged for a long time: in any order, from a guest under load, from one that never lets go, and from
//! VMMs that are killed. docs/testing.md has the long version.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};
use tests::error::{Doing, ensure};
use tests::held::Held;
use tests::rounds::{chance, rounds};
use tests::vm::add_body;
use tests::wait::{Look, until};
use tests::{Bdf, Error, Function, Host, Kind, Options, Result, Vm, in_lab};

/// Rounds in every run of the tests.
const PLUGS: u32 = 12;
const KILLS: u32 = 4;
/// The last moment of an add or a removal at which a VMM is killed.
const LATEST: Duration = Duration::from_millis(1500);
/// From a device taken by force to the guest's letting go of its slot.
const LETTING_GO_LIMIT: Duration = Duration::from_secs(60);
/// Until the kernel has been read.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Kibibytes that a VMM may have grown by in the end.
const GROWTH: u64 = 1024;

#[test]
fn functions_come_and_go_in_any_order_and_leave_nothing() {
    in_lab(|host| {
        let (rounds, mut chance) = (rounds(PLUGS)?, chance()?);
        let mut crowd = Crowd::new(host)?;
        let free = Held::of(&crowd.vm, host)?.resources.free_slots;
        // Once each, for what is made the first time and stays.
        for how in [Way::Asked, Way::Forced, Way::Restarted] {
            crowd.fill()?;
            crowd.empty(how)?;
        }
        let before = crowd.settled(host, free)?;
        let resident = resident(crowd.vm.pid())?;
        let begun = Instant::now();

        let mut ways = BTreeMap::new();
        for _ in 0..rounds {
            *ways.entry(crowd.round(&mut chance)?).or_insert(0) += 1;
        }
        crowd.empty(Way::Asked)?;

        before.returns(&crowd.vm, host)?;
        let grown = self::resident(crowd.vm.pid())?.saturating_sub(resident);
        println!(
            "measured: {rounds} removals {ways:?} in {:.0?}, {grown} KiB more than before; {before:?}",
            begun.elapsed()
        );
        ensure(grown <= GROWTH, || format!("hotbay has grown by {grown} KiB"))?;
        crowd.fill()?;
        crowd.use_all()
    });
}

#[test]
fn killed_at_any_moment_the_next_start_and_plug_work() {
    in_lab(|host| {
        let (rounds, mut chance) = (rounds(KILLS)?, chance()?);
        let disk = Kind::NvmeNarrow.take(host)?;
        let add = add_body(&disk.bdf, "disk0");
        let remove = json!({ "id": "disk0", "force": true, "wait_ms": 60_000 });
        let mut answered = 0;
        for _ in 0..rounds {
            answered += u32::from(killed_during(start()?, "vm.add-device", &add, &mut chance)?);
            let vm = start()?;
            vm.add(&disk.bdf, "disk0")?;
            answered += u32::from(killed_during(vm, "vm.remove-device", &remove, &mut chance)?);
        }
        println!("measured: {} VMMs killed, {answered} of them after the answer", 2 * rounds);
        let mut vm = Options::default().boot()?;
        vm.add(&disk.bdf, "disk0")?;
        disk.kind.use_in(&mut vm.guest)
    });
}

/// A VMM whose guest only begins to boot: what it takes from the host does not depend on the guest.
fn start() -> Result<Vm> {
    let vm = Options { memory: "size=256M", ..Options::default() }.start()?;
    until("a guest that runs", START_LIMIT, || {
        let state = vm.state()?;
        Ok(if state == "Running" { Look::Holds(()) } else { Look::NotYet(state) })
    })?;
    Ok(vm)
}

/// Asks, and kills the VMM at some moment; whether it had answered by then.
fn killed_during(vm: Vm, verb: &str, body: &Value, chance: &mut Rng) -> Result<bool> {
    let moment = LATEST.mul_f64(chance.f64());
    let (api, (answer, answered)) = (vm.api.clone(), mpsc::channel());
    thread::scope(|scope| {
        // It fails when the VMM dies, and nobody listens when it is late.
        scope.spawn(move || answer.send(api.put_json(verb, body)));
        let answered = answered.recv_timeout(moment).ok();
        drop(vm); // by SIGKILL
        answered.map_or(Ok(false), |answer| answer?.ok().map(|_| true))
    })
}

/// How devices leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The guest is asked.
    Asked,
    /// The guest stands still, so that it never lets go, and the device is taken.
    Forced,
    /// The guest stands still, and starts afresh before it could let go.
    Restarted,
}

/// A guest under load and the functions that come and go.
struct Crowd<'h> {
    vm: Vm,
    functions: Vec<(&'static str, Function<'h>)>,
    plugged: Vec<&'static str>,
}

impl<'h> Crowd<'h> {
    fn new(host: &'h Host) -> Result<Self> {
        let functions = vec![
            ("nic0", Kind::E1000e.take(host)?),
            ("disk0", Kind::Nvme.take(host)?),
            ("disk1", Kind::NvmeNarrow.take(host)?),
        ];
        let vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        let mut crowd = Self { vm, functions, plugged: Vec::new() };
        crowd.load()?;
        Ok(crowd)
    }

    /// Gives the guest something to do until it reboots.
    fn load(&mut self) -> Result {
        let load = "(while :; do md5sum /bin/busybox; done) >/dev/null 2>&1 &";
        self.vm.guest.run(load).map(drop)
    }

    /// Plugs whatever is missing in, or takes one of the functions away: how, if it did.
    fn round(&mut self, chance: &mut Rng) -> Result<Way> {
        loop {
            let (id, function) = &self.functions[chance.usize(..self.functions.len())];
            let (id, bdf) = (*id, function.bdf.clone());
            if self.plugged.contains(&id) {
                let way = match chance.u8(..32) {
                    0..4 => Way::Forced,
                    4..6 => Way::Restarted,
                    _ => Way::Asked,
                };
                return self.take(id, way).map(|()| way);
            }
            self.plug(id, &bdf)?;
        }
    }

    fn plug(&mut self, id: &'static str, bdf: &Bdf) -> Result {
        self.vm.add(bdf, id)?;
        self.plugged.push(id);
        Ok(())
    }

    fn take(&mut self, id: &'static str, way: Way) -> Result {
        match way {
            Way::Asked => self.vm.remove(id)?,
            Way::Forced => {
                self.ask_in_vain(id)?;
                let force = json!({ "id": id, "force": true, "wait_ms": 60_000 });
                self.vm.api.put_json("vm.remove-device", &force)?.ok()?;
                self.vm.resume()?;
            }
            Way::Restarted => {
                self.ask_in_vain(id)?;
                self.vm.api.put("vm.reboot")?.ok()?;
                self.vm.gone(id)?;
                self.vm.guest.ready()?;
                self.load()?;
            }
        }
        self.plugged.retain(|plugged| *plugged != id);
        Ok(())
    }

    /// Asks a guest that stands still to let go.
    fn ask_in_vain(&self, id: &str) -> Result {
        self.vm.pause()?;
        self.vm.api.put_json("vm.remove-device", &json!({ "id": id }))?.ok().map(drop)
    }

    fn fill(&mut self) -> Result {
        let missing: Vec<_> =
            self.functions.iter().filter(|(id, _)| !self.plugged.contains(id)).collect();
        let missing: Vec<_> = missing.into_iter().map(|(id, f)| (*id, f.bdf.clone())).collect();
        missing.into_iter().try_for_each(|(id, bdf)| self.plug(id, &bdf))
    }

    fn empty(&mut self, way: Way) -> Result {
        self.plugged.clone().into_iter().try_for_each(|id| self.take(id, way))
    }

    /// What the VMM holds when the guest has let go of every slot, those too whose devices were taken.
    fn settled(&self, host: &Host, free_slots: u64) -> Result<Held> {
        until("a guest that has let go of all slots", LETTING_GO_LIMIT, || {
            let held = Held::of(&self.vm, host)?;
            let all = held.resources.free_slots == free_slots;
            Ok(if all { Look::Holds(held) } else { Look::NotYet(format!("{held:?}")) })
        })
    }

    fn use_all(&mut self) -> Result {
        self.functions.iter().try_for_each(|(_, function)| function.kind.use_in(&mut self.vm.guest))
    }
}

/// Kibibytes of the process that are in memory, its guest's among them.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).doing("read a status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.ok_or_else(|| Error::Unexpected(format!("no VmRSS: {status}")))
}
