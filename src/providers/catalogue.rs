//! The event catalogue: every event we have a key for, and the coarse categories the console switches.
//!
//! **Owns** the words of the catalogue; each provider's file holds its rows, one line each. **Invariants** (tested for
//! every provider): keys are unique and begin with the provider's slug, every key's category exists, every category
//! has a key, a default key is one of the seed's. **Must not know** any provider.

use serde::Serialize;

use crate::model::event::EventKey;

/// One event of the catalogue.
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
    /// Whether it is one of the 41 keys of the seed.
    pub seed: bool,
    /// A broader key a filter may name instead (`sentry:metric-alert` for `sentry:metric-alert.critical`).
    pub alias_of: Option<&'static str>,
}

impl EventSpec {
    /// A key of the seed: a new integration subscribes to it.
    pub(super) const fn seed(
        key: &'static str,
        label: &'static str,
        description: &'static str,
        category: &'static str,
        weight: u8,
    ) -> Self {
        Self { key, label, description, category, weight, default: true, seed: true, alias_of: None }
    }

    /// A key of ours beyond the seed's: nobody subscribes to it without naming it or its category.
    pub(super) const fn further(
        key: &'static str,
        label: &'static str,
        description: &'static str,
        category: &'static str,
        weight: u8,
    ) -> Self {
        Self { key, label, description, category, weight, default: false, seed: false, alias_of: None }
    }

    /// The same, but not among the keys a new integration subscribes to.
    pub(super) const fn not_default(mut self) -> Self {
        self.default = false;
        self
    }

    /// The same, as a narrower name of what `key` covers.
    pub(super) const fn alias_of(mut self, key: &'static str) -> Self {
        self.alias_of = Some(key);
        self
    }
}

/// The catalogue's key of that name, if it has one.
pub(super) fn find_key(events: &'static [EventSpec], key: &str) -> Option<EventKey> {
    events.iter().find(|spec| spec.key == key).map(|spec| EventKey::new(spec.key))
}

/// A category: shorthand for its keys in `sync.events`.
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

impl Category {
    /// A category.
    pub(super) const fn new(key: &'static str, label: &'static str, description: &'static str) -> Self {
        Self { key, label, description }
    }
}
