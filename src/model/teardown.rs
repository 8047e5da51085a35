//! Teardowns: the ending of an installation, step by step. The row is the cursor while it runs and the receipt afterwards.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    clock::EpochMs,
    ids::{InstallationId, OrgId},
};

/// A step, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeardownStep {
    /// The installation is `revoked`: routing has stopped. Done in the transaction that begins the teardown.
    CloseGate,
    /// The backfill service is told to stop.
    CancelBackfill,
    /// The grant is revoked, or the app uninstalled, at the provider.
    RevokeToken,
    /// A webhook registered for this installation alone is removed.
    DeregisterWebhook,
    /// Resources become `removed`, integrations `revoked`.
    RemoveResources,
    /// The token's row is deleted.
    DeleteToken,
}

impl TeardownStep {
    /// Every step, in order.
    pub const ALL: [Self; 6] = [
        Self::CloseGate,
        Self::CancelBackfill,
        Self::RevokeToken,
        Self::DeregisterWebhook,
        Self::RemoveResources,
        Self::DeleteToken,
    ];

    /// The word used in the receipt.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloseGate => "close_gate",
            Self::CancelBackfill => "cancel_backfill",
            Self::RevokeToken => "revoke_token",
            Self::DeregisterWebhook => "deregister_webhook",
            Self::RemoveResources => "remove_resources",
            Self::DeleteToken => "delete_token",
        }
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not done yet; perhaps tried.
    Pending,
    /// Done.
    Done,
    /// There was nothing to do.
    Skipped,
    /// Tried for long enough.
    GaveUp,
}

/// A step of the receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which.
    pub step: TeardownStep,
    /// How far.
    pub status: StepStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was last tried or settled, epoch milliseconds.
    pub at: Option<EpochMs>,
    /// A code or a short fixed text of ours about the last try; never a provider's words.
    pub detail: Option<String>,
}

/// How far a teardown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeardownStatus {
    /// Some step is pending.
    Running,
    /// Every step is settled.
    Completed,
}

impl TeardownStatus {
    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Running, Self::Completed].into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for TeardownStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A teardown's row: one per installation; a later one replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Teardown {
    /// Whose.
    pub installation: InstallationId,
    /// The org it belonged to.
    pub org: OrgId,
    /// Why: `disconnected`, `provider_revoked` or another code.
    pub reason: String,
    /// How far.
    pub status: TeardownStatus,
    /// The steps, in order.
    pub steps: Vec<StepRecord>,
    /// When it is to be worked on next; while it is leased, when the lease ends.
    pub due_at: EpochMs,
    /// The node that works on it.
    pub lease_owner: Option<String>,
    /// When it began.
    pub started_at: EpochMs,
    /// When the last step was settled.
    pub finished_at: Option<EpochMs>,
    /// When the row last changed.
    pub updated_at: EpochMs,
}
