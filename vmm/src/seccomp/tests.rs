//! Filters cannot be taken back, so each scene is a process of its own: this
//! test binary again, running only [`scene`].
#![expect(unsafe_code, reason = "makes system calls that no safe function makes")]

use std::collections::{HashMap, HashSet};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use super::*;

const SCENE: &str = "HOTBAY_SECCOMP_SCENE";
/// What `posix_spawn` and `vfork` ask for: CLONE_VFORK and SIGCHLD.
const CLONE_PROCESS: i64 = 0x4011;
const KILLED: i32 = 159;

/// Runs `scene` on a thread of `kind`.
fn play(mode: &str, kind: Kind, scene: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["seccomp::tests::scene", "--exact", "--nocapture"])
        .env("RUST_BACKTRACE", "1")
        .env(SCENE, format!("{mode} {kind:?} {scene}"))
        .output()
        .unwrap()
}

/// The stage of the other tests. By itself it plays everyday work under a list
/// that only logs.
#[test]
fn scene() {
    let script = std::env::var(SCENE).unwrap_or_else(|_| "log Worker work".to_owned());
    let [mode, kind, scene] = script.split(' ').collect::<Vec<_>>()[..] else { panic!() };
    let mode = <Mode as clap::ValueEnum>::from_str(mode, false).unwrap();
    let kind = Kind::ALL.into_iter().find(|known| format!("{known:?}") == kind).unwrap();
    let filters = Filters::new(mode).unwrap();
    let act = act(scene);
    let thread = thread::Builder::new().name("stage".into());
    let thread = thread.spawn(move || {
        filters.apply(kind).unwrap();
        act(&filters);
    });
    thread.unwrap().join().unwrap();
}

type Act = fn(&Filters);

fn act(name: &str) -> Act {
    let acts: [(&str, Act); 10] = [
        ("work", |_| work()),
        ("start-vcpu", start_vcpu),
        ("execve", |_| raw(libc::SYS_execve, [0; 3])),
        ("fork", |_| raw(libc::SYS_fork, [0; 3])),
        ("clone", |_| raw(libc::SYS_clone, [CLONE_PROCESS, 0, 0])),
        ("ptrace", |_| raw(libc::SYS_ptrace, [0x1234, 0, 0])),
        ("internet", |_| raw(libc::SYS_socket, [i64::from(libc::AF_INET), 1, 0])),
        ("ioctl", |_| raw(libc::SYS_ioctl, [0, 0x5412, 0])),
        ("run-guest", |_| raw(libc::SYS_ioctl, [-1, 0xae80, 0])),
        ("executable", |_| raw(libc::SYS_mprotect, [0, 4096, i64::from(libc::PROT_EXEC)])),
    ];
    acts.into_iter().find(|(known, _)| *known == name).map(|(_, act)| act).unwrap()
}

fn raw(number: i64, arguments: [i64; 3]) {
    let [a, b, c] = arguments;
    // SAFETY: none of these calls succeeds in a way that concerns memory.
    unsafe { libc::syscall(number, a, b, c) };
}

/// What every thread does now and then.
fn work() {
    let seeded: HashMap<u8, Vec<u8>> = HashMap::from([(1, vec![0; 1 << 22])]);
    assert_eq!(seeded[&1].len(), 1 << 22);
    thread::sleep(std::time::Duration::from_millis(1));
    let panic = std::panic::catch_unwind(|| panic!("reported"));
    assert!(panic.is_err(), "a panic is survived, even where backtraces are asked for");
}

/// What the event loop does at boot: the child narrows what it inherited.
fn start_vcpu(filters: &Filters) {
    thread::scope(|scope| {
        let vcpu = thread::Builder::new().name("vcpu0".into());
        let started = vcpu.spawn_scoped(scope, || {
            filters.apply(Kind::Vcpu).unwrap();
            work();
            raw(libc::SYS_ioctl, [-1, 0xae80, 0]);
        });
        started.unwrap().join().unwrap();
    });
}

fn assert_killed(kind: Kind, scene: &str, call: &str) {
    let output = play("true", kind, scene);
    let report = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(KILLED), "{kind:?} {scene}: {report}");
    let line = report.lines().find(|line| line.contains("hotbay: seccomp:"));
    let line = line.unwrap_or_else(|| panic!("{kind:?} {scene} died silently: {report}"));
    assert!(line.contains("thread stage called ") && line.contains(call), "{line}");
}

fn assert_allowed(mode: &str, kind: Kind, scene: &str) {
    let output = play(mode, kind, scene);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode} {kind:?} {scene}: {report}");
}

#[test]
fn forbidden_call_ends_the_process_and_is_named_with_thread_and_arguments() {
    assert_killed(Kind::Vcpu, "internet", "socket(0x2, 0x1, 0x0, ");
    assert_killed(Kind::Worker, "ptrace", "ptrace(0x1234, ");
    assert_killed(Kind::Vcpu, "executable", "mprotect(0x0, 0x1000, 0x4, ");
    assert_killed(Kind::Http, "run-guest", "ioctl(0xffffffffffffffff, 0xae80, ");
    assert_killed(Kind::Worker, "fork", "fork(");
}

#[test]
fn even_the_event_loop_starts_no_process_and_no_foreign_socket() {
    for (scene, call) in [
        ("execve", "execve(0x0, 0x0, 0x0, "),
        ("clone", "clone(0x4011, "),
        ("fork", "fork("),
        ("internet", "socket(0x2"),
        ("executable", "mprotect("),
        ("ioctl", "[unknown request]"),
    ] {
        assert_killed(Kind::Main, scene, call);
    }
}

#[test]
fn every_thread_may_work() {
    for kind in Kind::ALL {
        assert_allowed("true", kind, "work");
    }
}

#[test]
fn event_loop_starts_threads_that_restrict_themselves_further() {
    assert_allowed("true", Kind::Main, "start-vcpu");
}

#[test]
fn log_lets_calls_pass_and_false_applies_nothing() {
    assert_allowed("log", Kind::Vcpu, "internet");
    assert_allowed("false", Kind::Vcpu, "internet");
}

/// Everything `kind` may call, as (number, condition).
fn permitted(kind: Kind) -> HashSet<String> {
    let rules = rules(&lists::of(kind)).unwrap();
    let all = rules.into_iter().flat_map(|(number, rules)| {
        let always = rules.is_empty().then(|| format!("{number}"));
        rules.into_iter().map(move |rule| format!("{number} {rule:?}")).chain(always)
    });
    all.collect()
}

#[test]
fn event_loop_may_do_what_the_threads_it_starts_may() {
    let main = permitted(Kind::Main);
    for kind in [Kind::Vcpu, Kind::Relay, Kind::Worker] {
        let lacking = permitted(kind).into_iter().filter(|rule| {
            let number = rule.split(' ').next().unwrap_or_default();
            !main.contains(rule) && !main.contains(number)
        });
        assert_eq!(lacking.collect::<Vec<_>>(), [] as [&str; 0], "{kind:?}");
    }
}

#[test]
fn running_the_guest_is_checked_first() {
    let rules = rules(&lists::of(Kind::Main)).unwrap();
    let first = format!("{:?}", rules[&libc::SYS_ioctl][0]);
    assert!(first.contains(&0xae80.to_string()), "{first}");
}

#[test]
fn filters_can_be_shared_between_threads() {
    let filters = Arc::new(Filters::new(Mode::Log).unwrap());
    assert!(filters.lists.values().all(|program| !program.is_empty()));
}
