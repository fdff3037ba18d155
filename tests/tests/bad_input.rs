//! Whatever a client or a command line says wrongly gets its own answer, and harms nothing.

use std::io::Write;
use std::process::Command;

use api::request::code;
use serde_json::{Value, json};
use tests::artifacts::binary;
use tests::error::{Doing, ensure};
use tests::host::Bdf;
use tests::http::receive;
use tests::vm::add_body;
use tests::{Flavour, Kind, Options, Result, Vm, in_lab};

#[test]
fn each_bad_request_gets_its_error_and_a_good_one_works_afterwards() {
    in_lab(|host| {
        let (nic, disk) = (Kind::E1000e.take(host)?, Kind::Nvme.take(host)?);
        let mut vm = Options::default().boot()?;
        let unbound = host.function("HOTBAY_IGB")?;
        vm.add(&disk.bdf, "disk0")?;
        disk.kind.use_in(&mut vm.guest)?;
        let descriptors = vm.settled_descriptors(host)?;
        let slots = slots(&vm)?;

        for _ in 0..40 {
            // More often than there are slots.
            bad_adds(&vm, &unbound, &disk.bdf)?;
        }
        bad_bodies(&vm)?;
        vm.api
            .put_json("vm.remove-device", &json!({"id": "nobody"}))?
            .fails(404, code::DEVICE_NOT_FOUND)?;

        vm.descriptors_return_to(host, descriptors)?;
        let after = self::slots(&vm)?;
        ensure(after == slots, || format!("slots were {slots:?}, and are {after:?}"))?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn failed_first_add_leaves_nothing_behind() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        host.release(&nic.bdf)?;
        vm.api
            .put_json("vm.add-device", &add_body(&nic.bdf, "nic0"))?
            .fails(400, code::DEVICE_NOT_BOUND)?;
        host.bind(&nic.bdf)?;

        vm.add(&nic.bdf, "nic0")?;

        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn function_whose_group_is_held_by_host_drivers_is_refused() {
    in_lab(|host| {
        // The SATA controller of the emulated board shares its group with the SMBus controller.
        let vm = Options::default().boot()?;
        let sata = host.at("0000:00:1f.2")?;

        let refused = vm.api.put_json("vm.add-device", &add_body(&sata, "sata"))?;

        refused.fails(400, "device.")
    });
}

#[test]
fn three_hundred_clients_at_once_are_all_answered() {
    in_lab(|host| {
        let vm = Options::default().boot()?;
        let before = host.descriptors(vm.pid())?;

        let mut clients = Vec::new();
        for _ in 0..300 {
            clients.push(vm.api.connect()?);
        }
        for client in &mut clients {
            let sent = client.write_all(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n");
            drop(sent); // one that was refused already got its answer
        }
        for client in &mut clients {
            let answer = receive(client)?;
            ensure(matches!(answer.status, 200 | 503), || format!("a client got {answer:?}"))?;
        }
        drop(clients);

        vm.api.get("vmm.ping")?.ok()?;
        vm.descriptors_return_to(host, before)
    });
}

#[test]
fn ten_mebibytes_of_body_are_refused() {
    in_lab(|host| {
        let vm = Options::default().boot()?;
        let before = host.descriptors(vm.pid())?;

        let answer = vm.api.put_text("vm.add-device", &" ".repeat(10 << 20))?;

        answer.fails(413, code::API_TOO_LARGE)?;
        vm.api.get("vmm.ping")?.ok()?;
        vm.descriptors_return_to(host, before)
    });
}

#[test]
fn unusable_command_lines_end_with_one_sentence() {
    in_lab(|_| {
        let good = Flavour::Amd64V6_12.kernel()?.display().to_string();
        for (arguments, named) in [
            (vec!["--kernel", "/nonexistent"], "/nonexistent"),
            (vec!["--kernel", "/etc/passwd"], "/etc/passwd"),
            (vec!["--kernel", &good, "--memory", "size=1M"], "64"),
            (vec!["--kernel", &good, "--cpus", "boot=0"], "cpus"),
            (vec!["--kernel", &good, "--device", "path=/nonexistent"], "/nonexistent"),
        ] {
            refused_in_one_sentence(&arguments, named)?;
        }
        Ok(())
    });
}

#[test]
fn missing_dev_kvm_is_said() {
    in_lab(|host| {
        let good = Flavour::Amd64V6_12.kernel()?.display().to_string();
        let _hidden = host.hide("/dev/kvm")?;

        refused_in_one_sentence(&["--kernel", &good], "/dev/kvm")
    });
}

fn bad_adds(vm: &Vm, unbound: &Bdf, plugged: &Bdf) -> Result {
    let plugged = plugged.path().display().to_string();
    let unbound = unbound.path().display().to_string();
    for (path, status, code) in [
        ("/nonexistent", 404, code::DEVICE_BAD_PATH),
        ("/etc/passwd", 400, code::DEVICE_BAD_PATH),
        ("/sys/bus/pci/devices", 400, code::DEVICE_BAD_PATH),
        (&unbound, 400, code::DEVICE_NOT_BOUND),
        (&plugged, 400, code::DEVICE_IN_USE),
        (&format!("{plugged}/"), 400, code::DEVICE_IN_USE),
    ] {
        let answer = vm.api.put_json("vm.add-device", &json!({"path": path, "id": "x"}))?;
        answer.fails(status, code)?;
    }
    let taken = json!({"path": unbound, "id": "disk0"});
    vm.api.put_json("vm.add-device", &taken)?.fails(400, code::DEVICE_ID_TAKEN)
}

fn bad_bodies(vm: &Vm) -> Result {
    for body in ["", "{", "[]", "{\"path\":7}", "{\"path\":\"/x\",\"pathh\":1}", "\u{1}\u{fffd}"] {
        vm.api.put_text("vm.add-device", body)?.fails(400, code::API_BAD_BODY)?;
    }
    vm.api.get("vm.nothing")?.fails(404, code::API_NO_SUCH_PATH)?;
    vm.api.get("vm.add-device")?.fails(405, code::API_WRONG_METHOD)
}

/// Where the guest sees which device, and how many slots are free.
fn slots(vm: &Vm) -> Result<(Vec<(String, Value)>, Value)> {
    let tree = vm.info()?["device_tree"].take();
    let places = tree.as_object().into_iter().flatten();
    let places = places.map(|(id, node)| (id.clone(), node["pci_bdf"].clone())).collect();
    Ok((places, vm.counters()?["__machine"]["free_slots"].take()))
}

/// `hotbay` ends with status 1 and one line that names what is wrong, whatever it logs before.
fn refused_in_one_sentence(arguments: &[&str], named: &str) -> Result {
    let mut command = Command::new(binary("hotbay"));
    let output = command.args(arguments).output().doing("run hotbay")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = output.status;
    ensure(status.code() == Some(1), || format!("{arguments:?}: {status}: {said}"))?;
    let one_line = said.trim().lines().count() == 1;
    ensure(one_line && said.contains(named), || format!("{arguments:?} was told: {said}"))
}
