//! House rules no compiler checks. A rule that is not here is only a wish.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Module groups of each crate, lowest first. A module may name groups before its own, never
/// after: the graph of modules has no cycles. A module that is missing here has no place yet.
const API: &[&str] =
    &["descriptors", "schema", "request", "mailbox", "route", "server", "client", "cli", "openapi"];
const DEVICES: &[&str] =
    &["io", "irq", "memory", "console", "space", "pci", "vfio", "virtio", "platform", "legacy"];
const VMM: &[&str] = &[
    "allocator",
    "logging",
    "limits",
    "priority",
    "privileges",
    "sandbox",
    "seccomp",
    "monitor",
    "kvm",
    "memory",
    "events",
    "workers",
    "warming",
    "signals",
    "watch",
    "irq",
    "arch",
    "vcpu",
    "acpi",
    "boot",
    "config",
    "console",
    "hotplug",
    "machine",
    "assemble",
    "lifecycle",
    "control",
    "event_loop",
    "process",
    "bin",
];
const TESTS: &[&str] = &[
    "error",
    "sockets",
    "wait",
    "evidence",
    "artifacts",
    "counts",
    "emulator",
    "resends",
    "events",
    "host",
    "hold",
    "faults",
    "rounds",
    "sectors",
    "processors",
    "behind",
    "http",
    "monitor",
    "standstill",
    "guest",
    "meanwhile",
    "metronome",
    "vm",
    "peer",
    "debian",
    "held",
    "function",
    "registers",
    "tally",
    "bench",
    "wide",
    "lab",
    "bin",
    "soak",
    "bin",
];

/// The address map: constants only, which every module may name.
const ADDRESS_MAP: &str = "crate::memory::layout";

/// Cloud Hypervisor's name of a field, which the API must know in order to refuse it.
const FOREIGN_NAME: &str = "kvm_hyperv";

/// Lines of code: comments, blank lines and a closing `mod tests` do not count.
const LONGEST_FILE: usize = 400;

/// The design of MSI-X lists so many cases (docs/interrupts.md).
const CASES: u32 = 27;

#[test]
fn modules_only_look_down() {
    let mut wrong = Vec::new();
    for (krate, order) in [("api", API), ("devices", DEVICES), ("vmm", VMM), ("tests", TESTS)] {
        for file in sources(krate) {
            let group = group(&file);
            if group == "lib" {
                continue;
            }
            let Some(own) = order.iter().position(|module| *module == group) else {
                wrong.push(format!("{}: {group} has no place in tidy.rs", file.display()));
                continue;
            };
            let text = code(&file).replace(ADDRESS_MAP, "");
            for above in order[own + 1..].iter().filter(|above| names(&text, above)) {
                wrong.push(format!("{} names crate::{above}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn devices_and_api_do_not_know_each_other_nor_kvm() {
    let mut wrong = Vec::new();
    for (krate, words) in
        [("devices", ["api::", "vmm::", "kvm"]), ("api", ["devices::", "vmm::", "kvm"])]
    {
        for file in sources(krate) {
            let text = code(&file).to_lowercase().replace(FOREIGN_NAME, "");
            for word in words.iter().filter(|word| text.contains(*word)) {
                wrong.push(format!("{} names {word}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    let mut wrong = Vec::new();
    for file in ["api", "devices", "vmm", "tests", "tests/fuzz"].into_iter().flat_map(sources) {
        if !fs::read_to_string(&file).unwrap().starts_with("//! ") {
            wrong.push(format!("{} has no module doc on its first line", file.display()));
        }
        let lines = code(&file).lines().filter(|line| !line.trim().is_empty()).count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{} has {lines} lines of code", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_case_of_the_design_has_a_test_with_its_number() {
    let files = ["api", "devices", "vmm", "tests"].into_iter().flat_map(all_sources);
    let texts: Vec<String> = files.map(|file| fs::read_to_string(file).unwrap()).collect();
    let named = texts.iter().flat_map(|text| text.split("fn case_").skip(1)).flat_map(cases);
    let missing = {
        let named: BTreeSet<u32> = named.collect();
        (1..=CASES).filter(|case| !named.contains(case)).collect::<Vec<_>>()
    };
    assert!(missing.is_empty(), "no test is called case_NN_... for {missing:?}");
}

/// Numbers at the start of a name: `05_and_06_...`, `04_to_11_and_15_...`.
fn cases(name: &str) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let mut from = None;
    for word in name.split('_') {
        match (word, word.parse::<u32>()) {
            (_, Ok(number)) => {
                found.extend(from.take().map_or(number..=number, |from| from + 1..=number));
            }
            ("and", _) => {}
            ("to", _) => from = found.last().copied(),
            _ => break,
        }
    }
    found
}

#[test]
fn numbers_of_cases_are_read_from_names() {
    assert_eq!(cases("05_and_06_masked_fires_come_once"), [5, 6]);
    assert_eq!(cases("04_to_07_and_15_of_an_igb"), [4, 5, 6, 7, 15]);
    assert_eq!(cases("17_one_vector_and_2048()"), [17]);
}

#[test]
fn what_the_threat_model_leans_on_is_there() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = fs::read_to_string(guide).unwrap();
    let files: Vec<PathBuf> =
        ["api", "devices", "vmm", "tests"].into_iter().flat_map(all_sources).collect();
    let named = text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs"));
    let missing: Vec<&str> =
        named.filter(|name| !files.iter().any(|file| file.ends_with(name))).collect();
    assert!(missing.is_empty(), "docs/security.md names {missing:?}");
}

/// Whether `text` uses module `above`, by a path or in a braced list of the crate's modules.
fn names(text: &str, above: &str) -> bool {
    text.match_indices(&format!("crate::{above}")).any(|(at, found)| {
        !text[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

/// Source files of a crate, its tests left out.
fn sources(krate: &str) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src");
    let mut found = rust_files(source);
    found.retain(|file| !file.ends_with("tests.rs"));
    found
}

/// Source files of a crate with its tests.
fn all_sources(krate: &str) -> Vec<PathBuf> {
    rust_files(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate))
}

fn rust_files(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Text of a file without its comments and its tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let tested = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let line = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    tested.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// First path component under `src`: `pci` for both `pci.rs` and `pci/bus.rs`.
fn group(file: &Path) -> String {
    let path = file.to_str().unwrap().rsplit("/src/").next().unwrap();
    path.split(['/', '.']).next().unwrap().to_owned()
}
