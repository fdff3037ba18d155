//! Functions that another process emulates (vfio-user): plugged in and used like the host's, and left behind by a server that
//! dies, hangs, or talks nonsense.

use std::time::Duration;

use api::schema::interrupts::InterruptMode;
use serde_json::{Value, json};
use tests::artifacts::pack_program;
use tests::bench::{Bench, Stimulus};
use tests::emulator::{Emulator, IDENTITY, Shape, register};
use tests::error::{Doing, ensure, same};
use tests::meanwhile::pinging;
use tests::monitor::Monitor;
use tests::registers::{Registers, Width, read_memory, write_memory};
use tests::tally::Row;
use tests::wait::{Look, until};
use tests::wide::Wide;
use tests::{Host, Options, Result, Vm, in_lab};

const PROGRAM: &str = env!("CARGO_BIN_EXE_emulator");
/// No driver, all registers within reach, and 1 MiB of RAM that Linux leaves alone.
const WORDS: &str = "iomem=relaxed hotbay.modules=none memmap=1M$0x10000000";
const SPARE_RAM: u64 = 0x1000_0000;
/// Well below what a server is waited for, and many times what an answer takes on a busy machine.
const AWAKE: Duration = Duration::from_secs(3);

const SHAPE: Shape = Shape { vectors: 2048, split: true, mute: false };

#[test]
fn function_of_another_process_interrupts_copies_and_goes_like_one_of_the_host_s() {
    in_lab(|host| {
        let dir = tempfile::tempdir().doing("make a folder")?;
        let archive = dir.path().join("vectors.cpio");
        pack_program(env!("CARGO_BIN_EXE_vectors"), "vectors", dir.path(), &archive)?;
        let mut vm = Options { archives: vec![archive], ..options() }.boot()?;
        let before = vm.settled_descriptors(host)?;
        for (vectors, split) in [(2048, true), (100, false)] {
            let emulator = Emulator::start(PROGRAM, Shape { vectors, split, mute: false })?;
            let bdf = plug(&vm, &emulator)?;
            let mut bench =
                Bench::new(&mut vm, "u0", &bdf, Stimulus::Emulator)?.without_driver()?;
            same("vectors", &bench.msix.count, &vectors)?;
            interrupts(&mut bench, vectors - 1)?;
            let function = bench.msix.function.clone();
            all_interrupt(&mut vm, &bdf, vectors, split)?;
            memory(&mut vm, &function)?;
            copies(&mut vm, &function)?;
            vm.mode_becomes("u0", InterruptMode::Msix)?;

            vm.remove("u0")?;

            vm.descriptors_return_to(host, before)?;
        }
        let log = vm.log()?;
        ensure(!log.contains("ERROR"), || format!("something has failed: {log}"))
    });
}

/// One event, one interrupt; a masked one is pending and comes once.
fn interrupts(bench: &mut Bench<'_>, number: u16) -> Result {
    let vector = bench.spare(number, Row::Posted, 0)?;
    let before = bench.count(&vector)?;
    // Never awake: it is the function that keeps it.
    bench.fire(&vector)?;
    bench.pending_are(&[&vector])?;
    bench.unmask(&vector)?;
    bench.counts(&vector, before + 1)?;
    bench.fence(&vector)?;

    bench.mask(&vector)?;
    bench.fire(&vector)?;
    bench.fire(&vector)?;
    bench.pending_are(&[&vector])?;
    bench.has_counted(&vector, before + 2)?;
    bench.unmask(&vector)?;
    bench.counts(&vector, before + 3)?;
    bench.pending_are(&[])?;
    bench.mask(&vector)
}

