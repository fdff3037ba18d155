//! `scripts/hotplug-nic`: a virtual function made, plugged in, used and taken back; a step that fails leaves the
//! host as it was.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use tests::artifacts::{binary, script};
use tests::error::{Doing, ensure, same};
use tests::host::run;
use tests::{Bdf, Error, Kind, Options, Result, Vm, in_lab};

const MAC: &str = "02:68:6f:74:62:79";

#[test]
fn virtual_function_is_made_plugged_in_used_and_taken_back_and_failures_leave_the_host_as_it_was() {
    in_lab(|host| {
        let physical = host.function("HOTBAY_IGB")?;
        let address = physical.to_string();
        let net = host.with_its_driver(&physical)?;
        let disk = Kind::NvmeNarrow.take(host)?;
        // The guest has no driver for it at first.
        let options =
            Options { words: "hotbay.modules=none", cpus: "boot=2", ..Options::default() };
        let mut vm = options.boot()?;
        vm.add(&disk.bdf, "taken")?;
        let before = State::of(&physical, &net)?;

        for (arguments, why) in [
            (&["--mac", "01:00:00:00:00:01", net.as_str()][..], "does not take the address"),
            (&["--id", "taken", &net], "hotbay does not take"),
            (&["--wait", "3", "--mac", MAC, &net], "no driver of the guest"),
            (&["lo"], "neither a network interface nor a PCI function"),
            (&["--remove", "vf0"], "there is no NIC vf0"),
        ] {
            let refused = ask(&vm, arguments)?;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            ensure(!refused.status.success() && said.contains(why), || {
                format!("{arguments:?}: {said}")
            })?;
            same(&format!("the host after {arguments:?}"), &State::of(&physical, &net)?, &before)?;
        }

        vm.guest.run("modprobe af_packet && modprobe igbvf")?;
        for id in ["vf0", "vf1"] {
            let told = tell(&vm, &["--id", id, "--mac", MAC, &address])?;
            same("the address that is told", &told["mac"], &Value::from(MAC))?;
            let seen = Kind::IgbVf.interface(&mut vm.guest)?;
            let seen = vm.guest.run(&format!("cat /sys/class/net/{seen}/address"))?;
            same("the guest's address", &seen.trim(), &MAC)?;
            Kind::IgbVf.use_in(&mut vm.guest)?;

            tell(&vm, &["--remove", id])?;
            same("the host afterwards", &State::of(&physical, &net)?, &before)?;
        }

        let _one = OneFunction::make(&physical, &net)?;
        let before = State::of(&physical, &net)?;
        ensure(before.functions.contains("vlan 5"), || before.functions.clone())?;
        let refused = ask(&vm, &["--id", "taken", "--mac", MAC, "--vlan", "7", &net])?;
        ensure(!refused.status.success(), || "an id that is taken".into())?;
        same("a function that was there, after a failure", &State::of(&physical, &net)?, &before)?;
        tell(&vm, &["--id", "vf2", "--mac", MAC, &net])?;
        Kind::IgbVf.use_in(&mut vm.guest)?;
        tell(&vm, &["--remove", "vf2"])?;
        same("a function that was there, given back", &State::of(&physical, &net)?, &before)
    });
}

/// What the script changes of a host.
#[derive(Debug, PartialEq, Eq)]
struct State {
    files: Vec<String>,
    interface_up: bool,
    /// Address, VLAN and all else of each virtual function.
    functions: String,
    descriptors: Vec<String>,
}

impl State {
    fn of(physical: &Bdf, net: &str) -> Result<Self> {
        let read =
            |name: &str| fs::read_to_string(physical.file(name)).doing(format!("read {name}"));
        let files = ["sriov_numvfs", "sriov_drivers_autoprobe"]
            .map(read)
            .into_iter()
            .collect::<Result<_>>()?;
        let shown = Command::new("ip").args(["-br", "link", "show", "dev", net, "up"]).output();
        let shown = shown.doing("run ip")?;
        let all = run(Command::new("ip").args(["link", "show", "dev", net]))?;
        let functions = all.lines().filter(|line| line.trim_start().starts_with("vf "));
        let functions = functions.collect::<Vec<_>>().join("\n");
        let groups = fs::read_dir("/dev/vfio").doing("list VFIO groups")?;
        let mut descriptors: Vec<_> = groups
            .flatten()
            .map(|group| group.file_name().to_string_lossy().into_owned())
            .collect();
        descriptors.sort();
        Ok(Self { files, interface_up: !shown.stdout.is_empty(), functions, descriptors })
    }
}

/// A virtual function that somebody else has made and configured, without a driver.
struct OneFunction(Bdf);

impl OneFunction {
    fn make(physical: &Bdf, net: &str) -> Result<Self> {
        let write = |name: &str, text: &str| {
            fs::write(physical.file(name), text).doing(format!("write {name}"))
        };
        write("sriov_drivers_autoprobe", "0")?;
        write("sriov_numvfs", "1")?;
        let made = Self(physical.clone());
        for setting in [["mac", "02:00:00:00:00:aa"], ["vlan", "5"]] {
            run(Command::new("ip").args(["link", "set", net, "vf", "0"]).args(setting))?;
        }
        Ok(made)
    }
}

impl Drop for OneFunction {
    fn drop(&mut self) {
        // What fails is seen by the next scene that wants the function.
        let _ = fs::write(self.0.file("sriov_numvfs"), "0");
        let _ = fs::write(self.0.file("sriov_drivers_autoprobe"), "1");
    }
}

fn ask(vm: &Vm, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(script("hotplug-nic"));
    command.arg("--api-socket").arg(vm.api.socket()).args(arguments);
    command.env("HOTBAYCTL", binary("hotbayctl")).output().doing("run hotplug-nic")
}

/// What it prints when all went well.
fn tell(vm: &Vm, arguments: &[&str]) -> Result<Value> {
    let Output { status, stdout, stderr } = ask(vm, arguments)?;
    let said = String::from_utf8_lossy(&stderr).into_owned();
    ensure(status.success(), || format!("{arguments:?}: {status}: {said}"))?;
    serde_json::from_slice(&stdout).map_err(|error| Error::Unexpected(format!("{error}: {said}")))
}
