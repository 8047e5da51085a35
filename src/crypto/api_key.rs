//! API keys: how they look and how they are stored.

use crate::model::secret::Secret;

/// A new key: `sbx_` and 256 random bits in base64url, shown once.
pub fn generate() -> Secret {
    todo!()
}

/// What is stored of a key: its SHA-256.
pub fn hash(_key: &str) -> [u8; 32] {
    todo!()
}
