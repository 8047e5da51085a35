//! Resources: things at the provider that emit events.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    clock::EpochMs,
    ids::{InstallationId, ResourceId},
    provider::ProviderResourceId,
};

/// The state of a linked resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceStatus {
    /// Linked: its events are routed.
    Active,
    /// Unlinked, deleted at the provider or out of the grant's reach. Linking again revives the same row.
    Removed,
}

impl ResourceStatus {
    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Removed => "removed",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Active, Self::Removed].into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for ResourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A resource's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Our id.
    pub id: ResourceId,
    /// Whose it is.
    pub installation: InstallationId,
    /// Its id at the provider; unique within the installation.
    pub provider_resource_id: ProviderResourceId,
    /// What kind of thing (`repository`, `project`, `team`).
    pub kind: String,
    /// Its slug at the provider, where events name it by slug (Sentry).
    pub slug: Option<String>,
    /// What people call it (`harborworks/tide-clock`).
    pub name: Option<String>,
    /// Small facts kept fresh by control events (`defaultBranch`, `isPrivate`, `isArchived`).
    pub attrs: Map<String, Value>,
    /// Its state.
    pub status: ResourceStatus,
    /// Why it was removed.
    pub status_reason: Option<String>,
    /// The provider's time of the newest control event applied.
    pub control_at: Option<EpochMs>,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When the row last changed.
    pub updated_at: EpochMs,
}
