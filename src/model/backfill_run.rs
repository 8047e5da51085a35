//! Backfill runs: what the backfill service reports about its progress.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    clock::EpochMs,
    ids::{BackfillRunId, InstallationId, LogId, OrgId},
    installation::Installation,
    log_entry::{Actor, LogEntry},
    provider::ProviderSlug,
};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackfillStatus {
    /// Asked for.
    Pending,
    /// Under way.
    Running,
    /// Done.
    Completed,
    /// Ended by an error.
    Failed,
    /// Ended by a teardown or by its owner.
    Cancelled,
}

impl BackfillStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Whether nothing more is to come.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for BackfillStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A run's row.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillRun {
    /// Our id.
    pub id: BackfillRunId,
    /// Whose history.
    pub installation: InstallationId,
    /// The org it belongs to.
    pub org: OrgId,
    /// At which provider.
    pub provider: ProviderSlug,
    /// How far.
    pub status: BackfillStatus,
    /// How many days back.
    pub depth_days: Option<u32>,
    /// What kinds of things.
    pub entity_types: Vec<String>,
    /// Counts, as the service names them.
    pub counts: Map<String, Value>,
    /// What went wrong, in the service's words.
    pub error: Option<String>,
    /// When it began.
    pub started_at: Option<EpochMs>,
    /// When it ended.
    pub finished_at: Option<EpochMs>,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When the row last changed.
    pub updated_at: EpochMs,
}

impl BackfillRun {
    /// A run of an installation's history that was asked for now.
    pub fn pending(id: BackfillRunId, of: &Installation, now: EpochMs) -> Self {
        Self {
            id,
            installation: of.id.clone(),
            org: of.org.clone(),
            provider: of.provider,
            status: BackfillStatus::Pending,
            depth_days: None,
            entity_types: Vec::new(),
            counts: Map::new(),
            error: None,
            started_at: None,
            finished_at: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// What the log says of a change that left the run like this; `from` is its status before, if it is not new.
    pub fn entry(&self, id: LogId, action: &str, from: Option<BackfillStatus>, actor: Actor) -> LogEntry {
        LogEntry {
            org: Some(self.org.clone()),
            installation: Some(self.installation.clone()),
            subject: Some(self.id.to_string()),
            from_state: from.map(|status| status.to_string()),
            to_state: Some(self.status.to_string()),
            ..LogEntry::new(id, action, actor, self.updated_at)
        }
    }
}
