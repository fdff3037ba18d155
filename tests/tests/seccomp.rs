//! Every thread is confined; what is forbidden ends the process, and a plug cycle needs nothing forbidden.

use std::process::Command;

use tests::error::{Doing, ensure};
use tests::{Kind, Options, in_lab};

/// `Seccomp:` in proc(5): a filter is loaded.
const FILTERED: u8 = 2;

#[test]
fn every_thread_is_filtered_before_and_after_a_plug_cycle() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;

        let idle = host.threads(vm.pid())?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        vm.remove("nic0")?;
        let later = host.threads(vm.pid())?;

        for (name, mode) in idle.iter().chain(&later) {
            ensure(*mode == FILTERED, || {
                format!("thread {name} is not filtered: {idle:?} {later:?}")
            })?;
        }
        vm.api.get("vmm.ping")?.ok().map(drop)
    });
}

#[test]
fn forbidden_call_ends_the_process_and_is_named() {
    in_lab(|_| {
        let mut vm = Options::default().boot()?;

        // strace replaces one of its calls by getegid, which no list allows. It ends with its tracee.
        let pid = vm.pid().to_string();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid]);
        strace.args(["-e", "inject=epoll_wait,epoll_pwait,epoll_pwait2:retval=0:syscall=getegid"]);
        let mut strace = strace.spawn().doing("start strace")?;
        vm.api.get("vmm.ping").map(drop).unwrap_or_default(); // wakes the waiting threads
        let status = vm.ended()?;
        strace.wait().doing("wait for strace")?;

        let log = vm.log()?;
        ensure(!status.success(), || "hotbay outlived a forbidden call".into())?;
        ensure(log.contains("getegid"), || format!("the log does not name the call: {log}"))
    });
}

#[test]
fn filters_can_be_switched_off() {
    in_lab(|host| {
        let arguments = vec!["--seccomp".into(), "false".into()];
        let vm = Options { arguments, ..Options::default() }.boot()?;

        let filtered = host.threads(vm.pid())?.iter().filter(|(_, mode)| *mode == FILTERED).count();

        ensure(filtered == 0, || format!("{filtered} threads are filtered"))
    });
}
