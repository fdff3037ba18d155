//! Events as a reader sees them, however slowly it reads.

use std::fs::File;
use std::io::{Read, pipe};
use std::os::fd::OwnedFd;

use api::cli::hotbay::EventMonitor;
use serde_json::{Value, json};

use super::testing::monitor;
use super::*;
use crate::seccomp::{Filters, Mode};

fn events(text: &str) -> Vec<Value> {
    let events = text.split_terminator("\n\n");
    events.map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn filters() -> Arc<Filters> {
    Arc::new(Filters::new(Mode::False).unwrap())
}

#[test]
fn event_is_one_line_of_json_and_an_empty_one() {
    let text = text(Notice::Booted, Duration::new(2, 7));

    assert_eq!(
        text,
        "{\"timestamp\":{\"secs\":2,\"nanos\":7},\"source\":\"vm\",\"event\":\"booted\",\
         \"properties\":null}\n\n"
    );
}

#[test]
fn properties_are_text() {
    let (monitor, heard) = monitor(8);
    let failure = Failure { code: "device.no-room", message: "no slot\n\"left\"" };

    monitor.tell_of("nic0", DeviceNotice::Added("0000:00:01.0"));
    monitor.tell_of("nic1", DeviceNotice::AddFailed(failure));

    let [added, failed] = &heard.events()[..] else { panic!() };
    assert_eq!(added["event"], "device-added");
    assert_eq!(added["properties"], json!({ "id": "nic0", "bdf": "0000:00:01.0" }));
    let properties =
        json!({ "id": "nic1", "code": "device.no-room", "message": "no slot\n\"left\"" });
    assert_eq!(failed["properties"], properties);
}

#[test]
fn what_finds_no_room_is_counted_and_said_where_it_is_missing() {
    let (monitor, heard) = monitor(2);
    for notice in [Notice::Booting, Notice::Booted, Notice::Pausing, Notice::Paused] {
        monitor.tell(notice);
    }
    assert_eq!(heard.names(), ["booting", "booted"]);

    monitor.tell(Notice::Resuming);

    let [dropped, resuming] = &heard.events()[..] else { panic!() };
    assert_eq!(dropped["event"], "events-dropped");
    assert_eq!(dropped["properties"]["count"], "2");
    assert_eq!(resuming["event"], "resuming");
}

#[test]
fn file_has_all_events_when_the_writer_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events");
    let file = open(&EventMonitor::Path(path.clone())).unwrap();
    let (writer, monitor) = Writer::start(file, &filters()).unwrap();

    for _ in 0..100 {
        monitor.tell(Notice::Paused);
    }
    drop(writer);

    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(events(&text).len(), 100);
}

#[test]
fn reader_that_does_not_read_keeps_nobody_waiting() {
    let (mut reader, file) = pipe().unwrap();
    let file = sys::unblocked(File::from(OwnedFd::from(file))).unwrap();
    let (writer, monitor) = Writer::start(file, &filters()).unwrap();

    // More than a pipe and the queue hold.
    for _ in 0..10_000 {
        monitor.tell(Notice::Paused);
    }
    // Nor does the end of the process wait for it.
    drop(writer);

    let mut text = String::new();
    drop(monitor);
    reader.read_to_string(&mut text).unwrap();
    let whole = text.rsplit_once("\n\n").unwrap().0;
    assert!((100..10_000).contains(&events(whole).len()));
}

#[test]
fn reader_that_is_slow_gets_whole_events_and_the_number_of_the_others() {
    let (mut reader, file) = pipe().unwrap();
    let file = sys::unblocked(File::from(OwnedFd::from(file))).unwrap();
    let (writer, monitor) = Writer::start(file, &filters()).unwrap();
    const TOLD: usize = 10_000;
    for _ in 0..TOLD {
        monitor.tell(Notice::Paused);
    }
    let read = move || {
        let (mut text, mut some) = (String::new(), [0; 4096]);
        // The last one whole: a read may end in the middle of it.
        while !(text.contains("shutdown") && text.ends_with("\n\n")) {
            let count = reader.read(&mut some).unwrap();
            text.push_str(str::from_utf8(&some[..count]).unwrap());
        }
        text
    };
    let read = std::thread::Builder::new().name("reader".to_owned()).spawn(read).unwrap();

    // There is room again some time; the last ones go through then.
    let outlet = monitor.outlet.as_ref().unwrap();
    while outlet.dropped.load(Ordering::Relaxed) > 0 {
        monitor.tell(Notice::Ending);
        std::thread::yield_now();
    }
    let events = events(&read.join().unwrap());
    drop(writer);

    let said = events.iter().filter(|event| event["event"] == "events-dropped");
    let count = |event: &Value| event["properties"]["count"].as_str()?.parse::<usize>().ok();
    let dropped: usize = said.filter_map(count).sum();
    let paused = events.iter().filter(|event| event["event"] == "paused").count();
    assert!(dropped > 0 && paused < TOLD && paused + dropped >= TOLD, "{paused} {dropped}");
}

#[test]
fn reader_that_is_gone_ends_the_writing_and_nothing_else() {
    let (reader, file) = pipe().unwrap();
    drop(reader);
    let (writer, monitor) = Writer::start(File::from(OwnedFd::from(file)), &filters()).unwrap();

    for _ in 0..2_000 {
        monitor.tell(Notice::Paused);
    }
    drop(writer);
}

#[test]
fn descriptor_that_is_not_open_is_refused_by_number() {
    let refused = open(&EventMonitor::Fd(54_321)).unwrap_err();

    assert!(refused.to_string().contains("54321"), "{refused}");
}
