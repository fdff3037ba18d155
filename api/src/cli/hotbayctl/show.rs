//! Answers as a person reads them.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::interrupts;
use super::super::table::{Align, NONE, aligned};
use crate::schema::device::PciDeviceInfo;
use crate::schema::events::{Event, Events};
use crate::schema::info::{Counters, DeviceNode, VmInfo, VmmPing};

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// As it came, one field a line.
    Json,
    /// Who answered, in one line.
    Ping,
    /// The VM, and its devices as a table.
    Info,
    /// A table.
    Counters,
    /// A table.
    Events,
    /// Where a device is now, in one line.
    Added,
    /// Tables, one a device.
    Interrupts,
}

impl Show {
    /// What to print for `body`. What cannot be shown otherwise is printed as it is:
    /// another server may know more than we do.
    pub(super) fn text(self, body: &str) -> String {
        let shown = match self {
            Self::Json => None,
            Self::Ping => read(body).map(|seen| ping(&seen)),
            Self::Info => read(body).map(|seen| info(&seen)),
            Self::Counters => read(body).map(|seen| counters(&seen)),
            Self::Events => read(body).map(|seen| events(&seen)),
            Self::Added => read(body).map(|PciDeviceInfo { id, bdf }| format!("{id} is at {bdf}")),
            Self::Interrupts => read(body).map(|seen| interrupts::table(&seen)),
        };
        shown.unwrap_or_else(|| pretty(body))
    }
}

fn read<T: DeserializeOwned>(body: &str) -> Option<T> {
    serde_json::from_str(body).ok()
}

fn pretty(body: &str) -> String {
    let parsed = serde_json::from_str::<Value>(body);
    parsed
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| body.to_owned())
}

fn ping(VmmPing { build_version, version, pid, features }: &VmmPing) -> String {
    let features = if features.is_empty() { NONE.to_owned() } else { features.join(" ") };
    format!("version {version} ({build_version}), process {pid}, features {features}")
}

fn info(info: &VmInfo) -> String {
    let VmInfo { config, state, memory_actual_size, memory_warm_size, device_tree } = info;
    let warm = memory_warm_size.map(|bytes| format!(", {} of it warm", size(bytes)));
    let payload = config.payload.as_ref();
    let path = |path: Option<&std::path::PathBuf>| {
        path.map_or_else(|| NONE.to_owned(), |path| path.display().to_string())
    };
    let lines = [
        ("state", format!("{state:?}")),
        ("processors", config.cpus.boot_vcpus.to_string()),
        ("memory", size(*memory_actual_size) + &warm.unwrap_or_default()),
        ("kernel", path(payload.and_then(|payload| payload.kernel.as_ref()))),
        ("initramfs", path(payload.and_then(|payload| payload.initramfs.as_ref()))),
        ("serial port", format!("{:?}", config.serial.mode)),
    ];
    let lines = lines.map(|(name, value)| format!("{name:<12} {value}\n")).concat();
    let configured = config.devices.iter().flatten().map(|device| {
        [text(device.id.as_ref()), NONE.to_owned(), device.path.display().to_string()]
    });
    lines
        + "\n"
        + &match device_tree {
            Some(tree) if tree.is_empty() => "There is no device.\n".to_owned(),
            Some(tree) => devices(tree),
            None if config.devices.is_none() => "There is no device.\n".to_owned(),
            None => aligned(
                [("DEVICE", Align::Left), ("ADDRESS", Align::Left), ("PATH", Align::Left)],
                &configured.collect::<Vec<_>>(),
            ),
        }
}

fn devices(tree: &BTreeMap<String, DeviceNode>) -> String {
    let headings = [
        ("DEVICE", Align::Left),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Right),
        ("RESET", Align::Left),
        ("WHAT", Align::Left),
    ];
    let row = |node: &DeviceNode| {
        [
            node.id.clone(),
            text(node.pci_bdf.as_ref()),
            node.state.map_or_else(|| NONE.to_owned(), |state| format!("{state:?}")),
            node.since_ms.map_or_else(|| NONE.to_owned(), since),
            node.reset.as_ref().map_or_else(|| NONE.to_owned(), |reset| reset.method.clone()),
            remarks(node),
        ]
    };
    aligned(headings, &tree.values().map(row).collect::<Vec<_>>())
}

/// What is not as it should be, or not yet.
fn remarks(node: &DeviceNode) -> String {
    let progress = node.progress.map(|progress| {
        let (phase, done, total) = (progress.phase, progress.bytes_done, progress.bytes_total);
        format!("{phase:?} {} of {}", size(done), size(total))
    });
    let wanted = node.wanted_back_ms.map(|ms| format!("wanted back by the host for {}", since(ms)));
    let errors = node.host_errors.map(|count| format!("{count} errors reported by the host"));
    let reset = node.reset.as_ref().and_then(|reset| reset.error.clone());
    let reset = reset.map(|error| format!("last reset failed: {error}"));
    let all = [progress, wanted, errors, node.failure.clone(), reset];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() { NONE.to_owned() } else { all.join("; ") }
}

