//! Sessions of the console: a browser that has presented an API key, known by the hash of its cookie.

use super::{clock::EpochMs, ids::KeyId};

/// SHA-256 of a session's cookie. The cookie itself is not kept.
pub type SessionHash = [u8; 32];

/// A session's row. A session is its key: what the key may do, and for how long it is good, is asked of the key each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSession {
    /// SHA-256 of the cookie.
    pub hash: SessionHash,
    /// The key it was begun with.
    pub key: KeyId,
    /// That key's hash, masked with what only the cookie tells: the row alone says nothing of the key.
    pub masked_key_hash: [u8; 32],
    /// The person, as they named themselves.
    pub user: Option<String>,
    /// When it began.
    pub created_at: EpochMs,
    /// When a person last did something in it, to about a minute.
    pub last_seen_at: EpochMs,
    /// When it ends, unless it is used before: idleness and age taken together.
    pub expires_at: EpochMs,
}
