//! Integrations: one workspace's subscription to one resource, and the rules that filter it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    clock::EpochMs,
    event::EventKey,
    ids::{InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
    provider::ProviderSlug,
};

/// The state of an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrationStatus {
    /// Gets events.
    Active,
    /// Paused by its owner (`autoSync: false` says the same within an active one).
    Paused,
    /// Ended by its owner.
    Disconnected,
    /// Its resource was unlinked.
    Removed,
    /// Its resource no longer exists at the provider.
    Deleted,
    /// Its installation is suspended.
    Suspended,
    /// Its installation has ended.
    Revoked,
    /// Something is wrong with it; the reason says what.
    Error,
}

impl IntegrationStatus {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::Active,
        Self::Paused,
        Self::Disconnected,
        Self::Removed,
        Self::Deleted,
        Self::Suspended,
        Self::Revoked,
        Self::Error,
    ];

    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disconnected => "disconnected",
            Self::Removed => "removed",
            Self::Deleted => "deleted",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Error => "error",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for IntegrationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `sync` member of `source_config`: which events an integration wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncRules {
    /// Event keys; rows imported from Lightfast may hold category keys. Empty means nothing.
    pub events: Vec<String>,
    /// False pauses: events are stored as filtered (`paused`).
    pub auto_sync: bool,
}

impl SyncRules {
    /// Reads `source_config.sync`. A missing `sync` allows nothing; a missing `autoSync` is true.
    pub fn from_source_config(source_config: &Map<String, Value>) -> Self {
        let Some(sync) = source_config.get("sync").and_then(Value::as_object) else {
            return Self { events: Vec::new(), auto_sync: true };
        };
        let events = sync
            .get("events")
            .and_then(Value::as_array)
            .map(|keys| keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        Self { events, auto_sync: sync.get("autoSync").and_then(Value::as_bool).unwrap_or(true) }
    }

    /// Whether the rules list this key: the exact key, one of its broader `aliases`
    /// (`sentry:metric-alert` beside `sentry:metric-alert.critical`), or its category.
    pub fn allows(&self, key: &EventKey, aliases: &[EventKey], category: &str) -> bool {
        self.events.iter().any(|allowed| {
            allowed == key.as_str() || allowed == category || aliases.iter().any(|a| a.as_str() == allowed)
        })
    }
}

/// An integration's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integration {
    /// Our id.
    pub id: IntegrationId,
    /// Whose workspace.
    pub org: OrgId,
    /// The subscribing workspace.
    pub workspace: WorkspaceId,
    /// At which provider.
    pub provider: ProviderSlug,
    /// Through which installation.
    pub installation: InstallationId,
    /// To which resource; unique within the workspace.
    pub resource: ResourceId,
    /// Facts of the resource in the provider's own shape, the one that Lightfast's rows have, and `sync`.
    pub source_config: Map<String, Value>,
    /// Its state.
    pub status: IntegrationStatus,
    /// Why it is in that state.
    pub status_reason: Option<String>,
    /// When an event last passed its filter.
    pub last_event_at: Option<EpochMs>,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When the row last changed.
    pub updated_at: EpochMs,
}

impl Integration {
    /// Its rules.
    pub fn rules(&self) -> SyncRules {
        SyncRules::from_source_config(&self.source_config)
    }

    /// Whether its owner has paused it, by its status or by its rules.
    pub fn is_paused(&self) -> bool {
        match self.status {
            IntegrationStatus::Paused => true,
            IntegrationStatus::Active => !self.rules().auto_sync,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(config: &Value) -> SyncRules {
        SyncRules::from_source_config(config.as_object().expect("an object"))
    }

    #[test]
    fn an_exact_key_a_category_and_an_alias_allow_and_nothing_else_does() {
        let rules = rules(&json!({"sync": {"events": ["github:push", "pull_request", "sentry:metric-alert"]}}));
        assert!(rules.allows(&EventKey::new("github:push"), &[], "push"));
        assert!(rules.allows(&EventKey::new("github:pull-request.opened"), &[], "pull_request"));
        assert!(rules.allows(
            &EventKey::new("sentry:metric-alert.critical"),
            &[EventKey::new("sentry:metric-alert")],
            "metric_alert_x"
        ));
        assert!(!rules.allows(&EventKey::new("github:issue.opened"), &[], "issues"));
    }

    #[test]
    fn empty_or_missing_rules_allow_nothing() {
        for config in [json!({}), json!({"sync": {}}), json!({"sync": {"events": []}})] {
            assert!(!rules(&config).allows(&EventKey::new("github:push"), &[], "push"));
        }
    }
}