/// Each of its vectors is pending while it is masked, interrupts once when it is unmasked, and once more when it fires then. All are
/// the kernel's in the end.
fn all_interrupt(vm: &mut Vm, bdf: &str, vectors: u16, split: bool) -> Result {
    let pending = if split { "4:0" } else { "2:0x8000" };
    let said = vm.guest.run(&format!("vectors {bdf} {vectors} {pending}"))?;
    let delivered = 2 * u64::from(vectors);
    same(
        "what the guest counted",
        &said.trim(),
        &&*format!("vectors {vectors} delivered {delivered}"),
    )?;
    Wide::of(vm, "u0", bdf)?.come_up(vectors.into())
}

/// BAR 1: the first page is the server's to answer for, the others are mapped.
fn memory(vm: &mut Vm, function: &Registers) -> Result {
    let reads = |vm: &Vm| Ok(vm.counters()?["u0"]["region_reads"].as_u64().unwrap_or(0));
    let before = reads(vm)?;
    for (offset, value) in [(0x10, 0x1234_5678), (0x1010, 0x9abc_def0)] {
        function.write32(&mut vm.guest, 1, offset, value)?;
        same("memory of BAR 1", &function.read32(&mut vm.guest, 1, offset)?, &value)?;
    }
    same("reads that the server was asked for", &reads(vm)?, &(before + 1))
}

/// The function reads and writes guest RAM, by itself and with our help.
fn copies(vm: &mut Vm, function: &Registers) -> Result {
    let (from, to) = (SPARE_RAM, SPARE_RAM + 0x8_0000);
    for (done, copy) in [(1, register::COPY), (2, register::COPY_BY_MESSAGES)] {
        let last = from + 0xfff8;
        write_memory(&mut vm.guest, Width::Qword, from, 0x1111 * done)?;
        write_memory(&mut vm.guest, Width::Qword, last, 0x2222 * done)?;
        for (register, value) in [(register::FROM, from), (register::TO, to), (copy, 0x1_0000)] {
            function.write32(&mut vm.guest, 0, register, value)?;
        }
        same("copies", &function.read32(&mut vm.guest, 0, register::DONE)?, &done)?;
        let arrived = read_memory(&mut vm.guest, Width::Qword, to)?;
        same("the first bytes", &arrived, &(0x1111 * done))?;
        let arrived = read_memory(&mut vm.guest, Width::Qword, to + 0xfff8)?;
        same("the last bytes", &arrived, &(0x2222 * done))?;
    }
    // Past the end of the RAM nobody serves it.
    function.write32(&mut vm.guest, 0, register::FROM, 0xb000_0000)?;
    function.write32(&mut vm.guest, 0, register::COPY_BY_MESSAGES, 8)?;
    same("copies", &function.read32(&mut vm.guest, 0, register::DONE)?, &2)?;
    let failure = function.read32(&mut vm.guest, 0, register::FAILURE)?;
    same("EFAULT", &failure, &14)
}

#[test]
fn server_that_dies_hangs_or_talks_nonsense_is_told_and_stops_nobody() {
    in_lab(|host| {
        let monitor = Monitor::new()?;
        let mut vm = Options { arguments: monitor.arguments(), ..options() }.boot()?;
        let before = vm.settled_descriptors(host)?;
        for (end, why) in [
            (End::Stops, "has not answered REGION_WRITE"),
            (End::Dies, "has closed the connection"),
            (End::TalksNonsense, "sends what is no message"),
            (End::IsKilledWhileItFires, "has closed the connection"),
        ] {
            let mut emulator = Emulator::start(PROGRAM, SHAPE)?;
            let function = use_first(&mut vm, &emulator)?;
            let failing =
                monitor.of("u0")?.iter().filter(|event| *event == "device-failing").count();

            bring_about(end, &mut vm, &function, &mut emulator)?;

            until_failing(&monitor, failing + 1, why)?;
            let failure = vm.info()?["device_tree"]["u0"]["failure"].take();
            ensure(failure.as_str().is_some_and(|said| said.contains(why)), || {
                failure.to_string()
            })?;
            let read = function.read32(&mut vm.guest, 0, register::IDENTITY)?;
            same("a register of nobody's", &read, &0xffff_ffff)?;
            function.write32(&mut vm.guest, 0, register::SCRATCH, 7)?;
            same("the state of the VM", &vm.state()?, &"Running".to_owned())?;
            vm.remove("u0")?;
            vm.descriptors_return_to(host, before)?;
        }
        // It can be had again, from a server that lives, and that cannot take back what it let us map.
        let emulator = Emulator::start(PROGRAM, SHAPE)?;
        let function = use_first(&mut vm, &emulator)?;
        cut_off(&mut vm, &function)?;
        vm.remove("u0")?;
        vm.descriptors_return_to(host, before)
    });
}

