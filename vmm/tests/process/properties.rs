//! Requests made up from the OpenAPI file, as it says and not quite, in any order, to a
//! real program: whatever is asked, the answer is one that the file declares, a body is
//! refused when it does not fit and only then, the host is never blamed, and the program
//! lives. `PROPTEST_CASES` makes it longer.
//!
//! Two verbs are left out: `vmm.shutdown` ends the program, and `vm.boot` would take RAM
//! and write files as the configuration happens to say.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::Config;
use serde_json::{Map, Value, json};

use crate::contract::{Contract, Misfit, list};
use crate::program::Program;
use crate::wire::{Answer, Manner, ask};

const LEFT_OUT: [&str; 2] = ["vmm.shutdown", "vm.boot"];

/// Requests to one program.
const SESSION: usize = 12;

/// Sessions, unless the environment says otherwise.
const CASES: u32 = 40;

/// One request.
#[derive(Clone, Debug)]
struct Made {
    verb: String,
    /// Declared for that verb, or not.
    method: &'static str,
    query: String,
    body: Option<Value>,
}

/// A body or a value that fits `schema`.
fn fitting(contract: &Contract, schema: &Value) -> BoxedStrategy<Value> {
    let schema = contract.resolved(schema);
    if schema["nullable"] == true {
        let mut inner = schema.clone();
        inner["nullable"] = false.into();
        return prop_oneof![1 => Just(Value::Null), 4 => fitting(contract, &inner)].boxed();
    }
    if let [part] = list(&schema["allOf"]) {
        return fitting(contract, part);
    }
    let choices: Vec<_> = list(&schema["oneOf"]).iter().map(|one| fitting(contract, one)).collect();
    if !choices.is_empty() {
        return proptest::strategy::Union::new(choices).boxed();
    }
    if !list(&schema["enum"]).is_empty() {
        return select(list(&schema["enum"]).to_vec()).boxed();
    }
    match schema["type"].as_str() {
        Some("object") => object(contract, schema),
        Some("array") => proptest::collection::vec(fitting(contract, &schema["items"]), 0..3)
            .prop_map(Value::from)
            .boxed(),
        Some("integer") => {
            let least = schema["minimum"].as_i64().unwrap_or(0);
            let most = schema["maximum"].as_i64().unwrap_or(i64::MAX);
            prop_oneof![Just(least), Just(most), least..=most].prop_map(Value::from).boxed()
        }
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("string") => {
            let words = ["", "a", "nic0", "__a", "/sys/bus/pci/devices/0000:00:00.0", "\u{fc}"];
            let words = select(words.to_vec()).prop_map(str::to_owned);
            prop_oneof![words, "[a-z0-9_:./-]{0,70}"].prop_map(Value::from).boxed()
        }
        Some(_) | None => Just(json!({})).boxed(),
    }
}

/// An object with all required fields, and some of the others.
fn object(contract: &Contract, schema: &Value) -> BoxedStrategy<Value> {
    let required = |name: &String| list(&schema["required"]).contains(&name.as_str().into());
    let fields = schema["properties"].as_object().cloned().unwrap_or_default();
    let fields = fields.iter().map(|(name, field)| {
        let value = fitting(contract, field);
        let value = match required(name) {
            true => value.prop_map(Some).boxed(),
            false => proptest::option::weighted(0.2, value).boxed(),
        };
        (Just(name.clone()), value)
    });
    let present = |fields: Vec<(String, Option<Value>)>| {
        let present = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        Value::Object(present.collect::<Map<_, _>>())
    };
    fields.collect::<Vec<_>>().prop_map(present).boxed()
}

/// Every place in `value`, by JSON pointer.
fn places(value: &Value) -> Vec<String> {
    let mut all = vec![String::new()];
    let fields = value.as_object().into_iter().flatten().map(|(name, v)| (name.clone(), v));
    let items = list(value).iter().enumerate().map(|(index, v)| (index.to_string(), v));
    for (name, inside) in fields.chain(items) {
        all.extend(places(inside).into_iter().map(|place| format!("/{name}{place}")));
    }
    all
}

/// The same body, once in three times with something strange in it.
fn perhaps_strange(fitting: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let strange = select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!("text"),
        json!([7]),
        json!({"misspelt": 7}),
    ]);
    let change = proptest::option::weighted(0.33, (any::<Index>(), strange));
    let changed = |(mut body, change): (Value, Option<(Index, Value)>)| {
        if let Some((index, strange)) = change {
            let places = places(&body);
            *body.pointer_mut(index.get::<String>(&places)).unwrap() = strange;
        }
        body
    };
    (fitting, change).prop_map(changed).boxed()
}

