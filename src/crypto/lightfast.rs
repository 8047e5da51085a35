//! Opens what Lightfast has sealed: AES-256-GCM, as base64 of a 12-byte IV, the ciphertext and its 16-byte tag, under one
//! key written as 64 hex digits. Only to import it; nothing is sealed so here.
//!
//! **Invariants**: errors say nothing about the content. **Must not know** where the values come from.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit},
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// With its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why something could not be opened. Says nothing about the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LightfastSealError {
    /// The key is not 64 hex digits.
    #[error("the key is not 64 hex digits")]
    Key,
    /// The value is not base64 of an IV, a ciphertext and a tag.
    #[error("it is not base64 of an IV, a ciphertext and a tag")]
    Malformed,
    /// Another key, or tampered with.
    #[error("it does not open with this key")]
    DoesNotOpen,
}

/// The key of a Lightfast deployment. Has no `Debug`.
pub struct LightfastKey {
    cipher: Aes256Gcm,
}

impl LightfastKey {
    /// The key of these digits.
    ///
    /// # Errors
    /// [`LightfastSealError::Key`].
    pub fn from_hex(digits: &str) -> Result<Self, LightfastSealError> {
        let key = hex::decode(digits.trim()).map(Zeroizing::new).map_err(|_| LightfastSealError::Key)?;
        if key.len() != KEY_BYTES {
            return Err(LightfastSealError::Key);
        }
        let cipher = Aes256Gcm::new_from_slice(&key).map_err(|_| LightfastSealError::Key)?;
        Ok(Self { cipher })
    }

    /// Opens a value.
    ///
    /// # Errors
    /// [`LightfastSealError::Malformed`], [`LightfastSealError::DoesNotOpen`].
    pub fn open(&self, sealed: &str) -> Result<Zeroizing<Vec<u8>>, LightfastSealError> {
        let bytes = BASE64.decode(sealed.trim()).map_err(|_| LightfastSealError::Malformed)?;
        let (iv, sealed) = bytes.split_first_chunk::<IV_BYTES>().ok_or(LightfastSealError::Malformed)?;
        if sealed.len() < TAG_BYTES {
            return Err(LightfastSealError::Malformed);
        }
        let opened = self.cipher.decrypt(&Nonce::from(*iv), sealed);
        opened.map(Zeroizing::new).map_err(|_| LightfastSealError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `cryptography`: `AESGCM(bytes(range(32))).encrypt(bytes(range(12)), b"lin_oauth_0123", None)`
    /// with the IV in front, in base64.
    const SEALED: &str = "AAECAwQFBgcICQoLK2u4RKqEt2/lHqe6g9rpAoRNMgm2/O8mkEwgLC02";
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn what_another_implementation_sealed_opens() {
        let key = LightfastKey::from_hex(KEY).expect("a key");
        assert_eq!(key.open(SEALED).expect("opens").as_slice(), b"lin_oauth_0123");
    }

    #[test]
    fn a_wrong_key_a_damaged_value_and_what_is_none_do_not_open() {
        let other = LightfastKey::from_hex(&"ab".repeat(32)).expect("a key");
        assert_eq!(other.open(SEALED).err(), Some(LightfastSealError::DoesNotOpen));
        let key = LightfastKey::from_hex(KEY).expect("a key");
        let damaged = SEALED.replacen("K2u4", "K2u5", 1);
        assert_eq!(key.open(&damaged).err(), Some(LightfastSealError::DoesNotOpen));
        for none in ["", "not base64!", "AAAA", "lin_oauth_plain"] {
            assert_eq!(key.open(none).err(), Some(LightfastSealError::Malformed), "{none}");
        }
        for digits in ["", "ab", "zz".repeat(32).as_str(), "ab".repeat(33).as_str()] {
            assert_eq!(LightfastKey::from_hex(digits).err(), Some(LightfastSealError::Key), "{digits}");
        }
    }
}
