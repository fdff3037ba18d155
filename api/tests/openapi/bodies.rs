//! Bodies: what the contract allows the server reads, what it does not the server refuses.

use std::collections::BTreeSet;

use api::route::{self, PREFIX};
use api::schema::NOT_ACTED_ON;
use micro_http::Method;
use serde_json::{Value, json};

use crate::contract::{Contract, Misfit, list};
use crate::examples;

/// One of each kind of JSON, and numbers at the edges of what fits anywhere.
fn strangers() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!("text"),
        json!(-1),
        json!(0),
        json!(1),
        json!(7),
        json!(256),
        json!(1.5),
        json!(u64::MAX),
        json!([]),
        json!([7]),
        json!(["text"]),
        json!({}),
        json!({"text": 7}),
    ]
}

/// The verbs with a body, and an example of it.
fn verbs() -> Vec<(&'static str, &'static str, Value)> {
    let examples = examples::all();
    let example = |name| examples.iter().find(|example| example.0 == name).unwrap().1.clone();
    [
        ("vm.create", "VmConfig"),
        ("vm.add-device", "AddDevice"),
        ("vm.add-disk", "DiskConfig"),
        ("vm.add-net", "NetConfig"),
        ("vm.add-vsock", "VsockConfig"),
        ("vm.add-user-device", "UserDeviceConfig"),
        ("vm.resize", "VmResize"),
        ("vm.check-device", "AddDevice"),
        ("vm.remove-device", "RemoveDevice"),
        ("vm.test-interrupt", "TestInterrupt"),
    ]
    .map(|(verb, name)| (verb, name, example(name)))
    .into()
}

/// Panics unless the server and the contract agree about a body.
fn agree(contract: &Contract, (verb, name): (&str, &str), body: &Value) {
    let path = format!("{PREFIX}{verb}");
    let server = route::parse(Method::Put, &path, body.to_string().as_bytes());
    match (contract.fits(contract.schema(name), body), server) {
        // Bounds are the machine's to check, where the type does not.
        (Ok(()), Ok(_)) | (Err(Misfit::Shape(_)), Err(_)) | (Err(Misfit::Bounds(_)), _) => {}
        (contract, server) => panic!("{verb} {body}:\n{contract:?}\n{server:?}"),
    }
}

/// Every place in `value` where something stands, by JSON pointer.
fn places(value: &Value) -> Vec<String> {
    let inside = |name: &str, value| {
        let below = places(value);
        below.into_iter().map(|place| format!("/{name}{place}")).collect::<Vec<_>>()
    };
    let mut all = vec![String::new()];
    match value {
        Value::Object(fields) => all.extend(fields.iter().flat_map(|(name, v)| inside(name, v))),
        Value::Array(items) => all.extend(items.iter().flat_map(|v| inside("0", v))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

#[test]
fn every_field_takes_what_the_contract_says_and_nothing_else() {
    let contract = Contract::load();
    for (verb, name, example) in verbs() {
        agree(&contract, (verb, name), &example);
        for place in places(&example) {
            for stranger in strangers() {
                let mut body = example.clone();
                *body.pointer_mut(&place).unwrap() = stranger;
                agree(&contract, (verb, name), &body);
            }
        }
    }
}

#[test]
fn every_field_may_be_left_out_unless_the_contract_requires_it() {
    let contract = Contract::load();
    for (verb, name, example) in verbs() {
        for place in places(&example).iter().filter(|place| !place.ends_with("/0")) {
            let Some((parent, field)) = place.rsplit_once('/') else { continue };
            let mut body = example.clone();
            body.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
            agree(&contract, (verb, name), &body);
        }
    }
}

#[test]
fn unknown_fields_are_refused_everywhere() {
    let contract = Contract::load();
    for (verb, name, example) in verbs() {
        for place in places(&example) {
            let mut body = example.clone();
            let Some(object) = body.pointer_mut(&place).unwrap().as_object_mut() else { continue };
            object.insert("misspelt".to_owned(), 7.into());
            agree(&contract, (verb, name), &body);
            let fits = contract.fits(contract.schema(name), &body);
            assert!(fits.is_err(), "the contract allows unknown fields in {name}{place}");
        }
    }
}

/// Fields of this body that hotbay does not act on, with their defaults.
fn known(name: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let tables = NOT_ACTED_ON.iter().filter(move |(of, _)| *of == name);
    tables.flat_map(|(_, table)| table.iter())
}

/// The only value, beside null, of a schema of a field that hotbay does not act on; of an
/// object, any part may be absent.
fn default_of(schema: &Value) -> Value {
    assert_eq!(schema["nullable"], true, "{schema}");
    if schema["type"] == "object" {
        assert_eq!(schema["additionalProperties"], false, "{schema}");
        let fields = schema["properties"].as_object().unwrap().iter();
        return fields.map(|(name, field)| (name.clone(), default_of(field))).collect();
    }
    let values = list(&schema["enum"]);
    let null = (values != [Value::Null]).then_some(&Value::Null);
    assert_eq!(values.iter().skip(1).collect::<Vec<_>>(), Vec::from_iter(null), "{schema}");
    values[0].clone()
}

/// Fields of a schema: those of the type, and those that Cloud Hypervisor knows.
#[test]
fn schemas_have_the_fields_of_the_types() {
    let contract = Contract::load();
    for (name, example) in examples::all() {
        let schema = contract.schema(name);
        let listed: BTreeSet<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let own = example.as_object().unwrap().keys().map(String::as_str);
        let real: BTreeSet<&str> = own.chain(known(name).map(|(field, _)| *field)).collect();

        assert_eq!(listed, real, "{name}");
        assert_eq!(contract.fits(schema, &example), Ok(()), "{name}");
        for (field, default) in known(name) {
            let default: Value = serde_json::from_str(default).unwrap();
            assert_eq!(&default_of(&schema["properties"][field]), &default, "{name}.{field}");
        }
    }
}

#[test]
fn fields_that_are_not_acted_on_pass_at_their_default() {
    let contract = Contract::load();
    for (verb, name, example) in verbs() {
        for (field, default) in known(name) {
            let default: Value = serde_json::from_str(default).unwrap();
            for value in [default, Value::Null, json!(123_456)] {
                let mut body = example.clone();
                body[*field] = value;
                agree(&contract, (verb, name), &body);
            }
        }
    }
}