fn request(contract: &Contract) -> BoxedStrategy<Made> {
    let paths = contract.at("/paths").as_object().unwrap().iter();
    let verbs = paths.map(|(path, methods)| (path.trim_start_matches('/').to_owned(), methods));
    let verbs = verbs.filter(|(verb, _)| !LEFT_OUT.contains(&verb.as_str()));
    let each = verbs.map(|(verb, methods)| {
        let (method, about) = methods.as_object().unwrap().iter().next().unwrap();
        let (right, wrong) = if method == "get" { ("GET", "PUT") } else { ("PUT", "GET") };
        let schema = about.pointer("/requestBody/content/application~1json/schema");
        let body = schema.map_or(Just(None).boxed(), |schema| {
            perhaps_strange(fitting(contract, schema)).prop_map(Some).boxed()
        });
        let names: Vec<_> = list(&about["parameters"]).iter().map(|p| &p["name"]).collect();
        let names = names.iter().map(|name| name.as_str().unwrap().to_owned()).chain([
            // Not a parameter of any verb.
            "misspelt".to_owned(),
        ]);
        // Small numbers: who asks for more has to wait for it.
        let parameter = (select(names.collect::<Vec<_>>()), "[0-9]|-1|nic0|");
        let parameter = parameter.prop_map(|(name, value)| format!("?{name}={value}"));
        let query = proptest::option::weighted(0.3, parameter);
        let method = prop_oneof![9 => Just(right), 1 => Just(wrong)];
        (Just(verb), method, query, body)
            .prop_map(|(verb, method, query, body)| Made {
                verb,
                method,
                query: query.unwrap_or_default(),
                body,
            })
            .boxed()
    });
    proptest::strategy::Union::new(each.collect::<Vec<_>>()).boxed()
}

/// Holds an answer against the contract.
fn check(contract: &Contract, made: &Made, answer: &Answer) -> Result<(), TestCaseError> {
    let about = format!("{made:?}: {answer:?}");
    let status: u16 = answer.status_line["HTTP/1.1 ".len()..].trim().parse().unwrap();
    prop_assert_eq!(
        contract.declares(&made.verb, status, answer.body.as_deref()),
        Ok(()),
        "{}",
        about
    );
    prop_assert_ne!(status, 500, "{}", about);
    let methods = contract.at(&format!("/paths/~1{}", made.verb));
    let Some(own) = methods.get(made.method.to_lowercase()) else {
        prop_assert_eq!(status, 405, "{}", about);
        return Ok(());
    };
    prop_assert_ne!(status, 405, "{}", about);
    if own["responses"].get("501").is_some() {
        prop_assert_eq!(status, 501, "{}", about);
        return Ok(());
    }
    let schema = own.pointer("/requestBody/content/application~1json/schema");
    let Some((schema, body)) = schema.zip(made.body.as_ref()) else { return Ok(()) };
    let text = answer.body.as_deref().unwrap_or_default();
    let refused = text.contains("[api.bad-body]") || text.contains("[api.not-offered]");
    let query_is_wrong = text.contains("[api.bad-query]");
    match contract.fits(schema, body) {
        Ok(()) => prop_assert!(!refused, "{}", about),
        Err(Misfit::Shape(_)) => prop_assert!(refused || query_is_wrong, "{}", about),
        // What the type cannot say is looked at when the VM's state allows the verb.
        Err(Misfit::Bounds(_)) => {}
    }
    Ok(())
}

#[test]
fn whatever_is_asked_is_answered_as_declared() {
    let contract = Contract::load();
    let sessions = proptest::collection::vec(request(&contract), 1..=SESSION);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let config = Config { cases: cases.unwrap_or(CASES), ..config };
    proptest!(config, |(session in sessions)| {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(folder.path());
        for made in &session {
            let body = made.body.as_ref().map(Value::to_string);
            let request = format!("{} {}{}", made.method, made.verb, made.query);
            let answer = ask(&program.socket, &request, body.as_deref(), Manner::Whole);
            check(&contract, made, &answer)?;
        }
        let last = ask(&program.socket, "PUT vmm.shutdown", None, Manner::Whole);
        prop_assert_eq!(last.status_line, "HTTP/1.1 204 ");
        program.has_ended_well();
    });
}
