//! Installations: an org's grant at a provider.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    clock::EpochMs,
    ids::{InstallationId, OrgId},
    provider::{ExternalId, ProviderSlug},
};

/// The state of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstallationStatus {
    /// Asked for, not granted yet.
    Pending,
    /// Granted and usable.
    Active,
    /// Its token is dead, its webhooks are authentic all the same.
    NeedsReauth,
    /// Paused by the provider or its owner.
    Suspended,
    /// Ended. Only the same org connecting the same account again leads out of it; another org gets a row of its own.
    Revoked,
}

impl InstallationStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::NeedsReauth, Self::Suspended, Self::Revoked];

    /// Whether webhooks of this installation are routed.
    pub fn routes(self) -> bool {
        matches!(self, Self::Active | Self::NeedsReauth)
    }

    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::NeedsReauth => "needs_reauth",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for InstallationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An installation's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Our id.
    pub id: InstallationId,
    /// At which provider.
    pub provider: ProviderSlug,
    /// Its id there; unique per provider among rows that are not revoked.
    pub external_id: ExternalId,
    /// A second id some payloads name instead (Vercel: the `icfg_…` configuration id).
    pub alternate_external_id: Option<ExternalId>,
    /// The account's login or slug at the provider.
    pub account_login: Option<String>,
    /// The org it belongs to.
    pub org: OrgId,
    /// The user or key that connected it.
    pub connected_by: String,
    /// Its state.
    pub status: InstallationStatus,
    /// Why it is in that state, when there is something to say.
    pub status_reason: Option<String>,
    /// Small facts kept beside it (repository selection, permissions, scopes).
    pub metadata: Map<String, Value>,
    /// What the provider says about the account: `version`, `sourceType`, and its own members.
    pub provider_account_info: Option<Value>,
    /// The provider's time of the newest control event applied, or when it was connected, where grants of one account share
    /// an id; older events do not undo it.
    pub control_at: Option<EpochMs>,
    /// When an event of it last arrived.
    pub last_event_at: Option<EpochMs>,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When the row last changed.
    pub updated_at: EpochMs,
}

impl Installation {
    /// What people call it: its account's name, as far as that is known.
    pub fn account(&self) -> &str {
        self.account_login.as_deref().unwrap_or(self.external_id.as_str())
    }
}
