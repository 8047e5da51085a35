//! Judges the tokens an App signs for itself (docs.github.com: "Generating a JSON Web Token for a GitHub App").
//!
//! **Invariants.** RS256 only; the signature is checked against the public half of [`super::APP_PRIVATE_KEY`]; `iat` is
//! not after now, `exp` is after now and at most ten minutes ahead, `iss` is the client id or the App's id.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;

use super::{APP_ID, CLIENT_ID};
use crate::model::clock::EpochMs;

const PUBLIC_KEY: &[u8] = include_bytes!("app_key.pub.der");
const LONGEST_S: i64 = 600;

/// Why an App's token is not taken, in GitHub's words.
pub(super) fn judge(token: &str, now: EpochMs) -> Result<(), &'static str> {
    const UNREADABLE: &str = "A JSON web token could not be decoded";
    let (signed, signature) = token.rsplit_once('.').ok_or(UNREADABLE)?;
    let (header, claims) = signed.split_once('.').ok_or(UNREADABLE)?;
    let read = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
    let (header, claims) = (read(header).ok_or(UNREADABLE)?, read(claims).ok_or(UNREADABLE)?);
    if header["alg"] != "RS256" {
        return Err(UNREADABLE);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| UNREADABLE)?;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, PUBLIC_KEY)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| UNREADABLE)?;
    let now_s = now.0.div_euclid(1000);
    let iat = claims["iat"].as_i64();
    if iat.is_none_or(|iat| iat > now_s) {
        return Err("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued");
    }
    let Some(exp) = claims["exp"].as_i64().filter(|exp| *exp > now_s) else {
        return Err(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
        );
    };
    if exp > now_s + LONGEST_S {
        return Err("'Expiration time' claim ('exp') is too far in the future");
    }
    let is_ours = claims["iss"] == CLIENT_ID
        || claims["iss"] == APP_ID
        || claims["iss"].as_str() == Some(APP_ID.to_string().as_str());
    if is_ours { Ok(()) } else { Err("'Issuer' claim ('iss') must be an Integer or the client ID of the App") }
}

#[cfg(test)]
pub(super) mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{RSA_PKCS1_SHA256, RsaKeyPair},
    };
    use serde_json::json;

    use super::*;
    use crate::{crypto::private_key::unwrap_private_key, model::secret::Secret, sim::github::site::APP_PRIVATE_KEY};

    const NOW: EpochMs = EpochMs(1_771_980_000_000);

    fn sign(header: &Value, claims: &Value) -> String {
        let key = unwrap_private_key(&Secret::new(APP_PRIVATE_KEY).expect("not empty")).expect("PEM");
        let key = RsaKeyPair::from_der(&key.der).expect("an RSA key");
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of the App, good at `now`.
    pub(crate) fn good(now: EpochMs) -> String {
        let now = now.0 / 1000;
        sign(&json!({"alg": "RS256", "typ": "JWT"}), &json!({"iat": now - 60, "exp": now + 540, "iss": CLIENT_ID}))
    }

    #[test]
    fn a_good_token_is_taken_with_either_issuer() {
        assert_eq!(judge(&good(NOW), NOW), Ok(()));
        let now = NOW.0 / 1000;
        for issuer in [json!(APP_ID), json!(APP_ID.to_string())] {
            let claims = json!({"iat": now, "exp": now + 600, "iss": issuer});
            assert_eq!(judge(&sign(&json!({"alg": "RS256"}), &claims), NOW), Ok(()));
        }
    }

    #[test]
    fn everything_else_about_it_is_refused() {
        let now = NOW.0 / 1000;
        let rs256 = json!({"alg": "RS256"});
        for (header, claims) in [
            (json!({"alg": "none"}), json!({"iat": now, "exp": now + 540, "iss": CLIENT_ID})),
            (rs256.clone(), json!({"iat": now + 1, "exp": now + 540, "iss": CLIENT_ID})),
            (rs256.clone(), json!({"iat": now, "exp": now, "iss": CLIENT_ID})),
            (rs256.clone(), json!({"iat": now, "exp": now + 601, "iss": CLIENT_ID})),
            (rs256.clone(), json!({"iat": now, "exp": now + 540, "iss": "somebody else"})),
            (rs256.clone(), json!({"exp": now + 540, "iss": CLIENT_ID})),
            (rs256, json!({"iat": now, "iss": CLIENT_ID})),
        ] {
            assert!(judge(&sign(&header, &claims), NOW).is_err(), "{header} {claims}");
        }
        let token = good(NOW);
        let other_signature = good(EpochMs(NOW.0 - 1000));
        let (signed, _) = token.rsplit_once('.').expect("three parts");
        let (_, other) = other_signature.rsplit_once('.').expect("three parts");
        assert!(judge(&format!("{signed}.{other}"), NOW).is_err(), "a signature of something else");
        assert!(judge("not.a.token", NOW).is_err() && judge("", NOW).is_err());
    }
}