/// How a server ends, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is stopped (SIGSTOP), which the guest's next access finds out.
    Stops,
    /// In the middle of an access.
    Dies,
    /// In its answer to an access.
    TalksNonsense,
    /// Its vectors fire without end, and nobody asks it anything.
    IsKilledWhileItFires,
}

/// The API answers meanwhile.
fn bring_about(end: End, vm: &mut Vm, function: &Registers, emulator: &mut Emulator) -> Result {
    let (at, value) = match end {
        End::Stops => {
            emulator.stop()?;
            (register::SCRATCH, 7)
        }
        End::Dies => (register::MOOD, 2),
        End::TalksNonsense => (register::MOOD, 3),
        End::IsKilledWhileItFires => {
            storm(vm, &function.bdf)?;
            return emulator.kill();
        }
    };
    let guest = &mut vm.guest;
    let ((), latencies) = pinging(&vm.api, || function.write32(guest, 0, at, value))?;
    ensure(latencies.longest() < AWAKE, || format!("the API was not awake: {latencies}"))
}

/// Two live vectors fire until their server ends.
fn storm(vm: &mut Vm, bdf: &str) -> Result {
    let mut bench = Bench::new(vm, "u0", bdf, Stimulus::Emulator)?.without_driver()?;
    for (number, row) in [(0, Row::Posted), (1, Row::Nested)] {
        let vector = bench.spare(number, row, 0)?;
        bench.unmask(&vector)?;
    }
    let function = bench.msix.function.clone();
    function.write32(&mut bench.vm.guest, 0, register::STORM, 2)?;
    for row in [Row::Posted, Row::Nested] {
        let begun = row.count(&mut bench.vm.guest)?;
        until("more interrupts", Duration::from_secs(60), || {
            let now = row.count(&mut bench.vm.guest)?;
            Ok(if now > begun + 10 { Look::Holds(()) } else { Look::NotYet(now.to_string()) })
        })?;
    }
    Ok(())
}

/// The file behind a mapped BAR cannot be cut off under the guest.
fn cut_off(vm: &mut Vm, function: &Registers) -> Result {
    function.write32(&mut vm.guest, 1, 0x1010, 7)?;

    function.write32(&mut vm.guest, 0, register::MOOD, 4)?;

    let failure = function.read32(&mut vm.guest, 0, register::FAILURE)?;
    same("EPERM", &failure, &1)?;
    same("memory of BAR 1", &function.read32(&mut vm.guest, 1, 0x1010)?, &7)
}

fn until_failing(monitor: &Monitor, times: usize, why: &str) -> Result {
    until("one more device-failing", Duration::from_secs(60), || {
        let told = monitor.named("device-failing")?;
        let last = told.last().map(Value::to_string).unwrap_or_default();
        let enough = told.len() >= times && last.contains(why);
        Ok(if enough { Look::Holds(()) } else { Look::NotYet(last) })
    })
}

