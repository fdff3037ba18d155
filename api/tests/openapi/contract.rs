//! The published contract as something to hold answers and bodies against: the part of
//! JSON Schema that the file uses, and no more. `vmm/tests/process` includes this file.

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

const TEXT: &str = include_str!("../../openapi/hotbay.yaml");

/// The file.
pub struct Contract(Value);

/// Why a value does not fit a schema: where, and what.
#[derive(Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is a number outside of the bounds. What a body's types cannot say, the machine
    /// checks later.
    Bounds(String),
    /// Anything else.
    Shape(String),
}

impl Contract {
    pub fn load() -> Self {
        Self(json(&YamlLoader::load_from_str(TEXT).unwrap()[0]))
    }

    /// A part of it, by JSON pointer.
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer}"))
    }

    /// A schema, by its name.
    pub fn schema(&self, name: &str) -> &Value {
        self.at(&format!("/components/schemas/{name}"))
    }

    /// Whether this answer to `verb` is declared: its status, its body, and the code of an
    /// error.
    pub fn declares(&self, verb: &str, status: u16, body: Option<&str>) -> Result<(), String> {
        let methods = self.at(&format!("/paths/~1{verb}")).as_object().unwrap();
        let answers = &methods.values().next().unwrap()["responses"];
        let answer =
            answers.get(status.to_string()).ok_or(format!("{verb} never says {status}"))?;
        let schema = self.resolved(answer).pointer("/content/application~1json/schema");
        let (schema, value) = match (schema, body.map(serde_json::from_str::<Value>)) {
            (None, None) => return Ok(()),
            (Some(schema), Some(Ok(value))) => (schema, value),
            (schema, body) => return Err(format!("{verb} {status}: {schema:?} and {body:?}")),
        };
        self.fits(schema, &value).map_err(|misfit| format!("{verb} {status}: {misfit:?}"))?;
        if status < 400 {
            return Ok(());
        }
        let first = value[0].as_str().unwrap_or_default();
        let code = first.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let known = code.is_some_and(|(code, _)| self.at("/x-error-codes").get(code).is_some());
        if known { Ok(()) } else { Err(format!("{verb}: no such code: {first}")) }
    }

    /// Whether `value` is what `schema` describes.
    pub fn fits(&self, schema: &Value, value: &Value) -> Result<(), Misfit> {
        let schema = self.resolved(schema);
        let misfit = |what: &str| Err(Misfit::Shape(format!("{value} {what}")));
        let words = list(&schema["enum"]);
        let listed = words.is_empty() || words.contains(value);
        if value.is_null() && schema["nullable"] == true {
            // OpenAPI 3.0.3: a list of values has null in it, or null is none of them.
            return if listed { Ok(()) } else { misfit("is not in the list") };
        }
        for part in list(&schema["allOf"]) {
            self.fits(part, value)?;
        }
        let choices = list(&schema["oneOf"]);
        if !choices.is_empty() && choices.iter().all(|choice| self.fits(choice, value).is_err()) {
            return misfit("is none of the alternatives");
        }
        if !listed {
            return misfit("is not in the list");
        }
        match schema["type"].as_str() {
            Some("object") => return self.fits_object(schema, value),
            Some("array") if !value.is_array() => return misfit("is no array"),
            Some("string") if !value.is_string() => return misfit("is no string"),
            Some("boolean") if !value.is_boolean() => return misfit("is no boolean"),
            Some("integer") if !value.is_i64() && !value.is_u64() => {
                return misfit("is no whole number");
            }
            _ => {}
        }
        for item in list(value) {
            self.fits(&schema["items"], item)?;
        }
        let number = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
        let bound = |name: &str| schema[name].as_i64().map(i128::from);
        let below = number.zip(bound("minimum")).is_some_and(|(number, least)| number < least);
        let width = (schema["format"] == "int64").then_some(i128::from(i64::MAX));
        let most = bound("maximum").into_iter().chain(width).min();
        let above = number.zip(most).is_some_and(|(number, most)| number > most);
        if below || above { Err(Misfit::Bounds(value.to_string())) } else { Ok(()) }
    }

    fn fits_object(&self, schema: &Value, value: &Value) -> Result<(), Misfit> {
        let Some(object) = value.as_object() else {
            return Err(Misfit::Shape(format!("{value} is no object")));
        };
        for name in list(&schema["required"]).iter().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                return Err(Misfit::Shape(format!("{name} is missing")));
            }
        }
        for (name, field) in object {
            let own = schema["properties"].get(name);
            match own.or(schema.get("additionalProperties")) {
                Some(Value::Bool(false)) => {
                    return Err(Misfit::Shape(format!("there is no {name}")));
                }
                Some(schema) if schema.is_object() => self.fits(schema, field)?,
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// What a reference leads to.
    pub fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.at(reference.trim_start_matches('#')),
            None => schema,
        }
    }
}

/// Items of an array; none of anything else.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Integer(number) => (*number).into(),
        Yaml::String(text) => text.as_str().into(),
        Yaml::Boolean(value) => (*value).into(),
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::Hash(map) => {
            map.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), json(value))).collect()
        }
        Yaml::Null => Value::Null,
        Yaml::Real(_) | Yaml::Alias(_) | Yaml::BadValue => panic!("{yaml:?} in the contract"),
    }
}
