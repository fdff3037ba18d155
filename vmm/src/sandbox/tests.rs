//! A domain cannot be left, so each scene plays on a thread of its own. The test's
//! thread stays outside, and does what the host would do meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;

use tempfile::TempDir;

use super::*;

type Job = Box<dyn FnOnce() + Send>;

/// Work for a thread outside of the domain.
struct Outside(Sender<Job>);

impl Outside {
    /// Has it done, and waits for it.
    fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (done, is_done) = channel();
        let job: Job = Box::new(move || {
            job();
            done.send(()).unwrap();
        });
        self.0.send(job).unwrap();
        is_done.recv().unwrap();
    }
}

/// Plays `scene` in a folder with a kernel and an empty folder.
fn play(scene: fn(&Path, Sandbox, Outside)) {
    if !domain::is_offered() {
        return println!("SKIPPED: this kernel has no Landlock");
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("kernel"), "k").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let path = fs::canonicalize(folder.path()).unwrap();
    let (outside, jobs) = channel();
    let body = move || scene(&path, Sandbox::default(), Outside(outside));
    let thread = Builder::new().spawn(body).unwrap();
    jobs.into_iter().for_each(|job: Job| job());
    thread.join().unwrap();
}

fn denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

#[test]
fn only_what_was_granted_is_reached_also_by_threads_started_later() {
    play(|folder, mut sandbox, _| {
        let (kernel, log) = (folder.join("kernel"), folder.join("serial.log"));
        let granted = vec![
            Grant::new("kernel", &kernel, Purpose::Read),
            Grant::new("serial file", &log, Purpose::Overwrite),
        ];
        sandbox.enter(granted).unwrap();

        let look = || {
            assert_eq!(fs::read(&kernel).unwrap(), b"k");
            File::create(&log).unwrap().write_all(b"hello").unwrap();
            assert!(denied(fs::read(&log)), "written only");
            assert!(denied(OpenOptions::new().append(true).open(&kernel)), "read only");
            assert!(denied(fs::read_dir(folder)));
            assert!(denied(File::create(folder.join("new"))));
            assert!(denied(fs::remove_file(&kernel)));
            assert!(denied(fs::read("/etc/passwd")));
        };
        look();
        std::thread::scope(|scope| {
            Builder::new().spawn_scoped(scope, look).unwrap().join().unwrap();
        });
    });
}

#[test]
fn nodes_that_come_later_are_reached_through_their_folder() {
    play(|folder, mut sandbox, host| {
        let (groups, node) = (folder.join("empty"), folder.join("empty/7"));
        sandbox.enter(vec![Grant::new("VFIO's nodes", groups, Purpose::Device)]).unwrap();

        assert!(denied(File::create(&node)));
        let later = node.clone();
        host.run(move || fs::write(later, "").unwrap());

        OpenOptions::new().read(true).write(true).open(&node).unwrap();
    });
}

#[test]
fn sockets_are_made_and_replaced_only_in_their_folder() {
    play(|folder, mut sandbox, _| {
        let socket = folder.join("empty/serial");
        let granted = Grant::folder("serial socket's folder", &socket, Purpose::Sockets);
        sandbox.enter(vec![granted]).unwrap();

        for _ in 0..2 {
            drop(UnixListener::bind(&socket).unwrap());
            fs::remove_file(&socket).unwrap();
        }
        assert!(denied(UnixListener::bind(folder.join("serial"))));
        assert!(denied(File::create(folder.join("empty/file"))));
    });
}

#[test]
fn later_needs_must_lie_within_the_domain_and_the_refusal_names_the_rule() {
    play(|folder, mut sandbox, _| {
        let images = Grant::new("rule", folder.join("empty"), Purpose::Read);
        sandbox.enter(vec![images]).unwrap();

        let inside = Grant::new("kernel", folder.join("empty/later"), Purpose::Read);
        let kernel = Grant::new("kernel", folder.join("kernel"), Purpose::Read);
        let log = Grant::new("serial file", folder.join("empty/log"), Purpose::Overwrite);

        sandbox.check(&[inside]).unwrap();
        let refused = sandbox.enter(vec![kernel]).unwrap_err().to_string();
        let rule = format!("--landlock-rules path={},access=r", folder.join("kernel").display());
        assert!(refused.contains(&rule), "{refused}");
        let refused = sandbox.check(&[log]).unwrap_err().to_string();
        assert!(refused.ends_with("/empty/log,access=w"), "{refused}");
    });
}

#[test]
fn folder_with_both_accesses_admits_files_that_are_yet_to_be_made() {
    play(|folder, mut sandbox, _| {
        sandbox.enter(vec![Grant::new("rule", folder, Purpose::ReadWrite)]).unwrap();

        let log = Grant::new("serial file", folder.join("empty/log"), Purpose::Overwrite);
        sandbox.check(&[log]).unwrap();
        File::create(folder.join("empty/log")).unwrap();
    });
}

#[test]
fn path_that_is_not_there_is_named_and_nothing_has_changed() {
    play(|folder, mut sandbox, _| {
        let missing = Grant::new("initramfs", folder.join("none"), Purpose::Read);

        let refused = sandbox.enter(vec![missing]).unwrap_err().to_string();

        assert!(refused.contains("initramfs") && refused.contains("/none"), "{refused}");
        assert_eq!(fs::read(folder.join("kernel")).unwrap(), b"k");
    });
}

#[test]
fn host_without_vfio_is_told_what_to_do_when_a_device_comes() {
    play(|_, mut sandbox, _| {
        assert!(sandbox.check_devices().is_ok(), "outside, everything is reached");
        let has_vfio = Path::new(GROUPS).exists();

        sandbox.enter(Vec::new()).unwrap();

        assert_eq!(sandbox.check_devices().is_ok(), has_vfio);
    });
}

#[test]
fn thread_that_is_closed_off_reaches_nothing() {
    play(|folder, _, _| {
        close_off().unwrap();

        assert!(denied(fs::read(folder.join("kernel"))));
        assert!(denied(fs::read("/proc/self/status")));
    });
}
