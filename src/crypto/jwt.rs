//! Signed statements of ours: JSON Web Tokens with RS256, written by `jsonwebtoken`, signed by `ring`.
//!
//! `jsonwebtoken` brings no cryptography that this project admits (aws-lc-rs and rsa are banned), so it gets a provider of
//! ours; it keeps one per process, and ours is installed before the first token is made.
//!
//! **Invariants**: a key is checked when it is read, not when it is first needed; nothing prints it. **Must not know**
//! what is stated to whom.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, Header,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, new_error},
    signature::{Error as SignatureError, Signer, Verifier},
};
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey},
};
use serde::Serialize;

use super::private_key::{PrivateKey, PrivateKeyError, PrivateKeyForm, unwrap_private_key};
use crate::model::secret::Secret;

/// A private key that signs.
pub struct JwtKey(EncodingKey);

/// A token cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token cannot be signed")]
pub struct JwtError;

impl JwtKey {
    /// Reads a key as operators paste it.
    ///
    /// # Errors
    /// [`PrivateKeyError`] if it is none, or none that signs with RS256 (RSA, 2048 bits or more).
    pub fn read(given: &Secret) -> Result<Self, PrivateKeyError> {
        let key = unwrap_private_key(given)?;
        rsa_key(&key).map_err(|_| PrivateKeyError::CannotSign)?;
        // Refused if it is installed already, which is as good.
        PROVIDER.install_default().ok();
        Ok(Self(EncodingKey::from_rsa_der(&key.der)))
    }

    /// Signs a statement.
    ///
    /// # Errors
    /// [`JwtError`] if the claims are no JSON object or signing fails.
    pub fn sign(&self, claims: &impl Serialize) -> Result<Secret, JwtError> {
        let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &self.0).map_err(|_| JwtError)?;
        Secret::new(token).ok_or(JwtError)
    }
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JwtKey(hidden)")
    }
}

fn rsa_key(key: &PrivateKey) -> Result<rsa::KeyPair, ring::error::KeyRejected> {
    match key.form {
        PrivateKeyForm::Pkcs1 => rsa::KeyPair::from_der(&key.der),
        PrivateKeyForm::Pkcs8 => rsa::KeyPair::from_pkcs8(&key.der),
    }
}

/// RS256 and nothing else.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        check(*algorithm, key.family())?;
        // The bytes do not say which of the two forms they are.
        rsa::KeyPair::from_der(key.as_bytes())
            .or_else(|_| rsa::KeyPair::from_pkcs8(key.as_bytes()))
            .map(|key| Box::new(RingSigner(key)) as Box<dyn JwtSigner>)
            .map_err(|_| new_error(ErrorKind::InvalidKeyFormat))
    },
    verifier_factory: |algorithm, key| {
        check(*algorithm, key.family())?;
        Ok(Box::new(RingVerifier(key.clone())))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

fn check(algorithm: Algorithm, family: AlgorithmFamily) -> jsonwebtoken::errors::Result<()> {
    if algorithm != Algorithm::RS256 {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    if family == AlgorithmFamily::Rsa { Ok(()) } else { Err(new_error(ErrorKind::InvalidKeyFormat)) }
}

struct RingSigner(rsa::KeyPair);

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| SignatureError::new())?;
        Ok(signature)
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

struct RingVerifier(DecodingKey);

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let verdict = match self.0.kind() {
            DecodingKeyKind::SecretOrDer(der) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).verify(message, signature)
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                rsa::PublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        };
        verdict.map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use jsonwebtoken::Validation;
    use serde_json::{Value, json};

    use super::*;

    const PEM: &str = include_str!("../sim/github/site/app_key.pem");

    fn read(text: &str) -> Result<JwtKey, PrivateKeyError> {
        JwtKey::read(&Secret::new(text).expect("not empty"))
    }

    /// The same key in the envelope of the other form, made by hand: version, algorithm, and the key as octets.
    fn pkcs8_of(pkcs1: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, inner: &[u8]| {
            let length = u16::try_from(inner.len()).expect("a small key").to_be_bytes();
            [&[tag, 0x82, length[0], length[1]], inner].concat()
        };
        let algorithm = hex::decode("300d06092a864886f70d0101010500").expect("hex");
        wrap(0x30, &[&[2, 1, 0], algorithm.as_slice(), &wrap(4, pkcs1)].concat())
    }

    #[test]
    fn a_token_is_signed_by_either_form_of_the_key_and_verified_by_its_public_half() {
        let pkcs1 = unwrap_private_key(&Secret::new(PEM).expect("not empty")).expect("a key");
        let public = rsa_key(&pkcs1).expect("an RSA key").public().as_ref().to_vec();
        let pkcs8 = STANDARD.encode(pkcs8_of(&pkcs1.der));
        let pkcs8 = format!("-----BEGIN PRIVATE KEY-----\n{pkcs8}\n-----END PRIVATE KEY-----\n");
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        for envelope in [PEM.to_owned(), PEM.replace('\n', "\\n"), STANDARD.encode(PEM), pkcs8] {
            let token = read(&envelope).expect("a key").sign(&json!({"iss": "Iv23", "iat": 1})).expect("signed");
            let token = token.expose_str().expect("text");
            let read: Value = jsonwebtoken::decode(token, &DecodingKey::from_rsa_der(&public), &validation)
                .map(|read| read.claims)
                .expect("the signature verifies");
            assert_eq!(read, json!({"iss": "Iv23", "iat": 1}));
            let mut forged = token.to_owned();
            let at = forged.find('.').expect("three parts") + 2;
            forged.replace_range(at..=at, if &forged[at..=at] == "A" { "B" } else { "A" });
            let verdict = jsonwebtoken::decode::<Value>(&forged, &DecodingKey::from_rsa_der(&public), &validation);
            assert!(verdict.is_err(), "a changed token is refused");
        }
    }

    #[test]
    fn a_key_that_cannot_sign_is_found_out_when_it_is_read() {
        let mut der = vec![0x30, 0x82, 0x01, 0x00];
        der.resize(260, 5);
        let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", STANDARD.encode(der));
        assert_eq!(read(&pem).err(), Some(PrivateKeyError::CannotSign));
        assert_eq!(read("nonsense").err(), Some(PrivateKeyError::NotPem));
        assert_eq!(format!("{:?}", read(PEM).expect("a key")), "JwtKey(hidden)");
    }
}
