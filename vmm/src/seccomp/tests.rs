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
        // As `allocator` has it, but for threads of the test's frame too.
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_MMAP_MAX_", "0")
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
    let acts: [(&str, Act); 19] = [
        ("work", |_| work()),
        ("start-vcpu", start_vcpu),
        ("execve", |_| raw(libc::SYS_execve, [0; 4])),
        ("fork", |_| raw(libc::SYS_fork, [0; 4])),
        ("clone", |_| raw(libc::SYS_clone, [CLONE_PROCESS, 0, 0, 0])),
        ("ptrace", |_| raw(libc::SYS_ptrace, [0x1234, 0, 0, 0])),
        ("internet", |_| raw(libc::SYS_socket, [i64::from(libc::AF_INET), 1, 0, 0])),
        ("ioctl", |_| raw(libc::SYS_ioctl, [0, 0x5412, 0, 0])),
        ("run-guest", |_| raw(libc::SYS_ioctl, [-1, 0xae80, 0, 0])),
        ("executable", |_| raw(libc::SYS_mprotect, [0, 4096, i64::from(libc::PROT_EXEC), 0])),
        ("open", |_| raw(libc::SYS_openat, [-1, 0, 0, 0])),
        ("close", |_| raw(libc::SYS_close, [-1, 0, 0, 0])),
        ("unlink", |_| raw(libc::SYS_unlink, [0; 4])),
        ("unmap", |_| raw(libc::SYS_munmap, [0, 1 << 30, 0, 0])),
        ("map-over", |_| raw(libc::SYS_mmap, [0, 4096, 1, 0x32])),
        ("map-file", |_| raw(libc::SYS_mmap, [0, 4096, 1, 1])),
        ("open-group", |_| raw(libc::SYS_ioctl, [-1, 0x3b6a, 0, 0])),
        ("map-dma", |_| raw(libc::SYS_ioctl, [-1, 0x3b71, 0, 0])),
        ("signal", |_| raw(libc::SYS_tgkill, [1, 1, 0, 0])),
    ];
    acts.into_iter().find(|(known, _)| *known == name).map(|(_, act)| act).unwrap()
}

fn raw(number: i64, arguments: [i64; 4]) {
    let [a, b, c, d] = arguments;
    // SAFETY: none of these calls succeeds in a way that concerns memory.
    unsafe { libc::syscall(number, a, b, c, d) };
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
            raw(libc::SYS_ioctl, [-1, 0xae80, 0, 0]);
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
fn vcpu_thread_ends_no_life_of_a_descriptor_or_mapping_and_reaches_no_container() {
    for (scene, call) in [
        ("open", "openat("),
        ("close", "close(0xffffffffffffffff, "),
        ("unlink", "unlink("),
        ("unmap", "munmap(0x0, 0x40000000, "),
        ("map-over", "mmap("),
        ("map-file", "mmap("),
        ("open-group", "[VFIO_GROUP_GET_DEVICE_FD]"),
        ("map-dma", "[VFIO_IOMMU_MAP_DMA]"),
    ] {
        assert_killed(Kind::Vcpu, scene, call);
    }
}

#[test]
fn disk_thread_opens_and_closes_nothing_and_runs_no_guest() {
    for (scene, call) in
        [("open", "openat("), ("close", "close(0xffffffffffffffff, "), ("run-guest", "ioctl(")]
    {
        assert_killed(Kind::Disk, scene, call);
    }
}

#[test]
fn threads_signal_no_other_process() {
    for kind in [Kind::Http, Kind::Vcpu, Kind::Main] {
        assert_killed(kind, "signal", "tgkill(0x1, ");
    }
}

/// Calls that a list lets a vCPU's thread make and that are not its business.
fn not_a_vcpus(calls: &[&[Call]]) -> Vec<String> {
    let never = [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_creat,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_dup,
        libc::SYS_dup2,
        libc::SYS_dup3,
        libc::SYS_unlink,
        libc::SYS_unlinkat,
        libc::SYS_rename,
        libc::SYS_mremap,
        libc::SYS_clone,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
    ];
    let ioctls = ["VFIO_GROUP", "VFIO_IOMMU", "VFIO_SET", "VFIO_GET", "VFIO_CHECK", "KVM_CREATE"];
    let foreign = |call: &Call| match (&call.when, call.number) {
        (_, number) if never.contains(&number) => names::name(number).map(str::to_owned),
        (When::Always, libc::SYS_munmap) => Some("munmap of anything".to_owned()),
        (When::Always, libc::SYS_ioctl) => Some("any ioctl".to_owned()),
        (When::OneOf { values, .. }, libc::SYS_ioctl) => {
            let requests = values.iter().filter_map(|request| ioctls::name(*request));
            let mut foreign = requests.filter(|name| ioctls.iter().any(|i| name.starts_with(i)));
            foreign.next().map(str::to_owned)
        }
        _ => None,
    };
    calls.iter().copied().flatten().filter_map(foreign).collect()
}

#[test]
fn entry_that_is_not_a_vcpus_business_is_found_in_its_list() {
    let own = lists::of(Kind::Vcpu);
    assert_eq!(not_a_vcpus(&own), [] as [&str; 0]);

    for (hostile, name) in [
        (Call { number: libc::SYS_close, when: When::Always }, "close"),
        (Call { number: libc::SYS_munmap, when: When::Always }, "munmap of anything"),
        (
            Call {
                number: libc::SYS_ioctl,
                when: When::OneOf { argument: 1, values: &[ioctls::VFIO_IOMMU_UNMAP_DMA] },
            },
            "VFIO_IOMMU_UNMAP_DMA",
        ),
    ] {
        let (hostile, mut list) = ([hostile], own.clone());
        list.push(&hostile);
        assert_eq!(not_a_vcpus(&list), [name]);
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
fn threads_may_do_what_those_they_start_may() {
    let main = [Kind::Vcpu, Kind::Relay, Kind::Worker].map(|kind| (Kind::Main, kind));
    let worker = [
        Kind::Disk,
        Kind::Rng,
        Kind::Net,
        Kind::VhostNet,
        Kind::Vsock,
        Kind::Carrier,
        Kind::Balloon,
        Kind::Console,
    ]
    .map(|kind| (Kind::Worker, kind));
    for (parent, kind) in main.into_iter().chain(worker) {
        let allowed = permitted(parent);
        let lacking = permitted(kind).into_iter().filter(|rule| {
            let number = rule.split(' ').next().unwrap_or_default();
            !allowed.contains(rule) && !allowed.contains(number)
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
