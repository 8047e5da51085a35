//! Heal runs: comparisons of a provider's own delivery log with what was received.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{clock::EpochMs, ids::HealRunId, provider::ProviderSlug};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealStatus {
    /// Reading the log, asking for what is missing, or waiting for it to arrive.
    Running,
    /// Everything was compared and asked for.
    Completed,
    /// The provider could not be asked to the end; what was done is counted, the next run begins where this one did.
    Failed,
}

impl HealStatus {
    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Running, Self::Completed, Self::Failed].into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for HealStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A run's row, and its report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealRun {
    /// Our id.
    pub id: HealRunId,
    /// At which provider.
    pub provider: ProviderSlug,
    /// Where the gap begins.
    pub since: EpochMs,
    /// Where it ends: when the run began.
    pub until: EpochMs,
    /// How far.
    pub status: HealStatus,
    /// `on_demand`, `start` or `periodic`.
    pub cause: String,
    /// Webhooks in the provider's log within the gap.
    pub examined: u32,
    /// Of those, the ones that never arrived here.
    pub missing: u32,
    /// Of those, the ones the provider agreed to send again.
    pub requested: u32,
    /// Of those, the ones that have arrived since.
    pub healed: u32,
    /// Of the missing, the ones the provider refused to send again.
    pub refused: u32,
    /// A code or short text of ours about why it failed.
    pub error: Option<String>,
    /// The node that runs it.
    pub owner: String,
    /// When it ended.
    pub finished_at: Option<EpochMs>,
    /// When the row last changed; a running one that stopped changing was left by a dead node.
    pub updated_at: EpochMs,
}
