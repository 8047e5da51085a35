//! Signature schemes as data, and the one verifier that reads them.

use std::time::Duration;

use crate::model::{clock::EpochMs, error_kind::ErrorKind, secret::Secret, webhook::Headers};

/// The MAC of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// HMAC-SHA1: 20 bytes, 40 hex digits.
    Sha1,
    /// HMAC-SHA256: 32 bytes, 64 hex digits.
    Sha256,
}

/// How a provider signs its webhooks: lower-case hex of a MAC over the raw body, in one header.
#[derive(Debug, Clone, Copy)]
pub struct SignatureScheme {
    /// The header, in lower case.
    pub header: &'static str,
    /// What stands before the hex digits, mandatory; empty for none.
    pub prefix: &'static str,
    /// The MAC.
    pub digest: Digest,
    /// Reads the signed time of the attempt out of a verified body; `None` for providers that sign none. Answers
    /// `None` when the body has none.
    pub signed_timestamp: Option<fn(&[u8]) -> Option<EpochMs>>,
}

/// Why a webhook was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The signature header is missing.
    #[error("the signature header is missing")]
    SignatureMissing,
    /// The signature header is repeated, has the wrong prefix, length or alphabet.
    #[error("the signature header is malformed")]
    SignatureMalformed,
    /// No live secret made this signature.
    #[error("no live secret made this signature")]
    SignatureMismatch,
    /// The signed timestamp is outside its window.
    #[error("the signed timestamp is outside its window")]
    TimestampStale,
    /// No secret is configured: refused, never verified with an empty key.
    #[error("no webhook secret is configured")]
    NoSecret,
}

impl VerifyError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SignatureMissing | Self::SignatureMalformed | Self::SignatureMismatch => "invalid_signature",
            Self::TimestampStale => "stale_timestamp",
            Self::NoSecret => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSecret => ErrorKind::Internal,
            _ => ErrorKind::Unauthorized,
        }
    }
}

impl SignatureScheme {
    /// Which of `secrets` signed `body`: its index. Every secret is tried in constant work.
    ///
    /// # Errors
    /// [`VerifyError`] unless exactly one well-formed signature header matches.
    pub fn verify(&self, _headers: &Headers, _body: &[u8], _secrets: &[Secret]) -> Result<usize, VerifyError> {
        Err(VerifyError::SignatureMismatch)
    }

    /// Checks the signed timestamp of a verified body.
    ///
    /// # Errors
    /// [`VerifyError::TimestampStale`] if it is further than `tolerance` from `now`, either way.
    pub fn check_timestamp(&self, _body: &[u8], _now: EpochMs, _tolerance: Duration) -> Result<(), VerifyError> {
        Ok(())
    }
}