fn counters(counters: &Counters) -> String {
    let rows = counters.iter().flat_map(|(device, counters)| {
        counters.iter().map(move |(name, count)| [device.clone(), name.clone(), count.to_string()])
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return "Nothing is counted.".to_owned();
    }
    let headings = [("DEVICE", Align::Left), ("COUNTER", Align::Left), ("VALUE", Align::Right)];
    aligned(headings, &rows)
}

fn events(Events { events, last, lost }: &Events) -> String {
    let row = |event: &Event| {
        let more = event.properties.iter().flatten();
        let more: Vec<_> = more.map(|(name, value)| format!("{name}={value}")).collect();
        let name = format!("{}/{}", event.source, event.event);
        let time = format!("{:.3}", event.timestamp.as_secs_f64());
        [event.number.to_string(), time, name, more.join(" ")]
    };
    let headings = [
        ("NUMBER", Align::Right),
        ("SECONDS", Align::Right),
        ("EVENT", Align::Left),
        ("MORE", Align::Left),
    ];
    let missing = match lost {
        0 => String::new(),
        lost => format!("{lost} events before these are not kept any more.\n"),
    };
    match events.as_slice() {
        [] => format!("{missing}There is none after {last}."),
        events => missing + &aligned(headings, &events.iter().map(row).collect::<Vec<_>>()),
    }
}

fn text(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| NONE.to_owned())
}

/// Bytes in the largest unit that divides them.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(shift, _): &&(u32, &str)| bytes != 0 && bytes.trailing_zeros() >= *shift;
    match units.iter().find(whole) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// Milliseconds for a person.
fn since(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1_000),
        _ => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_is_shown_with_its_devices() {
        let body = r#"{"config":{"payload":{"kernel":"/k"},"cpus":{"boot_vcpus":2,"max_vcpus":2}},
            "state":"Running","memory_actual_size":1073741824,"memory_warm_size":4096,"device_tree":{
            "nic0":{"id":"nic0","resources":[],"parent":null,"children":[],"pci_bdf":"0000:00:01.0",
                "state":"Attached","since_ms":12000,"reset":{"method":"flr"}},
            "gpu":{"id":"gpu","resources":[],"parent":null,"children":[],"pci_bdf":null,"state":"Adding",
                "since_ms":7,"progress":{"phase":"Mapping","bytes_done":1048576,"bytes_total":1073741824}}}}"#;

        let expected = "\
state        Running
processors   2
memory       1 GiB, 4 KiB of it warm
kernel       /k
initramfs    -
serial port  Null

  DEVICE  ADDRESS       STATE     SINCE  RESET  WHAT
  gpu     -             Adding     7 ms  -      Mapping 1 MiB of 1 GiB
  nic0    0000:00:01.0  Attached   12 s  flr    -
";
        assert_eq!(Show::Info.text(body), expected);
    }

    #[test]
    fn vm_that_has_not_booted_shows_the_devices_it_will_have() {
        let body = r#"{"config":{"devices":[{"path":"/sys/x","id":"nic0"}]},"state":"Created",
            "memory_actual_size":536870912}"#;

        let text = Show::Info.text(body);

        assert!(text.contains("memory       512 MiB\n"), "{text}");
        assert!(text.ends_with("  nic0    -        /sys/x\n"), "{text}");
    }

    #[test]
    fn counters_are_a_table() {
        let body = r#"{"nic0":{"resets":1,"mmio":12345},"__machine":{"routes":24}}"#;

        let expected = [
            "  DEVICE     COUNTER  VALUE\n",
            "  __machine  routes      24\n",
            "  nic0       mmio     12345\n",
            "  nic0       resets       1\n",
        ]
        .concat();
        assert_eq!(Show::Counters.text(body), expected);
        assert_eq!(Show::Counters.text("{}"), "Nothing is counted.");
    }

    #[test]
    fn events_are_a_table_that_says_what_is_missing() {
        let body = r#"{"events":[{"number":9,"timestamp":{"secs":2,"nanos":7000000},"source":"vm",
            "event":"device-added","properties":{"bdf":"0000:00:01.0","id":"nic0"}}],"last":9,"lost":3}"#;

        let expected = [
            "3 events before these are not kept any more.\n",
            "  NUMBER  SECONDS  EVENT            MORE\n",
            "       9    2.007  vm/device-added  bdf=0000:00:01.0 id=nic0\n",
        ];
        assert_eq!(Show::Events.text(body), expected.concat());
        let none = r#"{"events":[],"last":9,"lost":0}"#;
        assert_eq!(Show::Events.text(none), "There is none after 9.");
    }

    #[test]
    fn short_answers_are_a_line() {
        let ping = r#"{"build_version":"v1","version":"1","pid":7,"features":["kvm"]}"#;
        let added = r#"{"id":"nic0","bdf":"0000:00:01.0"}"#;

        assert_eq!(Show::Ping.text(ping), "version 1 (v1), process 7, features kvm");
        assert_eq!(Show::Added.text(added), "nic0 is at 0000:00:01.0");
    }

    #[test]
    fn answer_that_is_not_understood_is_printed_as_it_is() {
        for show in [Show::Ping, Show::Info, Show::Counters, Show::Added, Show::Interrupts] {
            assert_eq!(show.text(r#"{"a":[7]}"#), "{\n  \"a\": [\n    7\n  ]\n}");
            assert_eq!(show.text("?"), "?");
        }
    }
}
