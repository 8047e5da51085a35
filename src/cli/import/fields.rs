//! Reading a foreign row: its columns by name, whatever type they have, and the ids its rows get here.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{model::clock::EpochMs, store::lightfast::ForeignRow};

/// A text, or a number as text; `None` if it is missing, null or empty.
pub(super) fn text(row: &ForeignRow, column: &str) -> Option<String> {
    match row.get(column)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The first of these columns that has a text.
pub(super) fn first_text(row: &ForeignRow, columns: &[&str]) -> Option<String> {
    columns.iter().find_map(|column| text(row, column))
}

/// An object, also one that is kept as text.
pub(super) fn object(row: &ForeignRow, column: &str) -> Option<Map<String, Value>> {
    match row.get(column)? {
        Value::Object(object) => Some(object.clone()),
        Value::String(json) => serde_json::from_str(json).ok(),
        _ => None,
    }
}

/// A time. One without an offset is in UTC.
pub(super) fn time(row: &ForeignRow, column: &str) -> Option<EpochMs> {
    let text = text(row, column)?.replacen(' ', "T", 1);
    EpochMs::parse_rfc3339(&text).or_else(|| EpochMs::parse_rfc3339(&format!("{text}Z")))
}

/// Its id, for the report as well.
pub(super) fn id(row: &ForeignRow) -> String {
    text(row, "id").unwrap_or_else(|| "(no id)".to_owned())
}

/// The id a row gets here: its own if it has our form, else one made of the row's time and of what identifies it there, so
/// that it is the same in every run.
pub(super) fn mapped_id(prefix: &str, table: &str, id: &str, made_at: EpochMs) -> String {
    const TIME_DIGITS: usize = 12;
    const DIGITS: usize = 32;
    let is_ours = id.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == DIGITS && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    });
    if is_ours {
        return id.to_owned();
    }
    let digest = hex::encode(Sha256::digest(format!("lightfast\n{table}\n{id}")));
    let millis = u64::try_from(made_at.0).unwrap_or(0);
    format!("{prefix}{millis:012x}{}", &digest[..DIGITS - TIME_DIGITS])
}
