//! API keys: how they look and how they are stored.
//!
//! **Invariants**: 256 random bits behind a recognisable prefix; only a hash is ever stored; comparison takes the same
//! time whatever the key. A plain SHA-256 is enough: there is nothing to guess in 256 random bits.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::model::secret::Secret;

/// What every key begins with, so that people and secret scanners recognise it.
pub const PREFIX: &str = "sbx_";
/// How much of a key is kept to recognise it by, characters: the prefix and 36 of its 256 bits.
const RECOGNISABLE_CHARS: usize = 10;

/// A new key: `sbx_` and 256 random bits in base64url, shown once.
pub fn generate() -> Secret {
    loop {
        let bits: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        // The text is never empty, and so the first round answers.
        if let Some(key) = Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits.as_slice()))) {
            return key;
        }
    }
}

/// What is stored of a key: its SHA-256.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Whether `key` is the one whose hash was stored, compared in constant time.
pub fn matches(stored: &[u8; 32], key: &str) -> bool {
    hash(key).ct_eq(stored).into()
}

/// The first characters of a key, kept beside its hash to recognise it by.
pub fn recognisable_part(key: &str) -> String {
    key.chars().take(RECOGNISABLE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_prefix_and_256_bits_and_no_two_are_alike() {
        let (one, other) = (generate(), generate());
        let text = one.expose_str().expect("text");
        assert_eq!(text.len(), PREFIX.len() + 43);
        assert!(text.starts_with(PREFIX));
        assert_ne!(one, other);
        assert!(recognisable_part(text).len() < 12 && text.starts_with(&recognisable_part(text)));
    }

    #[test]
    fn a_key_matches_its_own_hash_only() {
        let key = generate();
        let text = key.expose_str().expect("text");
        assert!(matches(&hash(text), text));
        assert!(!matches(&hash(text), &text[..text.len() - 1]));
        assert!(!matches(&hash(text), ""));
    }

    #[test]
    fn the_hash_is_sha_256() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(hash("abc")), known);
    }
}
