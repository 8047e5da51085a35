//! Lifecycle and audit log entries: who did what, when, from where.

use serde::{Deserialize, Serialize};

use super::{
    clock::EpochMs,
    ids::{InstallationId, LogId, OrgId},
};

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// `key:key_…`, `provider:github`, `system` or `cli`.
    pub who: String,
    /// The person a service key acted for (`X-User-Id`).
    pub user: Option<String>,
    /// The peer's IP address, when a request caused it.
    pub from: Option<String>,
}

impl Actor {
    /// The gateway itself.
    pub fn system() -> Self {
        Self { who: "system".into(), user: None, from: None }
    }

    /// A provider, through one of its control events.
    pub fn provider(slug: super::provider::ProviderSlug) -> Self {
        Self { who: format!("provider:{slug}"), user: None, from: None }
    }
}

/// One row of the log. Never holds tokens, secrets or payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Our id, sortable by time.
    pub id: LogId,
    /// Which org it concerns.
    pub org: Option<OrgId>,
    /// Which installation it concerns.
    pub installation: Option<InstallationId>,
    /// What was acted on: an id (`res_…`, `int_…`, `key_…`, `dlv_…`).
    pub subject: Option<String>,
    /// What happened, a dotted past-tense name (`installation.suspended`, `resource.linked`, `key.created`).
    pub action: String,
    /// State before, where there is one.
    pub from_state: Option<String>,
    /// State after, where there is one.
    pub to_state: Option<String>,
    /// Why, a `snake_case` code or a short sentence.
    pub reason: Option<String>,
    /// Who did it.
    pub actor: Actor,
    /// When.
    pub at: EpochMs,
}

impl LogEntry {
    /// Who did what, and when; whatever else there is to say stands beside it: `LogEntry { subject, ..LogEntry::new(…) }`.
    pub fn new(id: LogId, action: impl Into<String>, actor: Actor, at: EpochMs) -> Self {
        Self {
            id,
            org: None,
            installation: None,
            subject: None,
            action: action.into(),
            from_state: None,
            to_state: None,
            reason: None,
            actor,
            at,
        }
    }
}
