//! Signature schemes as data, and the one verifier that reads them.
//!
//! **Owns** the rules a signature must keep (`promises.md` S1, S2). **Invariants**: the header is there exactly once,
//! with its exact prefix, length and lower-case alphabet; the MAC is compared over fixed-length bytes in constant
//! time; every live secret costs the same work whichever one matches; no secret means refused. **Must not know** any
//! provider, and never logs a signature, received or expected.

use std::time::Duration;

use subtle::{Choice, ConditionallySelectable};

use crate::{
    crypto::hmac::{verify_hmac_sha1, verify_hmac_sha256},
    model::{clock::EpochMs, error_kind::ErrorKind, secret::Secret, webhook::Headers},
};

/// The MAC of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// HMAC-SHA1: 20 bytes, 40 hex digits.
    Sha1,
    /// HMAC-SHA256: 32 bytes, 64 hex digits.
    Sha256,
}

/// Reads a time out of a verified body.
pub type ReadTimestamp = fn(&[u8]) -> Option<EpochMs>;

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
    pub signed_timestamp: Option<ReadTimestamp>,
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
    /// Which of `secrets` signed `body`: its index, the lowest if several did. Every secret is tried in constant work.
    ///
    /// # Errors
    /// [`VerifyError`] unless exactly one well-formed signature header matches.
    pub fn verify(&self, headers: &Headers, body: &[u8], secrets: &[Secret]) -> Result<usize, VerifyError> {
        if secrets.is_empty() {
            return Err(VerifyError::NoSecret);
        }
        let mut values = headers.all(self.header);
        let value = values.next().ok_or(VerifyError::SignatureMissing)?;
        if values.next().is_some() {
            return Err(VerifyError::SignatureMalformed);
        }
        let digits = value.strip_prefix(self.prefix.as_bytes()).ok_or(VerifyError::SignatureMalformed)?;
        match self.digest {
            Digest::Sha1 => {
                let mac = decode_lower_hex::<20>(digits)?;
                find_signer(secrets, |secret| verify_hmac_sha1(secret, body, &mac))
            }
            Digest::Sha256 => {
                let mac = decode_lower_hex::<32>(digits)?;
                find_signer(secrets, |secret| verify_hmac_sha256(secret, body, &mac))
            }
        }
    }

    /// Checks the signed timestamp of a verified body. Both ends of the window belong to it; a body without a
    /// timestamp is accepted, because then nothing was signed that could be stale.
    ///
    /// # Errors
    /// [`VerifyError::TimestampStale`] if it is further than `tolerance` from `now`, either way.
    pub fn check_timestamp(&self, body: &[u8], now: EpochMs, tolerance: Duration) -> Result<(), VerifyError> {
        let Some(signed) = self.signed_timestamp.and_then(|read| read(body)) else { return Ok(()) };
        if signed < now.minus(tolerance) || signed > now.plus(tolerance) {
            return Err(VerifyError::TimestampStale);
        }
        Ok(())
    }
}

/// Exactly `2 * N` lower-case hex digits. Providers send no other alphabet, so anything else is refused rather than
/// normalised: one signature has one spelling.
fn decode_lower_hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], VerifyError> {
    let mut decoded = [0; N];
    if digits.iter().any(u8::is_ascii_uppercase) || hex::decode_to_slice(digits, &mut decoded).is_err() {
        return Err(VerifyError::SignatureMalformed);
    }
    Ok(decoded)
}

