//! The vault: seals secrets before the store sees them and opens them again. The only caller of `crypto::seal`.

use crate::model::secret::Secret;

/// Where a sealed value lives. It is the associated data: a ciphertext moved elsewhere does not open.
#[derive(Debug, Clone, Copy)]
pub struct SealedAt<'a> {
    /// The table.
    pub table: &'static str,
    /// The row's id.
    pub row: &'a str,
    /// The column.
    pub column: &'static str,
}

/// Why a secret could not be sealed or opened. Says nothing about the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The record is not one of ours.
    #[error("the sealed record is malformed")]
    Malformed,
    /// The key that sealed it is not live.
    #[error("the vault key {0} is not configured")]
    UnknownKey(String),
    /// Wrong key, wrong place or tampered with.
    #[error("the sealed record does not open")]
    DoesNotOpen,
}

/// Seals with the first live key, opens with any.
#[derive(Debug)]
pub struct Vault {}

impl Vault {
    /// Seals a secret for one place.
    ///
    /// # Errors
    /// [`VaultError`] if the cipher refuses (it does not for inputs of sane size).
    pub fn seal(&self, _at: SealedAt<'_>, _secret: &[u8]) -> Result<String, VaultError> {
        Err(VaultError::Malformed)
    }

    /// Opens what was sealed for that place.
    ///
    /// # Errors
    /// [`VaultError`] if it is malformed, its key is unknown, or it was sealed for another place.
    pub fn open(&self, _at: SealedAt<'_>, _sealed: &str) -> Result<Secret, VaultError> {
        Err(VaultError::Malformed)
    }
}
