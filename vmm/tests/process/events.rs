//! `vm.events`: who has seen everything waits, and nobody else does.

use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::contract::Contract;
use crate::program::{Program, has_hypervisor, kernel};
use crate::wire::{Answer, Manner, ask, read, send};

fn follow(program: &Program, since: u64, wait_ms: u64) -> UnixStream {
    let request = format!("GET vm.events?since={since}&wait_ms={wait_ms}");
    send(&program.socket, &request, None, Manner::Pieces)
}

fn put(program: &Program, verb: &str, body: Option<&str>) -> Answer {
    ask(&program.socket, &format!("PUT {verb}"), body, Manner::Whole)
}

/// Names of the events in an answer that is as the contract says, and the next `since`.
fn told(waiting: &mut UnixStream) -> (Vec<String>, u64) {
    let answer = read(waiting);
    let body = answer.body.as_deref();
    assert_eq!(Contract::load().declares("vm.events", 200, body), Ok(()));
    let mut body: Value = serde_json::from_str(body.unwrap()).unwrap();
    let names = body["events"].as_array_mut().unwrap().iter().map(|event| &event["event"]);
    let names = names.map(|name| name.as_str().unwrap().to_owned()).collect();
    (names, body["last"].as_u64().unwrap())
}

#[test]
fn who_has_seen_everything_is_answered_when_something_happens() {
    if !has_hypervisor() {
        return;
    }
    let (folder, kernel) = kernel();
    let program = Program::start(folder.path());
    assert_eq!(told(&mut follow(&program, 0, 600_000)), (vec!["starting".to_owned()], 1));
    let mut waiting = follow(&program, 1, 600_000);

    let config = format!(r#"{{"payload":{{"kernel":{kernel:?}}},"memory":{{"size":67108864}}}}"#);
    assert_eq!(put(&program, "vm.create", Some(&config)).status_line, "HTTP/1.1 204 ");
    assert_eq!(put(&program, "vm.boot", None).status_line, "HTTP/1.1 204 ");

    assert_eq!(told(&mut waiting), (vec!["booting".to_owned()], 2));
    assert_eq!(told(&mut follow(&program, 2, 600_000)), (vec!["booted".to_owned()], 3));
    assert_eq!(put(&program, "vmm.shutdown", None).status_line, "HTTP/1.1 204 ");
    program.has_ended_well();
}

#[test]
fn patience_ends_and_so_does_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path());
    assert_eq!(told(&mut follow(&program, 0, 600_000)).1, 1);

    assert_eq!(told(&mut follow(&program, 1, 1)), (vec![], 1));
    let mut waiting = follow(&program, 1, 600_000);
    assert_eq!(put(&program, "vmm.shutdown", None).status_line, "HTTP/1.1 204 ");

    assert_eq!(told(&mut waiting), (vec![], 1));
    program.has_ended_well();
}
