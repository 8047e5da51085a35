//! The signature on what we send: Standard Webhooks 1.0.
//!
//! **Owns** signing secrets in their `whsec_` form and the `webhook-signature` value. **Invariants**: a secret is 24 to
//! 64 bytes; it is wiped when dropped and never printed; the signed text is `id.timestamp.body` over exactly the bytes
//! that are sent. **Must not know** where a secret is kept (the vault) or when it is rotated (the destination's row).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    crypto::hmac::hmac_sha256,
    model::{
        error_kind::ErrorKind,
        secret::{SIGNING_PREFIX, Secret, signing_bytes},
    },
};

/// How many bytes a generated secret has.
const GENERATED_BYTES: usize = 32;

/// Why a text is no signing secret. Says nothing about the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is `whsec_` and the base64 of 24 to 64 bytes")]
pub struct NotASigningSecret;

impl NotASigningSecret {
    /// The stable code.
    pub fn code(self) -> &'static str {
        "invalid_signing_secret"
    }

    /// The kind of failure.
    pub fn kind(self) -> ErrorKind {
        ErrorKind::BadRequest
    }
}

/// An opened signing secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl SigningSecret {
    /// Reads the `whsec_…` form.
    ///
    /// # Errors
    /// [`NotASigningSecret`] if it has another form or length.
    pub fn parse(text: &str) -> Result<Self, NotASigningSecret> {
        signing_bytes(text).map(Self).ok_or(NotASigningSecret)
    }

    /// Reads an opened secret in the `whsec_…` form.
    ///
    /// # Errors
    /// [`NotASigningSecret`] if it has another form or length.
    pub fn from_secret(secret: &Secret) -> Result<Self, NotASigningSecret> {
        secret.expose_str().ok_or(NotASigningSecret).and_then(Self::parse)
    }

    /// A new one, from 32 random bytes.
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random::<[u8; GENERATED_BYTES]>().to_vec()))
    }

    /// The `whsec_…` form, to be shown once and sealed.
    pub fn to_text(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(STANDARD.encode(&*self.0));
        Zeroizing::new(format!("{SIGNING_PREFIX}{}", &*encoded))
    }

    /// `v1,` and the base64 of the MAC over `id.timestamp.body`.
    fn sign(&self, webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let timestamp = timestamp_s.to_string();
        let mac = hmac_sha256(&self.0, &[webhook_id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
        format!("v1,{}", STANDARD.encode(mac))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(hidden)")
    }
}

/// The value of `webhook-signature`: one signature for each secret, separated by spaces, so that a receiver holding
/// either secret of a rotation accepts it. `None` without a secret.
pub fn signature<'a>(
    secrets: impl IntoIterator<Item = &'a SigningSecret>,
    webhook_id: &str,
    timestamp_s: i64,
    body: &[u8],
) -> Option<String> {
    let signatures: Vec<_> = secrets.into_iter().map(|secret| secret.sign(webhook_id, timestamp_s, body)).collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use standardwebhooks::Webhook;

    use super::*;

    const ID: &str = "dlv_019c9a4d2f3b7e2c8a11";
    const NOW_S: i64 = 1_771_980_000;
    const BODY: &[u8] = br#"{"eventId":"evt_1","payload":{"n":1e400,"s":"caf\u00e9"}}"#;

    fn official(secret: &SigningSecret) -> Webhook {
        Webhook::new(&secret.to_text()).expect("the official library reads our secret")
    }

    /// Whether a receiver with this secret accepts one of the signatures. `client`'s tests verify a whole request.
    fn verifies(secret: &SigningSecret, id: &str, timestamp_s: i64, signature: &str, body: &[u8]) -> bool {
        let expected = official(secret).sign(id, timestamp_s, body).expect("signed");
        signature.split(' ').any(|one| one == expected)
    }

    #[test]
    fn the_official_library_verifies_what_we_sign() {
        let secret = SigningSecret::generate();
        let signature = signature([&secret], ID, NOW_S, BODY).expect("signed");
        assert_eq!(signature, official(&secret).sign(ID, NOW_S, BODY).expect("signed"));
    }

    #[test]
    fn a_changed_body_id_or_timestamp_does_not_verify() {
        let (secret, now) = (SigningSecret::generate(), NOW_S);
        let signature = signature([&secret], ID, now, BODY).expect("signed");
        assert!(!verifies(&secret, ID, now, &signature, b"{}"));
        assert!(!verifies(&secret, "dlv_other", now, &signature, BODY));
        assert!(!verifies(&secret, ID, now + 1, &signature, BODY));
        assert!(!verifies(&SigningSecret::generate(), ID, now, &signature, BODY));
    }

    #[test]
    fn during_a_rotation_both_secrets_verify() {
        let (new, old, now) = (SigningSecret::generate(), SigningSecret::generate(), NOW_S);
        let signature = signature([&new, &old], ID, now, BODY).expect("signed");
        assert_eq!(signature.split(' ').count(), 2);
        assert!(verifies(&new, ID, now, &signature, BODY) && verifies(&old, ID, now, &signature, BODY));
        assert!(!verifies(&SigningSecret::generate(), ID, now, &signature, BODY));
    }

    #[test]
    fn the_specifications_example_is_met() {
        // standard-webhooks/spec, "Verifying signatures": the example of the reference libraries.
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let signature = signature([&secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn without_a_secret_there_is_no_signature() {
        assert_eq!(signature([], ID, 1, BODY), None);
    }

    #[test]
    fn generated_secrets_are_32_bytes_differ_and_read_back() {
        let (one, other) = (SigningSecret::generate(), SigningSecret::generate());
        assert!(one != other && one.0.len() == 32);
        assert_eq!(SigningSecret::parse(&one.to_text()), Ok(one));
    }

    #[test]
    fn texts_of_another_form_or_length_are_refused() {
        let of_length = |bytes: usize| format!("{SIGNING_PREFIX}{}", STANDARD.encode(vec![7; bytes]));
        for text in ["", "whsec_", "whsec_!!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &of_length(23), &of_length(65)] {
            assert_eq!(SigningSecret::parse(text), Err(NotASigningSecret), "{text}");
        }
        for bytes in [24, 32, 64] {
            assert!(SigningSecret::parse(&of_length(bytes)).is_ok());
            assert!(SigningSecret::parse(of_length(bytes).trim_end_matches('=')).is_ok());
            assert!(SigningSecret::parse(&format!(" {}\n", of_length(bytes))).is_ok(), "copied with what is around it");
        }
    }

    #[test]
    fn printing_a_secret_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", SigningSecret::generate()), "SigningSecret(hidden)");
    }
}
