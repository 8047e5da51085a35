//! What the quarantine keeps, and how much of it.
//!
//! **Invariants**: a webhook keeps every header it first came with. **Must not know** which of them matter.

use bytes::Bytes;

use crate::model::{clock::EpochMs, ids::QuarantineId, provider::ProviderSlug};

/// A webhook set aside: wrongly signed, or one that cannot be handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Our id.
    pub id: QuarantineId,
    /// The provider its path named.
    pub provider: ProviderSlug,
    /// Why: `invalid_signature`, `stale_timestamp`, `invalid_payload`, `handling_panicked`.
    pub cause: String,
    /// Every header as it was first received (needed to verify again), a JSON array of [name, value] pairs, or [name,
    /// null, hex] of bytes that are not UTF-8. Never shown or logged.
    pub headers: String,
    /// The raw body.
    pub body: Bytes,
    /// Hex SHA-256 of the body.
    pub body_sha256: String,
    /// Hex SHA-256 of the headers that make it what it is: its signature and those that its provider reads.
    pub headers_sha256: String,
    /// How often the same body came with the same of those headers, for the same cause.
    pub attempts: u32,
    /// When it first came.
    pub received_at: EpochMs,
    /// When it last came.
    pub last_at: EpochMs,
}

/// Bounds of the quarantine.
#[derive(Debug, Clone, Copy)]
pub struct QuarantineBounds {
    /// Webhooks at the most.
    pub max_count: u64,
    /// Bytes of bodies at the most.
    pub max_bytes: u64,
}
