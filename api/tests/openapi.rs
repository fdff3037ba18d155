//! The published contract says what the code does: paths, methods, answers, fields, codes.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use std::collections::BTreeSet;

use api::request::{Status, code};
use api::route::{ABSENT, ROUTES};
use api::schema::console::{ConsoleConfig, ConsoleMode};
use api::schema::cpus::CpusConfig;
use api::schema::device::{AddDevice, PciDeviceInfo, RemoveDevice};
use api::schema::info::{
    AddPhase, AddProgress, DeviceNode, DeviceReset, DeviceState, PciBarType, ResetResult, Resource,
    VmInfo, VmState, VmmPing,
};
use api::schema::interrupts::{
    Backend, DeviceInterrupts, GuestVector, HostError, InterruptMode, LineState, MsiState,
    MsixState, TestInterrupt, VectorCounts, VectorDelivery, VectorState,
};
use api::schema::landlock::{LandlockAccess, LandlockConfig};
use api::schema::machine::VmConfig;
use api::schema::memory::MemoryConfig;
use api::schema::payload::PayloadConfig;
use api::schema::platform::PlatformConfig;
use serde::Serialize;
use serde_json::{Value, to_value};
use yaml_rust2::{Yaml, YamlLoader};

fn contract() -> Yaml {
    YamlLoader::load_from_str(include_str!("../openapi/hotbay.yaml")).unwrap().remove(0)
}

fn keys(map: &Yaml) -> BTreeSet<String> {
    map.as_hash().unwrap().keys().map(|key| key.as_str().unwrap().to_owned()).collect()
}

