//! Functions on several PCI segments.

use serde_json::{Value, json};
use tests::error::{ensure, same};
use tests::http::Answer;
use tests::vm::add_body;
use tests::{Function, Kind, Options, Result, Vm, in_lab};

#[test]
fn functions_on_two_segments_come_work_and_go() {
    in_lab(|host| {
        let (nic, disk) = (Kind::E1000e.take(host)?, Kind::Nvme.take(host)?);
        let arguments = vec!["--platform".to_owned(), "num_pci_segments=3".to_owned()];
        let mut vm = Options { arguments, ..Options::default() }.boot()?;
        add_at(&vm, &nic, "nic0", 3)?.fails(400, "device.bad-request")?;

        for _ in 0..2 {
            let nics = add_at(&vm, &nic, "nic0", 2)?.ok()?;
            let disks = add_at(&vm, &disk, "disk0", 0)?.ok()?;

            // Each is the first one on its segment.
            for (function, added, address) in
                [(&nic, nics, "0002:00:01.0"), (&disk, disks, "0000:00:01.0")]
            {
                sits(&mut vm, &added, address)?;
                works(&mut vm, function, address)?;
            }
            vm.remove("nic0")?;
            vm.remove("disk0")?;
        }
        Ok(())
    });
}

fn add_at(vm: &Vm, function: &Function<'_>, id: &str, segment: u16) -> Result<Answer> {
    let mut body = add_body(&function.bdf, id);
    body["pci_segment"] = json!(segment);
    vm.api.put_json("vm.add-device", &body)
}

/// Both hotbay and the guest say that it is there.
fn sits(vm: &mut Vm, added: &Value, address: &str) -> Result {
    same("address", &added["bdf"], &json!(address))?;
    let known = &vm.info()?["device_tree"][added["id"].as_str().unwrap_or_default()];
    same("address in vm.info", &known["pci_bdf"], &json!(address))?;
    let there = format!("[ -e /sys/bus/pci/devices/{address} ]");
    vm.guest.wait_for("the function has appeared", &there).map(drop)
}

/// Data comes through it, and interrupts by its own vectors.
fn works(vm: &mut Vm, function: &Function<'_>, address: &str) -> Result {
    function.kind.use_in(&mut vm.guest)?;
    let counted = function.kind.msix_count(&mut vm.guest, address)?;
    ensure(counted > 0, || format!("the guest has counted no interrupt of {address}"))
}
