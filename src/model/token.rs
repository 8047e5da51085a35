//! Tokens as rows: sealed, fenced by a generation.

use super::{clock::EpochMs, ids::InstallationId};

/// The row of an installation's token. The store never sees it opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Whose it is; one row each.
    pub installation: InstallationId,
    /// The access token, sealed.
    pub access: String,
    /// The refresh token, sealed, where the provider gave one.
    pub refresh: Option<String>,
    /// What the provider calls the kind (`bearer`).
    pub token_type: Option<String>,
    /// The scopes granted, separated by spaces.
    pub scope: Option<String>,
    /// When the access token dies; `None` if it does not by itself.
    pub expires_at: Option<EpochMs>,
    /// When the refresh token dies, where the provider says.
    pub refresh_expires_at: Option<EpochMs>,
    /// Grows by one with every write: a refresher that started from an older one cannot overwrite a newer one.
    pub generation: u64,
    /// Who is refreshing it.
    pub claim: Option<RefreshClaim>,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When this generation was written: the token was issued then.
    pub updated_at: EpochMs,
}

/// A node's right to be the only one that refreshes a token. A claim that has lapsed says that a refresh may have
/// reached the provider without its answer being kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshClaim {
    /// The node.
    pub owner: String,
    /// Until when.
    pub until: EpochMs,
}

/// What an edit of an installation does to its token's row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TokenEdit {
    /// Nothing.
    #[default]
    Keep,
    /// Writes it, whatever was there, one generation above it. Any claim ends.
    Put(Box<SealedToken>),
    /// Deletes it.
    Delete,
}