fn set<T: ToString>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn words(list: &Yaml) -> Vec<&str> {
    list.as_vec().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn paths_and_methods_are_the_routes() {
    let contract = contract();
    let paths = &contract["paths"];

    let routed = ROUTES.iter().map(|route| (route.verb, route.method));
    let all = || routed.clone().chain(ABSENT.iter().map(|absent| (absent.verb, absent.method)));
    assert_eq!(keys(paths), set(all().map(|(verb, _)| format!("/{verb}"))));
    for (verb, method) in all() {
        let path = &paths[format!("/{verb}").as_str()];
        assert_eq!(keys(path), set([method.to_str().to_lowercase()]), "{verb}");
    }
}

#[test]
fn declared_answers_are_the_real_ones() {
    let contract = contract();
    let failures = set(Status::ALL.map(Status::code));
    for (verb, successes) in [
        ("vmm.ping", &[200][..]),
        ("vmm.shutdown", &[204]),
        ("vm.create", &[204]),
        ("vm.boot", &[204]),
        ("vm.info", &[200]),
        ("vm.add-device", &[200, 204]),
        ("vm.check-device", &[204]),
        ("vm.remove-device", &[204]),
        ("vm.shutdown", &[204]),
        ("vm.reboot", &[204]),
        ("vm.pause", &[204]),
        ("vm.resume", &[204]),
        ("vm.delete", &[204]),
        ("vm.nmi", &[204]),
        ("vm.power-button", &[204]),
        ("vm.counters", &[200]),
        ("vm.interrupts", &[200]),
        ("vm.test-interrupt", &[204]),
    ] {
        let method = if successes == [200] { "get" } else { "put" };
        let declared = keys(&contract["paths"][format!("/{verb}").as_str()][method]["responses"]);

        let (good, bad): (BTreeSet<_>, BTreeSet<_>) =
            declared.into_iter().partition(|status| status.starts_with('2'));
        assert_eq!(good, set(successes), "{verb}");
        assert!(bad.is_subset(&failures), "{verb}: {bad:?}");
        assert!(bad.is_superset(&set([400, 405, 413, 503])), "{verb}: {bad:?}");
    }
    assert_eq!(keys(&contract["components"]["responses"]).len(), failures.len());
}

#[test]
fn references_lead_somewhere() {
    let contract = contract();
    let text = include_str!("../openapi/hotbay.yaml");
    for part in text.split("$ref: '#/components/").skip(1) {
        let (kind, name) = part.split('\'').next().unwrap().split_once('/').unwrap();

        assert!(!contract["components"][kind][name].is_badvalue(), "{kind}/{name}");
    }
}

#[test]
fn codes_are_the_same_with_the_same_words() {
    let contract = contract();
    let listed = contract["x-error-codes"].as_hash().unwrap().iter();
    let listed: Vec<_> =
        listed.map(|(name, text)| (name.as_str().unwrap(), text.as_str().unwrap())).collect();

    let real: Vec<_> = code::ALL.iter().map(|(name, text)| (*name, text.trim())).collect();
    assert_eq!(listed, real);
}

#[test]
fn guide_lists_every_code_and_verb() {
    let guide = include_str!("../../docs/api.md");
    for (name, text) in code::ALL {
        assert!(guide.contains(&format!("| `{name}` | {} |", text.trim())), "{name}");
    }
    for route in ROUTES {
        assert!(
            guide.contains(&format!("### {} {}\n", route.method.to_str(), route.verb)),
            "{}",
            route.verb
        );
    }
    for absent in ABSENT {
        let row = format!("| `{}` | {} |", absent.verb, absent.instead);
        assert!(guide.contains(&row), "docs/api.md lacks this row: {row}");
    }
}

#[test]
fn schemas_have_the_fields_of_the_types() {
    let config = full_config();
    let node = full_node();
    let Resource::PciBar { .. } = &node.resources[0];
    let interrupts = full_interrupts();
    let vector = &interrupts.vectors[0];
    let bar = to_value(&node.resources[0]).unwrap()["PciBar"].take();
    let info = VmInfo {
        config: config.clone(),
        state: VmState::Running,
        memory_actual_size: 1,
        memory_warm_size: Some(1),
        device_tree: Some([("nic0".to_owned(), node.clone())].into()),
    };
    for (name, example) in [
        ("VmConfig", value(&config)),
        ("PayloadConfig", value(&config.payload)),
        ("CpusConfig", value(&config.cpus)),
        ("MemoryConfig", value(&config.memory)),
        ("ConsoleConfig", value(&config.serial)),
        ("AddDevice", value(&config.devices.as_ref().unwrap()[0])),
        ("LandlockConfig", value(&config.landlock_rules.as_ref().unwrap()[0])),
        (
            "RemoveDevice",
            value(&RemoveDevice { id: "a".to_owned(), wait_ms: Some(1), force: Some(true) }),
        ),
        ("PciDeviceInfo", value(&PciDeviceInfo { id: "a".to_owned(), bdf: "b".to_owned() })),
        ("VmInfo", value(&info)),
        ("DeviceNode", value(&node)),
        ("DeviceReset", value(&node.reset)),
        ("AddProgress", value(&node.progress)),
        ("Resource", value(&node.resources[0])),
        ("PciBar", bar),
        ("VmmPing", value(&ping())),
        ("DeviceInterrupts", value(&interrupts)),
        ("HostError", value(&interrupts.host_error)),
        ("MsixState", value(&interrupts.msix)),
        ("MsiState", value(&interrupts.msi)),
        ("LineState", value(&interrupts.line)),
        ("VectorState", value(&vector)),
        ("GuestVector", value(&vector.guest)),
        ("VectorDelivery", value(&vector.delivery)),
        ("VectorCounts", value(&vector.counts)),
        ("TestInterrupt", value(&TestInterrupt { id: "a".to_owned(), vector: 0 })),
    ] {
        let schema = &contract()["components"]["schemas"][name];

        assert_eq!(keys(&schema["properties"]), set(example.as_object().unwrap().keys()), "{name}");
    }
}

#[test]
fn enumerations_have_the_words_of_the_types() {
    let contract = contract();
    let schemas = &contract["components"]["schemas"];
    for mode in words(&schemas["ConsoleMode"]["enum"]) {
        serde_json::from_value::<ConsoleMode>(mode.into()).unwrap();
    }
    for access in words(&schemas["LandlockConfig"]["properties"]["access"]["enum"]) {
        serde_json::from_value::<LandlockAccess>(access.into()).unwrap();
    }
    for state in words(&schemas["VmState"]["enum"]) {
        serde_json::from_value::<VmState>(state.into()).unwrap();
    }
    for state in words(&schemas["DeviceState"]["enum"]) {
        serde_json::from_value::<DeviceState>(state.into()).unwrap();
    }
    for result in words(&schemas["ResetResult"]["enum"]) {
        serde_json::from_value::<ResetResult>(result.into()).unwrap();
    }
    for phase in words(&schemas["AddPhase"]["enum"]) {
        serde_json::from_value::<AddPhase>(phase.into()).unwrap();
    }
    for kind in words(&schemas["PciBarType"]["enum"]) {
        serde_json::from_value::<PciBarType>(kind.into()).unwrap();
    }
    for mode in words(&schemas["InterruptMode"]["enum"]) {
        serde_json::from_value::<InterruptMode>(mode.into()).unwrap();
    }
    for backend in words(&schemas["Backend"]["enum"]) {
        serde_json::from_value::<Backend>(backend.into()).unwrap();
    }
}

fn value(body: &impl Serialize) -> Value {
    to_value(body).unwrap()
}

fn ping() -> VmmPing {
    VmmPing { build_version: String::new(), version: String::new(), pid: 1, features: Vec::new() }
}

/// Every optional field is there, or the comparison would miss it.
fn full_config() -> VmConfig {
    let path = || Some("/x".into());
    let serial = ConsoleConfig { mode: ConsoleMode::File, file: path(), socket: path() };
    VmConfig {
        payload: Some(PayloadConfig {
            kernel: path(),
            cmdline: Some(String::new()),
            initramfs: path(),
        }),
        cpus: CpusConfig::default(),
        memory: MemoryConfig { hugepage_size: Some(1), ..MemoryConfig::default() },
        serial: serial.clone(),
        console: serial,
        platform: Some(PlatformConfig::default()),
        devices: Some(vec![AddDevice {
            path: "/x".into(),
            id: Some("a".to_owned()),
            pci_segment: 0,
            pci_device_id: Some(1),
            x_exclude_mmap_bars: vec![0],
            x_msix_noresize: true,
            x_exact_pending: true,
            x_map_threads: Some(1),
        }]),
        landlock_enable: true,
        landlock_rules: Some(vec![LandlockConfig {
            path: "/x".into(),
            access: LandlockAccess::Read,
        }]),
    }
}

fn full_node() -> DeviceNode {
    let bar =
        Resource::PciBar { index: 0, base: 0, size: 0, type_: PciBarType::Io, prefetchable: false };
    DeviceNode {
        id: "a".to_owned(),
        resources: vec![bar],
        parent: None,
        children: Vec::new(),
        pci_bdf: None,
        state: Some(DeviceState::Attached),
        since_ms: Some(0),
        wanted_back_ms: Some(0),
        host_errors: Some(1),
        failure: Some("a".to_owned()),
        reset: Some(DeviceReset {
            method: "a".to_owned(),
            reason: Some("b".to_owned()),
            last: Some(ResetResult::Done),
            error: Some("c".to_owned()),
            took_ms: Some(0),
        }),
        progress: Some(AddProgress { phase: AddPhase::Mapping, bytes_done: 0, bytes_total: 0 }),
    }
}

fn full_interrupts() -> DeviceInterrupts {
    let host_error = Some(HostError { errno: "a".to_owned(), message: "b".to_owned() });
    let vector = VectorState {
        vector: 0,
        guest: GuestVector { address: 0, data: 0, masked: true, pending: false, live: false },
        delivery: VectorDelivery { backend: Backend::Detached, gsi: None, wired: false },
        counts: VectorCounts { relayed: 0, host: None },
        host_error: host_error.clone(),
    };
    DeviceInterrupts {
        mode: InterruptMode::None,
        host_mode: InterruptMode::None,
        host_error,
        msix: Some(MsixState { table_size: 1, enabled: false, function_masked: false }),
        msi: Some(MsiState { capable: 1, in_use: 0 }),
        line: Some(LineState { gsi: 16, allowed: false, wired: false, host: None }),
        vectors: vec![vector],
    }
}