#[test]
fn what_is_no_server_of_ours_is_refused_and_leaves_nothing() {
    in_lab(|host| {
        let vm = options().boot()?;
        let before = vm.settled_descriptors(host)?;
        let mute = Emulator::start(PROGRAM, Shape { mute: true, ..SHAPE })?;
        let ask = |socket: &str| {
            vm.api.put_json("vm.add-user-device", &json!({ "socket": socket, "id": "u0" }))
        };
        let mute = mute.socket();
        let (refused, latencies) = pinging(&vm.api, || ask(&mute.display().to_string()))?;
        refusal(&refused, 500, "device.broken")?;
        ensure(latencies.longest() < AWAKE, || format!("the API was not awake: {latencies}"))?;
        refusal(&ask("/nowhere")?, 404, "device.bad-path")?;
        refusal(&ask(&"x".repeat(108))?, 400, "device.bad-path")?;

        let emulator = Emulator::start(PROGRAM, SHAPE)?;
        plug(&vm, &emulator)?;
        let socket = emulator.socket().display().to_string();
        let again = json!({ "socket": socket, "id": "u1" });
        refusal(&vm.api.put_json("vm.add-user-device", &again)?, 400, "device.in-use")?;
        vm.remove("u0")?;
        vm.descriptors_return_to(host, before)?;

        let private = Options { memory: "size=512M", ..options() }.boot()?;
        let body = json!({ "socket": socket });
        let answer = private.api.put_json("vm.add-user-device", &body)?;
        refusal(&answer, 400, "device.bad-request")?;
        ensure(format!("{answer:?}").contains("shared=on"), || format!("no remedy: {answer:?}"))
    });
}

#[test]
fn server_s_function_is_there_at_boot_and_reset_with_the_guest() {
    in_lab(|_: &Host| {
        let emulator = Emulator::start(PROGRAM, SHAPE)?;
        let device = format!("socket={},id=u0", emulator.socket().display());
        let arguments = vec!["--user-device".to_owned(), device];
        let mut vm = Options { arguments, ..options() }.boot()?;
        let bdf =
            vm.info()?["device_tree"]["u0"]["pci_bdf"].as_str().unwrap_or_default().to_owned();
        let function = switched_on(&mut vm, &bdf)?;
        function.write32(&mut vm.guest, 0, register::SCRATCH, 7)?;
        same("scratch", &function.read32(&mut vm.guest, 0, register::SCRATCH)?, &7)?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;

        let function = switched_on(&mut vm, &bdf)?;
        same("scratch after a reset", &function.read32(&mut vm.guest, 0, register::SCRATCH)?, &0)?;
        let reset = vm.info()?["device_tree"]["u0"]["reset"].take();
        same("the method", &reset["method"], &json!("vfio-user"))?;
        same("the reset", &reset["last"], &json!("Done"))
    });
}

fn options() -> Options {
    Options { memory: "size=512M,shared=on", words: WORDS, ..Options::default() }
}

/// Plugs a server's function in; its address in the guest.
fn plug(vm: &Vm, emulator: &Emulator) -> Result<String> {
    let body = json!({ "socket": emulator.socket(), "id": "u0" });
    let added = vm.api.put_json("vm.add-user-device", &body)?.ok()?;
    Ok(added["bdf"].as_str().unwrap_or_default().to_owned())
}

/// Plugs it in and sees that it works.
fn use_first(vm: &mut Vm, emulator: &Emulator) -> Result<Registers> {
    let bdf = plug(vm, emulator)?;
    let function = switched_on(vm, &bdf)?;
    let identity = function.read32(&mut vm.guest, 0, register::IDENTITY)?;
    same("the identity", &identity, &IDENTITY.into())?;
    Ok(function)
}

fn switched_on(vm: &mut Vm, bdf: &str) -> Result<Registers> {
    let function = Registers::of(&mut vm.guest, bdf)?;
    function.switch_on(&mut vm.guest, false)?;
    Ok(function)
}

fn refusal(answer: &tests::http::Answer, status: u16, code: &str) -> Result {
    let said = format!("{answer:?}");
    ensure(answer.status == status && said.contains(code), || format!("not {code}: {said}"))
}
