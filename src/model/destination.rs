//! Destinations: where envelopes are sent.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    clock::EpochMs,
    ids::{DestinationId, OrgId},
};

/// What a destination serves; the narrowest one that exists wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationScope {
    /// One integration.
    Integration,
    /// Every integration of a workspace.
    Workspace,
    /// Every workspace of an org.
    Org,
}

impl DestinationScope {
    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Workspace => "workspace",
            Self::Org => "org",
        }
    }

    /// The scope of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Integration, Self::Workspace, Self::Org].into_iter().find(|scope| scope.as_str() == word)
    }
}

impl fmt::Display for DestinationScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A destination's row. Secrets and header values are sealed; only the vault opens them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Our id.
    pub id: DestinationId,
    /// Whose.
    pub org: OrgId,
    /// What it serves.
    pub scope: DestinationScope,
    /// The integration, workspace or org id; unique with org and scope.
    pub scope_id: String,
    /// Where to POST.
    pub url: String,
    /// Sealed JSON object of extra request headers.
    pub headers_sealed: Option<String>,
    /// Sealed signing secret.
    pub secret_sealed: String,
    /// The sealed secret before the last rotation, signing beside the new one until `previous_until`.
    pub previous_secret_sealed: Option<String>,
    /// End of the rotation's overlap.
    pub previous_until: Option<EpochMs>,
    /// Why nothing is sent to it any more (`gone`, `failing`); absent while it is in use.
    pub disabled_reason: Option<String>,
    /// Since when every attempt has failed.
    pub failing_since: Option<EpochMs>,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When the row last changed.
    pub updated_at: EpochMs,
}
