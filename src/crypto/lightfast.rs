//! The cipher of Lightfast, the system Signalbox can take connections over from: read only, for `import lightfast`.
//!
//! A record is the base64 of a 12-byte nonce, the AES-256-GCM ciphertext and its 16-byte tag. **Invariants**: nothing is
//! ever sealed this way here; opened bytes are wiped when dropped.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::seal::{KEY_BYTES, SealError};

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// The key tokens were encrypted with. `Debug` shows nothing of it.
pub struct LightfastKey(Aes256Gcm);

impl std::fmt::Debug for LightfastKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LightfastKey(hidden)")
    }
}

impl LightfastKey {
    /// The key of 64 hex digits.
    ///
    /// # Errors
    /// [`SealError::KeyLength`] if they are anything else.
    pub fn from_hex(digits: &str) -> Result<Self, SealError> {
        let key = Zeroizing::new(hex::decode(digits.trim()).map_err(|_| SealError::KeyLength)?);
        if key.len() != KEY_BYTES {
            return Err(SealError::KeyLength);
        }
        Aes256Gcm::new_from_slice(&key).map(Self).map_err(|_| SealError::KeyLength)
    }

    /// Opens a record.
    ///
    /// # Errors
    /// [`SealError::Malformed`] or [`SealError::DoesNotOpen`].
    pub fn open(&self, record: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let bytes = STANDARD.decode(record.trim()).map_err(|_| SealError::Malformed)?;
        if bytes.len() < NONCE_BYTES + TAG_BYTES {
            return Err(SealError::Malformed);
        }
        let (nonce, sealed) = bytes.split_at(NONCE_BYTES);
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| SealError::Malformed)?;
        self.0.decrypt(&Nonce::from(nonce), sealed).map(Zeroizing::new).map_err(|_| SealError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with another implementation: key 000102…1f, nonce 00…0b, plaintext `lin_oauth_abc`.
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const RECORD: &str = "AAECAwQFBgcICQoLK2u4RKqEt2/lHvbp0ql/C5Hd4Nci8QcfHfgxmFQ=";

    #[test]
    fn a_record_of_another_implementation_opens_and_a_changed_one_does_not() {
        let key = LightfastKey::from_hex(KEY).expect("64 digits");
        assert_eq!(key.open(RECORD).expect("opens").as_slice(), b"lin_oauth_abc");
        let mut changed = STANDARD.decode(RECORD).expect("base64");
        changed[14] ^= 1;
        assert_eq!(key.open(&STANDARD.encode(changed)).err(), Some(SealError::DoesNotOpen));
        assert_eq!(key.open("c2hvcnQ=").err(), Some(SealError::Malformed));
        assert_eq!(key.open("no base64!").err(), Some(SealError::Malformed));
        assert!(LightfastKey::from_hex("00").is_err() && LightfastKey::from_hex(&"zz".repeat(32)).is_err());
    }
}
