//! Whole numbers as the OpenAPI file has them: `int64`, from 0 on. A client in a language without larger ones could
//! not read back what another has set.

use serde::de::{Deserialize, Deserializer, Error, Unexpected};

/// A number up to 2^63 - 1.
pub(super) fn number<'de, D: Deserializer<'de>>(source: D) -> Result<u64, D::Error> {
    u64::deserialize(source).and_then(check)
}

/// The same, or null.
pub(super) fn maybe<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(source)?.map(check).transpose()
}

fn check<E: Error>(number: u64) -> Result<u64, E> {
    match i64::try_from(number) {
        Ok(_) => Ok(number),
        Err(_) => Err(E::invalid_value(
            Unexpected::Unsigned(number),
            &format!("a whole number up to {}", i64::MAX).as_str(),
        )),
    }
}
