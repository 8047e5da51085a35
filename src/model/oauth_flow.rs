//! OAuth flows: one attempt of a person to connect a provider, known by the hash of its state.

use std::fmt;

use serde_json::{Map, Value};

use super::{
    clock::EpochMs,
    ids::{InstallationId, OrgId},
    log_entry::Actor,
    provider::ProviderSlug,
};

/// SHA-256 of a state or of a browser's cookie. The values themselves are not kept.
pub type TokenHash = [u8; 32];

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowStatus {
    /// Its state was given out, or taken and not finished.
    Pending,
    /// The installation is connected.
    Completed,
    /// It ended without one; the row's `error` says why.
    Failed,
}

impl FlowStatus {
    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Completed, Self::Failed].into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for FlowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A flow's row. A second leg (a further visit to the provider within one flow) has a row and a state of its own; how the
/// flow ended is written to the row of its first leg.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuthFlow {
    /// SHA-256 of the state.
    pub state_hash: TokenHash,
    /// The first leg's, for a later one.
    pub root_hash: Option<TokenHash>,
    /// At which provider.
    pub provider: ProviderSlug,
    /// For which org.
    pub org: OrgId,
    /// For which person, as the caller named them.
    pub user: Option<String>,
    /// Who began it.
    pub actor: Actor,
    /// SHA-256 of the browser's cookie, once a browser has opened the launch page.
    pub cookie_hash: Option<TokenHash>,
    /// The PKCE verifier, sealed, where the leg uses one.
    pub pkce_verifier_sealed: Option<String>,
    /// Where the browser ends: `None` for the console, `inline`, or an allowed origin.
    pub redirect_to: Option<String>,
    /// What the leg before this one left for the provider's connector.
    pub context: Option<Value>,
    /// How far it is.
    pub status: FlowStatus,
    /// The code of what went wrong.
    pub error: Option<String>,
    /// What it connected.
    pub installation: Option<InstallationId>,
    /// Further members of the answer to `GET /connections/oauth/status`.
    pub result: Map<String, Value>,
    /// When it began.
    pub created_at: EpochMs,
    /// When the row is void: its state before it is taken, its result afterwards.
    pub expires_at: EpochMs,
    /// When its state was taken.
    pub taken_at: Option<EpochMs>,
    /// When it ended.
    pub finished_at: Option<EpochMs>,
}

/// How a flow ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowOutcome {
    /// Completed or failed; pending while somebody else's approval is awaited.
    pub status: FlowStatus,
    /// The code of what went wrong.
    pub error: Option<String>,
    /// What it connected.
    pub installation: Option<InstallationId>,
    /// Further members of the status answer.
    pub result: Map<String, Value>,
}
