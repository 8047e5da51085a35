//! Secrets in memory: wiped when dropped, never printed.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

/// What every signing secret of Standard Webhooks begins with.
pub const SIGNING_PREFIX: &str = "whsec_";
/// Lengths that specification allows, bytes.
const SIGNING_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Standard base64 that does not insist on its padding: people copy secrets by hand.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a signing secret of Standard Webhooks in its text form, whitespace around it left aside; `None` if it is
/// none. The one reading: what the configuration takes, the sender can sign with.
pub fn signing_bytes(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let encoded = text.trim().strip_prefix(SIGNING_PREFIX)?;
    let bytes = Zeroizing::new(LENIENT.decode(encoded).ok()?);
    SIGNING_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// A secret. `Debug` hides it, it has no `Display`, and it cannot be empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps a secret; `None` if it is empty, because anybody can compute the HMAC of an empty key
    /// (`promises.md` S1).
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes.into());
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// The secret itself. Every caller is a place where it could leak.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, if it is text.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}
