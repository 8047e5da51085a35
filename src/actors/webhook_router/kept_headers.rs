//! The headers that are stored with an event.
//!
//! **Invariants**: nothing that authenticates somebody is kept. **Must not know** any provider beyond the names of the
//! headers that carry signatures.

use serde::{Serialize, Serializer};

use crate::{model::webhook::Headers, store::StoreError};

/// Headers that are never kept: what authenticates somebody, and what only concerned the connection.
const HEADERS_NOT_KEPT: [&str; 10] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-vercel-signature",
    "linear-signature",
    "sentry-hook-signature",
    "connection",
];

/// Headers worth keeping, as a JSON object; repeated ones are joined the way HTTP allows.
pub(super) fn kept_headers(headers: &Headers) -> Result<String, StoreError> {
    serde_json::to_string(&KeptHeaders(headers))
        .map_err(|error| StoreError::Driver(format!("the headers are not JSON: {error}")))
}

struct KeptHeaders<'h>(&'h Headers);

impl Serialize for KeptHeaders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = self.0;
        let is_first = |index: usize, name: &str| headers.iter().take(index).all(|(before, _)| before != name);
        let kept = headers
            .iter()
            .enumerate()
            .filter(|(index, (name, _))| !HEADERS_NOT_KEPT.contains(name) && is_first(*index, name));
        serializer.collect_map(kept.map(|(_, (name, value))| {
            let mut joined = String::from_utf8_lossy(value);
            for again in headers.all(name).skip(1) {
                let joined = joined.to_mut();
                joined.push_str(", ");
                joined.push_str(&String::from_utf8_lossy(again));
            }
            (name, joined)
        }))
    }
}
