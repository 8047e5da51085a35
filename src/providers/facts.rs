//! Small JSON objects of what is known: `source_config`, attributes of resources, metadata of installations.
//!
//! **Invariant**: what is not known is left out, so that merging such an object never overwrites knowledge with
//! `null`.

use serde_json::{Map, Value};

/// The facts that are known.
pub(super) fn facts<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Map<String, Value> {
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A text fact.
pub(super) fn text(value: Option<impl Into<String>>) -> Option<Value> {
    value.map(|text| Value::String(text.into()))
}

/// A list of texts; unknown when empty.
pub(super) fn list(values: Vec<String>) -> Option<Value> {
    (!values.is_empty()).then(|| values.into())
}
