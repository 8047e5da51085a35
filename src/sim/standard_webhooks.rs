//! The receiving side of Standard Webhooks 1.0: whether a delivery is genuine.
//!
//! Written apart from the gateway's signing, so that one cannot hide a mistake of the other; a test holds it against
//! the official library.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    crypto::hmac::hmac_sha256,
    model::{clock::EpochMs, webhook::Headers},
};

/// How far `webhook-timestamp` may be from the present.
const TOLERANCE: Duration = Duration::from_mins(5);

/// What a delivery's signature was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureVerdict {
    /// One of the expected secrets made it.
    Valid,
    /// None of them did, or its parts are missing or stale.
    Invalid,
    /// The sink was given no secret for this path.
    NotChecked,
}

/// Checks `webhook-id`, `webhook-timestamp` and `webhook-signature` against `secrets` (`whsec_…`).
pub(super) fn verify(headers: &Headers, body: &[u8], secrets: &[String], now: EpochMs) -> SignatureVerdict {
    if secrets.is_empty() {
        return SignatureVerdict::NotChecked;
    }
    let genuine = (|| {
        let id = headers.get("webhook-id")?;
        let timestamp = headers.get("webhook-timestamp")?;
        let signatures = headers.get("webhook-signature")?;
        let sent_at = EpochMs(timestamp.parse::<i64>().ok()?.checked_mul(1000)?);
        let fresh = now.since(sent_at) <= TOLERANCE && sent_at.since(now) <= TOLERANCE;
        let signed = secrets.iter().any(|secret| {
            let Ok(key) = STANDARD.decode(secret.trim_start_matches("whsec_")) else { return false };
            let mac = hmac_sha256(&key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
            let expected = format!("v1,{}", STANDARD.encode(mac));
            signatures.split(' ').any(|signature| signature == expected)
        });
        (fresh && signed && !id.contains('.')).then_some(())
    })();
    if genuine.is_some() { SignatureVerdict::Valid } else { SignatureVerdict::Invalid }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn signed_by_the_official_library(at_s: i64) -> Headers {
        let signature = standardwebhooks::Webhook::new(SECRET)
            .expect("a secret")
            .sign("dlv_1", at_s, br#"{"a":1}"#)
            .expect("signable");
        Headers::from_iter([
            ("webhook-id", "dlv_1".to_owned()),
            ("webhook-timestamp", at_s.to_string()),
            ("webhook-signature", format!("v1,AAAA {signature}")),
        ])
    }

    #[test]
    fn what_the_official_library_signs_is_valid_here() {
        let headers = signed_by_the_official_library(1_771_980_000);
        let secrets = ["whsec_AAAA".to_owned(), SECRET.to_owned()];
        let now = EpochMs(1_771_980_001_000);
        assert_eq!(verify(&headers, br#"{"a":1}"#, &secrets, now), SignatureVerdict::Valid);
        assert_eq!(verify(&headers, br#"{"a":2}"#, &secrets, now), SignatureVerdict::Invalid);
        assert_eq!(verify(&headers, br#"{"a":1}"#, &secrets[..1], now), SignatureVerdict::Invalid);
        assert_eq!(verify(&headers, br#"{"a":1}"#, &[], now), SignatureVerdict::NotChecked);
    }

    #[test]
    fn stale_or_unsigned_deliveries_are_invalid() {
        let headers = signed_by_the_official_library(1_771_980_000);
        let late = EpochMs(1_771_980_301_000);
        assert_eq!(verify(&headers, br#"{"a":1}"#, &[SECRET.to_owned()], late), SignatureVerdict::Invalid);
        assert_eq!(verify(&Headers::new(), b"{}", &[SECRET.to_owned()], late), SignatureVerdict::Invalid);
    }
}
