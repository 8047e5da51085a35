//! The event catalogue: every event we have a key for, and the coarse categories the console switches.

use serde::Serialize;

/// One event of the catalogue (`providers.md` 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventSpec {
    /// Our key, `github:pull-request.opened`.
    pub key: &'static str,
    /// What the console calls it.
    pub label: &'static str,
    /// One sentence on when it is sent.
    pub description: &'static str,
    /// The key of its category.
    pub category: &'static str,
    /// Importance, 0 to 100.
    pub weight: u8,
    /// Whether a new integration subscribes to it.
    pub default: bool,
    /// Whether its category's shorthand expands to it (the 41 keys of the seed; `providers.md` 5.7).
    pub seed: bool,
    /// A broader key a filter may name instead (`sentry:metric-alert` for `sentry:metric-alert.critical`).
    pub alias_of: Option<&'static str>,
}

/// A category: shorthand for its seed keys in `sync.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Category {
    /// Its key, `pull_request`.
    pub key: &'static str,
    /// What the console calls it.
    pub label: &'static str,
    /// One sentence on what it covers.
    pub description: &'static str,
}
