//! What a process that was broken into could do: little. And the sandbox is not in the way of what hotbay is for.

use std::process::Command;

use serde_json::json;
use tests::error::{Doing, ensure};
use tests::{Host, Kind, Options, Result, Vm, in_lab};

/// `Seccomp:` in proc(5): a filter is loaded.
const FILTERED: &str = "2";
const NONE: &str = "0000000000000000";

#[test]
fn nic_is_plugged_used_and_unplugged_inside_landlock_and_what_is_outside_is_refused() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let arguments = vec!["--landlock".into(), "-v".into()];
        let mut vm = Options { arguments, ..Options::default() }.boot()?;

        for _ in 0..2 {
            vm.add(&nic.bdf, "nic0")?;
            nic.kind.use_in(&mut vm.guest)?;
            ensure_confined(host, &vm)?;
            vm.interrupts("nic0")?;
            vm.remove("nic0")?;
        }

        vm.api.put("vm.delete")?.ok()?;
        let elsewhere = tempfile::NamedTempFile::new().doing("make a file")?;
        let kernel = elsewhere.path().display().to_string();
        let body = json!({ "payload": { "kernel": kernel } });
        let refused = vm.api.put_json("vm.create", &body)?;
        let rule = format!("--landlock-rules path={kernel},access=r");
        ensure(refused.body.contains(&rule), || format!("no rule in: {}", refused.body))?;
        refused.fails(400, "vmm.outside-landlock]")
    });
}

/// Every thread is filtered, has no capability and can gain none.
fn ensure_confined(host: &Host, vm: &Vm) -> Result {
    for (key, wanted) in [
        ("Seccomp", FILTERED),
        ("NoNewPrivs", "1"),
        ("CapEff", NONE),
        ("CapPrm", NONE),
        ("CapBnd", NONE),
        ("CapInh", NONE),
        ("CapAmb", NONE),
    ] {
        let threads = host.thread_status(vm.pid(), key)?;
        ensure(threads.iter().all(|(_, value)| value == wanted), || {
            format!("{key} is not {wanted}: {threads:?}")
        })?;
    }
    Ok(())
}

#[test]
fn another_process_of_the_same_user_cannot_look_into_it() {
    in_lab(|host| {
        let vm = Options::default().start()?;

        // Not root's capabilities, which may, but root's user id, as another hotbay has it.
        let memory = format!("/proc/{}/mem", vm.pid());
        let mut look = Command::new("setpriv");
        look.args(["--bounding-set=-all", "--inh-caps=-all", "head", "-c1", &memory]);
        let output = look.output().doing("run setpriv")?;

        let why = String::from_utf8_lossy(&output.stderr);
        ensure(why.contains("Permission denied"), || format!("{}: {why}", output.status))?;
        ensure_confined(host, &vm)
    });
}
