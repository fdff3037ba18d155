//! Fields that Cloud Hypervisor knows and hotbay does not act on.
//!
//! Each body has a table of them with the JSON text of their defaults. While a
//! body is read, [`Filter`] stands between the JSON and the derived code: it
//! takes these fields out, compares them, and puts the field's name before
//! whatever else goes wrong with a value. Line and column stay serde_json's.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};
use serde_json::Value;

/// Field names and their defaults as JSON text.
pub type Table = &'static [(&'static str, &'static str)];

/// What a refusal of a known field says; lets the route tell it from bad JSON.
pub(crate) const NOT_OFFERED: &str = "hotbay does not offer this yet";

/// Implements both directions of serde for a type that derives them with
/// `#[serde(remote = "Self")]`, reading through the given table.
macro_rules! knows {
    ($body:ident, $table:expr) => {
        impl<'de> serde::Deserialize<'de> for $body {
            fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                Self::deserialize($crate::schema::known::Filter::new(source, $table))
            }
        }

        impl serde::Serialize for $body {
            fn serialize<S: serde::Serializer>(&self, sink: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, sink)
            }
        }
    };
}
pub(crate) use knows;

/// A deserializer of one object that takes the table's fields out.
pub(crate) struct Filter<D> {
    inner: D,
    table: Table,
}

impl<D> Filter<D> {
    pub(crate) fn new(inner: D, table: Table) -> Self {
        Self { inner, table }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Filter<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, Object { visitor, table: self.table })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Visits an object and nothing else: an array in its place is a mistake.
struct Object<V> {
    visitor: V,
    table: Table,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields { map, table: self.table, current: String::new() })
    }
}

struct Fields<A> {
    map: A,
    table: Table,
    current: String,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            let Some((_, default)) = self.table.iter().find(|(name, _)| *name == key) else {
                self.current.clone_from(&key);
                let key: StringDeserializer<A::Error> = key.into_deserializer();
                return seed.deserialize(key).map(Some);
            };
            let given: Value = self.map.next_value()?;
            // The tables are constants, and a test reads every one of them.
            let default: Value = serde_json::from_str(default).map_err(A::Error::custom)?;
            check(&key, &given, &default).map_err(A::Error::custom)?;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        // serde_json takes "at line 1 column 2" off the inner text and keeps it.
        self.map
            .next_value_seed(seed)
            .map_err(|error| A::Error::custom(format_args!("{}: {error}", self.current)))
    }
}

/// What there is in place of a field, where its name would have one expect something else.
fn reason(path: &str) -> &'static str {
    match path {
        "socket" => {
            ": this vsock is the host kernel's, whose programs reach the guest by AF_VSOCK and its cid"
        }
        "desired_ram" | "desired_vcpus" => {
            ": shut the VM down, and create it with other memory and cpus"
        }
        _ => "",
    }
}

/// Is `given` as good as absent? Otherwise says which field is not, and why.
fn check(path: &str, given: &Value, default: &Value) -> Result<(), String> {
    if given.is_null() || given == default {
        return Ok(());
    }
    match (given, default) {
        (Value::Object(given), Value::Object(default)) => {
            given.iter().try_for_each(|(key, value)| {
                let path = format!("{path}.{key}");
                let default = default.get(key).ok_or_else(|| format!("unknown field `{path}`"))?;
                check(&path, value, default)
            })
        }
        (Value::Array(given), Value::Null) if given.is_empty() => Ok(()),
        _ if default.is_null() => {
            Err(format!("`{path}`: {NOT_OFFERED}; leave it out{}", reason(path)))
        }
        _ => Err(format!("`{path}`: {NOT_OFFERED}; leave it out or at its default {default}")),
    }
}
