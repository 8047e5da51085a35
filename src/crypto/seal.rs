//! Sealing: AES-256-GCM with a random 96-bit nonce, in records that name their key.
//!
//! A record is `v1.<key id>.<base64url of nonce, ciphertext and tag>`. **Invariants**: a nonce is never chosen by a
//! caller; version, key id and place are authenticated, so a record opens only under its own key and where it was
//! sealed; opened bytes are wiped when dropped. **Must not know** which keys are live: that is the vault's.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The only version of the record there is.
const VERSION: &str = "v1";
/// Length of a key, bytes.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Why something could not be sealed or opened. Says nothing about the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is not exactly 32 bytes.
    #[error("the key is not exactly 32 bytes")]
    KeyLength,
    /// The key id is empty or has characters other than letters, digits, `-` and `_`.
    #[error("the key id is not made of letters, digits, `-` and `_`")]
    KeyId,
    /// The record is not one of ours.
    #[error("the record is malformed")]
    Malformed,
    /// The cipher refuses to seal: only for content of many gigabytes.
    #[error("the content is too long to seal")]
    TooLong,
    /// Another key, another place, or tampered with.
    #[error("the record does not open")]
    DoesNotOpen,
}

/// One key and its id. `Debug` shows the id only.
pub struct SealingKey {
    id: String,
    cipher: Aes256Gcm,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SealingKey {
    /// A key of exactly 32 bytes under an id.
    ///
    /// # Errors
    /// [`SealError::KeyLength`], [`SealError::KeyId`].
    pub fn new(id: &str, key: &[u8]) -> Result<Self, SealError> {
        let id_is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if id.is_empty() || !id_is_plain {
            return Err(SealError::KeyId);
        }
        let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| SealError::KeyLength)?;
        Ok(Self { id: id.to_owned(), cipher })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals `content` for `place`.
    ///
    /// # Errors
    /// [`SealError::TooLong`].
    pub fn seal(&self, place: &[&str], content: &[u8]) -> Result<String, SealError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let aad = self.associated(place);
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: content, aad: &aad })
            .map_err(|_| SealError::TooLong)?;
        let mut bytes = Vec::with_capacity(NONCE_BYTES + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Ok(format!("{VERSION}.{}.{}", self.id, URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Opens a record that this key sealed for `place`.
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::DoesNotOpen`].
    pub fn open(&self, place: &[&str], record: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (id, encoded) = parse_record(record)?;
        if id != self.id {
            return Err(SealError::DoesNotOpen);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| SealError::Malformed)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Malformed)?;
        if sealed.len() < TAG_BYTES {
            return Err(SealError::Malformed);
        }
        let aad = self.associated(place);
        self.cipher
            .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| SealError::DoesNotOpen)
    }

    /// What is authenticated beside the content. Each part has its length in front, so that no two places are the same
    /// bytes (`ab`,`c` and `a`,`bc`).
    fn associated(&self, place: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [VERSION, &self.id].iter().chain(place) {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// The id of the key that sealed a record.
///
/// # Errors
/// [`SealError::Malformed`] if it is not one of our records.
pub fn key_id_of(record: &str) -> Result<&str, SealError> {
    parse_record(record).map(|(id, _)| id)
}

fn parse_record(record: &str) -> Result<(&str, &str), SealError> {
    let rest = record.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.')).ok_or(SealError::Malformed)?;
    match rest.split_once('.') {
        Some((id, encoded)) if !id.is_empty() && !encoded.is_empty() => Ok((id, encoded)),
        _ => Err(SealError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, byte: u8) -> SealingKey {
        SealingKey::new(id, &[byte; KEY_BYTES]).expect("32 bytes")
    }

    #[test]
    fn a_record_opens_where_it_was_sealed_and_nowhere_else() {
        let key = key("k1", 7);
        let record = key.seal(&["gw_tokens", "in_1", "access_token"], b"gho_secret").expect("seals");
        assert!(record.starts_with("v1.k1.") && !record.contains("gho_secret"));
        let opened = key.open(&["gw_tokens", "in_1", "access_token"], &record).expect("opens");
        assert_eq!(&opened[..], b"gho_secret");
        for elsewhere in [
            ["gw_tokens", "in_2", "access_token"],
            ["gw_tokens", "in_1", "refresh_token"],
            ["gw_token", "sin_1", "access_token"],
        ] {
            assert_eq!(key.open(&elsewhere, &record), Err(SealError::DoesNotOpen));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_the_record_is_noticed() {
        let key = key("k1", 7);
        let record = key.seal(&["t"], b"secret").expect("seals");
        let encoded = record.rsplit('.').next().expect("three parts");
        let bytes = URL_SAFE_NO_PAD.decode(encoded).expect("base64url");
        for position in 0..bytes.len() {
            let mut tampered = bytes.clone();
            tampered[position] ^= 1;
            let tampered = format!("v1.k1.{}", URL_SAFE_NO_PAD.encode(tampered));
            assert_eq!(key.open(&["t"], &tampered), Err(SealError::DoesNotOpen), "byte {position}");
        }
    }

    #[test]
    fn the_key_id_is_authenticated_even_when_two_ids_share_a_key() {
        let record = key("k1", 7).seal(&["t"], b"secret").expect("seals");
        let renamed = record.replacen("k1", "k2", 1);
        assert_eq!(key("k2", 7).open(&["t"], &renamed), Err(SealError::DoesNotOpen));
    }

    #[test]
    fn two_sealings_of_the_same_content_differ() {
        let key = key("k1", 7);
        assert_ne!(key.seal(&["t"], b"secret"), key.seal(&["t"], b"secret"));
    }

    #[test]
    fn malformed_records_and_keys_are_refused() {
        let key = key("k1", 7);
        for record in ["", "v1", "v1.", "v1.k1", "v1.k1.", "v2.k1.AAAA", "v1.k1.!!", "v1.k1.AAAA", "v1..AAAA"] {
            assert_eq!(key.open(&["t"], record), Err(SealError::Malformed), "{record}");
        }
        assert_eq!(SealingKey::new("k1", &[0; 31]).err(), Some(SealError::KeyLength));
        assert_eq!(SealingKey::new("k1", &[0; 33]).err(), Some(SealError::KeyLength));
        assert_eq!(SealingKey::new("a.b", &[0; 32]).err(), Some(SealError::KeyId));
        assert!(!format!("{key:?}").contains('7'));
    }
}