/// The lowest index whose secret `matches`, without leaving the loop early.
fn find_signer(secrets: &[Secret], matches: impl Fn(&[u8]) -> Choice) -> Result<usize, VerifyError> {
    let mut signer = u64::MAX;
    // From oldest to newest, so that the last match written is the newest secret's.
    for (index, secret) in secrets.iter().enumerate().rev() {
        signer.conditional_assign(&(index as u64), matches(secret.expose()));
    }
    usize::try_from(signer).ok().filter(|index| *index < secrets.len()).ok_or(VerifyError::SignatureMismatch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "whsec-test-key";
    const BODY: &[u8] = b"{\"a\":1}\n";
    // Computed with Python's hmac module and checked with `openssl dgst`.
    const SHA1_OF_BODY: &str = "c039bf88b418dc74decd0bcfa9965ffb63fcc3fb";
    const SHA256_OF_BODY: &str = "6a764dbfd06a02533d46eab7a939be4a98a895dbaa6055d5cca47411d589c651";

    const PREFIXED: SignatureScheme = SignatureScheme {
        header: "x-hub-signature-256",
        prefix: "sha256=",
        digest: Digest::Sha256,
        signed_timestamp: None,
    };
    const BARE_SHA1: SignatureScheme =
        SignatureScheme { header: "x-vercel-signature", prefix: "", digest: Digest::Sha1, signed_timestamp: None };
    const TIMED: SignatureScheme = SignatureScheme {
        header: "linear-signature",
        prefix: "",
        digest: Digest::Sha256,
        signed_timestamp: Some(|body| std::str::from_utf8(body).ok()?.parse().ok().map(EpochMs)),
    };

    fn secrets(keys: &[&str]) -> Vec<Secret> {
        keys.iter().map(|key| Secret::new(*key).expect("not empty")).collect()
    }

    fn with(header: &str, value: &str) -> Headers {
        [(header, value)].into_iter().collect()
    }

    fn verdict(value: &str) -> Result<usize, VerifyError> {
        PREFIXED.verify(&with("X-Hub-Signature-256", value), BODY, &secrets(&[KEY]))
    }

    #[test]
    fn known_answers_verify() {
        assert_eq!(verdict(&format!("sha256={SHA256_OF_BODY}")), Ok(0));
        assert_eq!(BARE_SHA1.verify(&with("x-vercel-signature", SHA1_OF_BODY), BODY, &secrets(&[KEY])), Ok(0));
        let of_empty_body = "sha256=5fb1edc2030dde328b46ac50a7dd7da4513947845fe1b94afd47efccefa62dbb";
        let headers = with("x-hub-signature-256", of_empty_body);
        assert_eq!(PREFIXED.verify(&headers, b"", &secrets(&[KEY])), Ok(0));
        assert_eq!(PREFIXED.verify(&headers, b"\n", &secrets(&[KEY])), Err(VerifyError::SignatureMismatch));
    }

    #[test]
    fn a_signature_has_one_spelling() {
        let malformed = [
            String::new(),
            "sha256=".into(),
            SHA256_OF_BODY.into(),
            format!("sha1={SHA1_OF_BODY}"),
            format!("sha1={SHA256_OF_BODY}"),
            format!("SHA256={SHA256_OF_BODY}"),
            format!("sha256=sha256={SHA256_OF_BODY}"),
            format!("sha256={}", SHA256_OF_BODY.to_uppercase()),
            format!("sha256=6A{}", &SHA256_OF_BODY[2..]),
            format!("sha256={}", &SHA256_OF_BODY[..63]),
            format!("sha256={SHA256_OF_BODY}0"),
            format!("sha256={SHA256_OF_BODY}00"),
            format!("sha256=g{}", &SHA256_OF_BODY[1..]),
            format!(" sha256={SHA256_OF_BODY}"),
            format!("sha256={SHA256_OF_BODY} "),
            format!("sha256={SHA1_OF_BODY}"),
        ];
        for value in malformed {
            assert_eq!(verdict(&value), Err(VerifyError::SignatureMalformed), "{value:?}");
        }
    }

    #[test]
    fn a_missing_and_a_repeated_header_are_refused_each_with_its_reason() {
        let keys = secrets(&[KEY]);
        assert_eq!(PREFIXED.verify(&Headers::new(), BODY, &keys), Err(VerifyError::SignatureMissing));
        let right = format!("sha256={SHA256_OF_BODY}");
        let twice: Headers = [("x-hub-signature-256", &right), ("X-Hub-Signature-256", &right)].into_iter().collect();
        assert_eq!(PREFIXED.verify(&twice, BODY, &keys), Err(VerifyError::SignatureMalformed));
    }

    #[test]
    fn the_index_names_the_secret_that_signed_and_the_newest_wins() {
        let headers = with("x-hub-signature-256", &format!("sha256={SHA256_OF_BODY}"));
        for (keys, expected) in [
            (&[KEY, "older"][..], Ok(0)),
            (&["newer", KEY, "older"], Ok(1)),
            (&["newer", "middle", KEY], Ok(2)),
            (&[KEY, KEY, "older"], Ok(0)),
            (&["newer", "older"], Err(VerifyError::SignatureMismatch)),
        ] {
            assert_eq!(PREFIXED.verify(&headers, BODY, &secrets(keys)), expected, "{keys:?}");
        }
    }

    #[test]
    fn without_a_secret_nothing_verifies_not_even_the_mac_of_an_empty_key() {
        let of_empty_key = hex::encode(crate::crypto::hmac::hmac_sha256(b"", &[BODY]));
        let headers = with("x-hub-signature-256", &format!("sha256={of_empty_key}"));
        assert_eq!(PREFIXED.verify(&headers, BODY, &[]), Err(VerifyError::NoSecret));
        assert_eq!(PREFIXED.verify(&headers, BODY, &secrets(&[KEY])), Err(VerifyError::SignatureMismatch));
    }

    #[test]
    fn both_ends_of_the_timestamp_window_are_inside_it() {
        let (now, tolerance) = (EpochMs(1_786_701_234_567), Duration::from_mins(1));
        for (offset, expected) in [
            (-60_001, Err(VerifyError::TimestampStale)),
            (-60_000, Ok(())),
            (0, Ok(())),
            (60_000, Ok(())),
            (60_001, Err(VerifyError::TimestampStale)),
        ] {
            let body = (now.0 + offset).to_string();
            assert_eq!(TIMED.check_timestamp(body.as_bytes(), now, tolerance), expected, "{offset}");
        }
        assert_eq!(TIMED.check_timestamp(b"none here", now, tolerance), Ok(()));
        assert_eq!(PREFIXED.check_timestamp(b"0", now, tolerance), Ok(()));
        for extreme in [i64::MIN, i64::MAX] {
            let body = extreme.to_string();
            assert_eq!(TIMED.check_timestamp(body.as_bytes(), now, tolerance), Err(VerifyError::TimestampStale));
        }
    }

    proptest! {
        #[test]
        fn one_flipped_bit_of_the_body_is_rejected(
            body in proptest::collection::vec(any::<u8>(), 1..200), at in any::<usize>(), bit in 0..8_u32
        ) {
            let mac = hex::encode(crate::crypto::hmac::hmac_sha256(KEY.as_bytes(), &[&body]));
            let headers = with("x-hub-signature-256", &format!("sha256={mac}"));
            prop_assert_eq!(PREFIXED.verify(&headers, &body, &secrets(&["other", KEY])), Ok(1));
            let mut flipped = body.clone();
            flipped[at % body.len()] ^= 1 << bit;
            prop_assert_eq!(
                PREFIXED.verify(&headers, &flipped, &secrets(&["other", KEY])),
                Err(VerifyError::SignatureMismatch)
            );
        }

        #[test]
        fn no_header_and_no_body_panics(
            value in proptest::collection::vec(any::<u8>(), 0..80), body in proptest::collection::vec(any::<u8>(), 0..80)
        ) {
            for scheme in [PREFIXED, BARE_SHA1, TIMED] {
                let headers: Headers = [(scheme.header, &value)].into_iter().collect();
                prop_assert!(scheme.verify(&headers, &body, &secrets(&[KEY])).is_err());
            }
        }
    }
}
