//! The published contract says what the code does: paths, methods, answers, fields, codes.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]
#![expect(unreachable_pub, reason = "the helpers are this test's own")]

mod bodies;
mod contract;
mod examples;

use std::collections::BTreeSet;

use api::request::{Status, code};
use api::route::{self, ABSENT, PREFIX, ROUTES};
use api::schema::console::ConsoleMode;
use api::schema::info::{AddPhase, DeviceState, PciBarType, ResetResult, VmState};
use api::schema::interrupts::{Backend, InterruptMode};
use api::schema::landlock::LandlockAccess;
use contract::Contract;
use micro_http::Method;
use yaml_rust2::{Yaml, YamlLoader};

fn contract() -> Yaml {
    YamlLoader::load_from_str(include_str!("../../openapi/hotbay.yaml")).unwrap().remove(0)
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
        ("vm.add-disk", &[200, 204]),
        ("vm.add-net", &[200, 204]),
        ("vm.add-vsock", &[200, 204]),
        ("vm.add-user-device", &[200, 204]),
        ("vm.resize", &[204]),
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
        ("vm.events", &[200]),
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
fn refusals_of_every_path_are_declared_with_their_codes() {
    let contract = Contract::load();
    let routed = ROUTES.iter().map(|route| (route.verb, route.method));
    for (verb, method) in routed.chain(ABSENT.iter().map(|absent| (absent.verb, absent.method))) {
        for method in [Method::Get, Method::Put, Method::Patch].into_iter().chain([method]) {
            for body in ["", "{", "{}", "[]", r#"{"what":1}"#] {
                let path = format!("{PREFIX}{verb}");
                let Err(fault) = route::parse(method, &path, body.as_bytes()) else { continue };
                let text = serde_json::to_string(&[format!("[{}] {fault}", fault.code)]).unwrap();
                let declared = contract.declares(verb, fault.status.code(), Some(&text));
                assert_eq!(declared, Ok(()));
            }
        }
    }
}

#[test]
fn references_lead_somewhere() {
    let contract = contract();
    let text = include_str!("../../openapi/hotbay.yaml");
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
    let guide = include_str!("../../../docs/api.md");
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
        let method = absent.method.to_str().to_lowercase();
        let path = &contract()["paths"][format!("/{}", absent.verb).as_str()];
        let about = path[method.as_str()]["description"].as_str().unwrap();
        assert!(about.ends_with(&format!(" Instead: {}.", absent.instead)), "{about}");
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

#[test]
fn every_code_is_said_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("api/src"), root.join("vmm/src")];
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => text.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    for (name, _) in code::ALL {
        let constant = name.replace(['.', '-'], "_").to_uppercase();
        assert!(text.contains(&format!("code::{constant}")), "nobody ever says {name}");
    }
}
