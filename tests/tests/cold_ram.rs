//! The first device of a guest has all RAM faulted in and pinned. While it is cold that takes long, so it can be warmed
//! before, and an add that nobody wants any more can be cancelled.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::error::{Doing, ensure};
use tests::events::Events;
use tests::meanwhile::asking;
use tests::vm::add_body;
use tests::{Kind, Options, Result, Vm, in_lab};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// An add when RAM is warm.
const WARM_ADD: Duration = Duration::from_millis(1500);

#[test]
fn device_is_there_soon_when_ram_was_warmed_in_the_background() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let dir = tempfile::tempdir().doing("make a folder")?;
        let (mut vm, events) = up(dir.path(), "size=2G,prefault=background")?;
        events.expect("memory-warmed", LIMIT, |_| true)?;
        let warm = vm.info()?["memory_warm_size"].take();
        ensure(warm == 2048 * MIB, || format!("{warm} bytes are warm"))?;

        let begun = Instant::now();
        vm.add(&nic.bdf, "nic0")?;
        let add = begun.elapsed();

        println!("measured: add with 2 GiB of warm RAM: {add:.2?}");
        ensure(add < WARM_ADD, || format!("{add:.2?}"))?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn removal_cancels_an_add_and_the_next_one_works() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let dir = tempfile::tempdir().doing("make a folder")?;
        let (mut vm, events) = up(dir.path(), "size=1G")?;
        let before = vm.settled_descriptors(host)?;

        let (api, body) = (vm.api.clone(), add_body(&nic.bdf, "nic0"));
        let (add, removal) = asking(&api, ("vm.add-device", &body), || {
            mapped(&events, MIB)?;
            let begun = Instant::now();
            api.put_json("vm.remove-device", &json!({ "id": "nic0", "wait_ms": 60_000 }))?.ok()?;
            Ok(begun.elapsed())
        })?;

        println!("measured: a removal cancels an add within {removal:.2?}");
        add.answer.fails(503, "device.cancelled")?;
        let failed = events.of("device-add-failed")?;
        ensure(failed.len() == 1, || format!("{failed:?}"))?;
        vm.descriptors_return_to(host, before)?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)
    });
}

/// A guest that is up, and its events.
fn up(dir: &Path, memory: &'static str) -> Result<(Vm, Events)> {
    let events = Events::at(dir.join("events"));
    let arguments = vec![events.argument(), "-v".to_owned()];
    let vm = Options { memory, arguments, ..Options::default() }.boot()?;
    Ok((vm, events))
}

/// Waits until so much RAM is mapped for a device that is being added.
fn mapped(events: &Events, bytes: u64) -> Result {
    let enough = |event: &Value| {
        let done = event["properties"]["bytes_done"].as_str().and_then(|done| done.parse().ok());
        done.is_some_and(|done: u64| done >= bytes)
    };
    events.expect("device-progress", LIMIT, enough).map(drop)
}
