//! RAM that is being mapped for the first device of a guest, and a client that thinks better of it.

use std::time::Instant;

use serde_json::json;
use tests::error::ensure;
use tests::meanwhile::asking;
use tests::monitor::Monitor;
use tests::vm::add_body;
use tests::{Kind, Options, in_lab};

const MIB: u64 = 1 << 20;

#[test]
fn removal_cancels_an_add_and_the_next_one_works() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let events = Monitor::new()?;
        let options =
            Options { memory: "size=1G", arguments: events.arguments(), ..Options::default() };
        let mut vm = options.boot()?;
        let before = vm.settled_descriptors(host)?;
        vm.api.put_json("vm.check-device", &add_body(&nic.bdf, "nic0"))?.ok()?;

        let (api, body) = (vm.api.clone(), add_body(&nic.bdf, "nic0"));
        let (add, removal) = asking(&api, ("vm.add-device", &body), || {
            events.mapped(MIB)?;
            let begun = Instant::now();
            api.put_json("vm.remove-device", &json!({ "id": "nic0", "wait_ms": 60_000 }))?.ok()?;
            Ok(begun.elapsed())
        })?;

        println!("measured: a removal cancels an add within {removal:.2?}");
        add.answer.fails(503, "device.cancelled")?;
        let failed = events.named("device-add-failed")?;
        ensure(failed.len() == 1, || format!("{failed:?}"))?;
        vm.descriptors_return_to(host, before)?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)
    });
}
