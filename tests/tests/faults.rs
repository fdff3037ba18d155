//! Each system call that may fail in an add or a removal fails once: nothing is left behind, the next add works, and so
//! does its device in the guest. docs/testing.md has the long version.

use serde_json::json;
use tests::error::{ensure, same};
use tests::faults::{Fault, Struck, during};
use tests::held::Held;
use tests::http::Answer;
use tests::rounds::{number, seed};
use tests::vm::add_body;
use tests::{Error, Function, Host, Kind, Options, Result, Vm, in_lab};

/// Of so many calls one is tried in every run of the tests.
const STRIDE: usize = 24;
/// The event loop, the worker that makes or closes a device, and those that help it to fault RAM in.
const THREADS: [&str; 3] = ["hotbay", "worker", "populate"];

#[test]
fn a_call_that_fails_in_an_add_or_a_removal_leaves_nothing_behind() {
    in_lab(|host| all_that_may_fail(host, Kind::NvmeNarrow));
}

#[test]
fn a_call_that_fails_beside_a_reset_of_the_function_s_bus_leaves_nothing_behind() {
    in_lab(|host| all_that_may_fail(host, Kind::E1000e));
}

fn all_that_may_fail(host: &Host, kind: Kind) -> Result {
    let mut bench = Bench::new(host, kind)?;
    let (adds, removals) =
        (bench.try_each(Bench::add_struck)?, bench.try_each(Bench::removal_struck)?);
    println!("measured: {adds} calls of an add and {removals} of a removal failed, one at a time");
    ensure(adds > 0 && removals > 0, || "no call failed".to_owned())
}

/// A guest, a function for it, and what the VMM holds without it.
struct Bench<'h> {
    host: &'h Host,
    function: Function<'h>,
    vm: Vm,
    before: Held,
    place: String,
}

impl<'h> Bench<'h> {
    fn new(host: &'h Host, kind: Kind) -> Result<Self> {
        let function = kind.take(host)?;
        let mut vm = Options::default().boot()?;
        // The first time, what is kept for ever is made: the guest's own state, and hotbay's.
        let place = vm.add(&function.bdf, "function0")?;
        function.kind.use_in(&mut vm.guest)?;
        vm.remove("function0")?;
        let before = Held::of(&vm, host)?;
        Ok(Self { host, function, vm, before, place })
    }

    /// Tries calls until there are no more of them; how many have failed.
    fn try_each(
        &mut self,
        mut scene: impl FnMut(&mut Self, Fault) -> Result<Option<Struck>>,
    ) -> Result<usize> {
        let stride = number("HOTBAY_FAULTS_STRIDE", STRIDE)?;
        let first = usize::try_from(seed()?).unwrap_or_default() % stride;
        let mut tried = 0;
        for thread in THREADS {
            for after in (first..).step_by(stride) {
                let Some(struck) = scene(self, Fault { thread, after })? else { break };
                let named = |error: Error| Error::Unexpected(format!("after {struck}: {error}"));
                self.all_is_well().map_err(named)?;
                tried += 1;
            }
        }
        Ok(tried)
    }

    /// An add that is struck. It may end well: not every call is needed.
    fn add_struck(&mut self, fault: Fault) -> Result<Option<Struck>> {
        let add =
            || self.vm.api.put_json("vm.add-device", &add_body(&self.function.bdf, "function0"));
        let (answer, struck) = during(self.vm.pid(), fault, || self.nudge(), add)?;
        self.say("add", &struck, &answer);
        if answer.status == 200 {
            self.vm.remove("function0")?;
        }
        Ok(struck)
    }

    /// A removal that is struck.
    fn removal_struck(&mut self, fault: Fault) -> Result<Option<Struck>> {
        self.vm.add(&self.function.bdf, "function0")?;
        self.function.kind.use_in(&mut self.vm.guest)?;
        let body = json!({ "id": "function0", "wait_ms": 60_000 });
        let remove = || self.vm.api.put_json("vm.remove-device", &body);
        let (answer, struck) = during(self.vm.pid(), fault, || self.nudge(), remove)?;
        self.say("removal", &struck, &answer);
        if answer.status != 204 {
            self.vm.remove("function0")?;
        }
        Ok(struck)
    }

    /// Everything is as before, and the function can be plugged, used and unplugged.
    fn all_is_well(&mut self) -> Result {
        self.before.returns(&self.vm, self.host)?;
        let place = self.vm.add(&self.function.bdf, "function0")?;
        same("place", &place, &self.place)?;
        self.function.kind.use_in(&mut self.vm.guest)?;
        self.vm.remove("function0")?;
        self.before.returns(&self.vm, self.host)
    }

    fn nudge(&self) -> Result {
        self.vm.info().map(drop)
    }

    fn say(&self, what: &str, struck: &Option<Struck>, answer: &Answer) {
        if let Some(struck) = struck {
            println!("{what}: {struck}: {} {}", answer.status, answer.body);
        }
    }
}
