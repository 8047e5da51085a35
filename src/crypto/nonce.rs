//! Values that are worth something because nobody can guess them: OAuth states, browser cookies, PKCE verifiers.
//!
//! **Invariants**: 256 random bits each, in base64url without padding; what is stored of a state or a cookie is its
//! SHA-256, so that whoever reads the database can use neither.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::model::secret::Secret;

/// How long the text of 256 bits is, characters.
pub const TEXT_CHARS: usize = 43;

/// A fresh value.
pub fn generate() -> Secret {
    loop {
        let bits: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        // The text is never empty, and so the first round answers.
        if let Some(value) = Secret::new(URL_SAFE_NO_PAD.encode(bits.as_slice())) {
            return value;
        }
    }
}

/// What is stored of a value: its SHA-256.
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// 32 bytes, masked with what only this value tells; masked twice they are what they were.
pub fn masked(text: &str, mut bytes: [u8; 32]) -> [u8; 32] {
    let mask = Sha256::new().chain_update(b"mask\0").chain_update(text.as_bytes()).finalize();
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    bytes
}

/// Whether a text has the shape of a value made here.
pub fn is_well_formed(text: &str) -> bool {
    text.len() == TEXT_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The S256 challenge of a PKCE verifier (RFC 7636, section 4.2).
pub fn pkce_challenge(verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_well_formed_and_no_two_are_alike() {
        let (one, other) = (generate(), generate());
        assert_ne!(one, other);
        assert!(is_well_formed(one.expose_str().expect("text")));
        for bad in ["", "short", &"a".repeat(44), &"é".repeat(21), &format!("{}=", "a".repeat(42))] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_masked_is_read_with_the_same_value_only() {
        let hidden = masked("one", [7; 32]);
        assert_ne!(hidden, [7; 32]);
        assert_eq!(masked("one", hidden), [7; 32]);
        assert_ne!(masked("other", hidden), [7; 32]);
    }

    #[test]
    fn the_challenge_is_the_one_of_the_standards_example() {
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").expect("not empty");
        assert_eq!(pkce_challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
