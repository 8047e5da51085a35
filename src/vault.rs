//! The vault: seals secrets before the store sees them and opens them again. The only caller of `crypto::seal`.
//!
//! **Owns** the live keys and the key file. **Invariants**: the first key seals, every live key opens; a record opens
//! only for the table, row and column it was sealed for; a key file that others can read is refused, and so is a key
//! that is not exactly 32 bytes. **Must not know** where its records are kept.

pub mod rotation;

use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::{
    crypto::seal::{KEY_BYTES, SealError, SealingKey, key_id_of},
    model::secret::Secret,
    store::SealedValue,
};

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
    /// There is no key at all.
    #[error("the vault has no key")]
    NoKey,
    /// A key cannot be used.
    #[error("the vault key {id} cannot be used: {cause}")]
    UnusableKey {
        /// Its id.
        id: String,
        /// Why.
        cause: SealError,
    },
    /// Two live keys have the same id.
    #[error("two vault keys have the id {0}")]
    DuplicateKey(String),
    /// The key file cannot be used.
    #[error("the vault key file {path} {problem}")]
    KeyFile {
        /// Where it is.
        path: String,
        /// Why.
        problem: String,
    },
}

/// Seals with the first live key, opens with any. `Debug` shows the keys' ids only.
#[derive(Debug)]
pub struct Vault {
    keys: Vec<SealingKey>,
}

impl Vault {
    /// A vault of these keys, each an id and 32 bytes; the first seals.
    ///
    /// # Errors
    /// [`VaultError`] if there is none, if two share an id, or if one is not usable.
    pub fn new(keys: Vec<(String, Secret)>) -> Result<Self, VaultError> {
        let mut live: Vec<SealingKey> = Vec::with_capacity(keys.len());
        for (id, key) in keys {
            if live.iter().any(|other| other.id() == id) {
                return Err(VaultError::DuplicateKey(id));
            }
            let usable = SealingKey::new(&id, key.expose());
            live.push(usable.map_err(|cause| VaultError::UnusableKey { id, cause })?);
        }
        if live.is_empty() { Err(VaultError::NoKey) } else { Ok(Self { keys: live }) }
    }

    /// The vault of a key file, which is made, with a fresh key and mode 0600, when it does not exist.
    ///
    /// # Errors
    /// [`VaultError`] if the file cannot be made or read, or others can read it, or its keys are not usable.
    pub fn open_or_create_key_file(path: &Path) -> Result<Self, VaultError> {
        if let Some(vault) = Self::open_key_file(path)? {
            return Ok(vault);
        }
        create_key_file(path).map_err(|error| key_file_error(path, format!("cannot be made: {error}")))?;
        Self::open_key_file(path)?.ok_or_else(|| key_file_error(path, "vanished".to_owned()))
    }

    /// The vault of a key file; `None` when it does not exist.
    ///
    /// # Errors
    /// [`VaultError`] if it cannot be read, or others can read it, or its keys are not usable.
    pub fn open_key_file(path: &Path) -> Result<Option<Self>, VaultError> {
        let mode = match fs::metadata(path) {
            Ok(metadata) => metadata.permissions().mode(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(key_file_error(path, format!("cannot be read: {error}"))),
        };
        if mode & 0o077 != 0 {
            let problem = format!("can be read by others (mode {:o}); run `chmod 600` on it", mode & 0o777);
            return Err(key_file_error(path, problem));
        }
        let text = fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| key_file_error(path, format!("cannot be read: {error}")))?;
        let keys: Result<Vec<(String, Secret)>, VaultError> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| {
                parse_key_line(line).ok_or_else(|| {
                    key_file_error(path, "has a line that is not `id:` and 64 hex digits (32 bytes)".to_owned())
                })
            })
            .collect();
        let keys = keys?;
        if keys.is_empty() {
            return Err(key_file_error(path, "is empty".to_owned()));
        }
        Self::new(keys).map(Some)
    }

    /// Seals and opens a probe with every key.
    ///
    /// # Errors
    /// [`VaultError`] if what was sealed does not come back.
    pub fn self_test(&self) -> Result<(), VaultError> {
        const PROBE: &[u8] = b"signalbox vault self test";
        for key in &self.keys {
            let record = key.seal(&["self-test"], PROBE).map_err(from_seal_error)?;
            let opened = key.open(&["self-test"], &record).map_err(from_seal_error)?;
            if opened.as_slice() != PROBE {
                return Err(VaultError::DoesNotOpen);
            }
        }
        Ok(())
    }

    /// Whether these records, each with its place, were sealed by live keys: opens one of each key.
    ///
    /// # Errors
    /// [`VaultError`] of the first that does not open.
    pub fn check<'r>(&self, records: impl IntoIterator<Item = (SealedAt<'r>, &'r str)>) -> Result<(), VaultError> {
        let mut opened = HashSet::new();
        for (at, sealed) in records {
            if opened.insert(key_id_of(sealed).map_err(from_seal_error)?) {
                self.open(at, sealed)?;
            }
        }
        Ok(())
    }

    /// The ids of the live keys; the first seals.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(SealingKey::id)
    }

    /// Seals a secret for one place.
    ///
    /// # Errors
    /// [`VaultError`] if the cipher refuses (it does not for inputs of sane size).
    pub fn seal(&self, at: SealedAt<'_>, secret: &[u8]) -> Result<String, VaultError> {
        let key = self.keys.first().ok_or(VaultError::NoKey)?;
        key.seal(&at.parts(), secret).map_err(from_seal_error)
    }

    /// Opens what was sealed for that place.
    ///
    /// # Errors
    /// [`VaultError`] if it is malformed, its key is unknown, or it was sealed for another place.
    pub fn open(&self, at: SealedAt<'_>, sealed: &str) -> Result<Secret, VaultError> {
        let id = key_id_of(sealed).map_err(from_seal_error)?;
        let key = self.keys.iter().find(|key| key.id() == id).ok_or_else(|| VaultError::UnknownKey(id.to_owned()))?;
        let mut opened = key.open(&at.parts(), sealed).map_err(from_seal_error)?;
        // An empty secret was never sealed by anybody who had one.
        Secret::new(std::mem::take(&mut *opened)).ok_or(VaultError::Malformed)
    }
}

impl<'a> SealedAt<'a> {
    /// Where a value that the store lists lives.
    pub fn of(value: &'a SealedValue) -> Self {
        Self { table: value.table, row: &value.row, column: value.column }
    }

    fn parts(&self) -> [&'a str; 3] {
        [self.table, self.row, self.column]
    }
}

fn from_seal_error(error: SealError) -> VaultError {
    match error {
        SealError::DoesNotOpen => VaultError::DoesNotOpen,
        _ => VaultError::Malformed,
    }
}

fn key_file_error(path: &Path, problem: String) -> VaultError {
    VaultError::KeyFile { path: path.display().to_string(), problem }
}

fn parse_key_line(line: &str) -> Option<(String, Secret)> {
    let (id, digits) = line.split_once(':')?;
    let key = hex::decode(digits).ok().filter(|bytes| bytes.len() == KEY_BYTES)?;
    Some((id.to_owned(), Secret::new(key)?))
}

/// Makes the key file as a whole or not at all: written and synced beside its place, then linked into it. If another
/// process was quicker, its file stays and is the one everybody reads.
fn create_key_file(path: &Path) -> std::io::Result<()> {
    let key: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(rand::random());
    let id: [u8; 4] = rand::random();
    let line = Zeroizing::new(format!("k{}:{}\n", hex::encode(id), *Zeroizing::new(hex::encode(key.as_slice()))));
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.draft", hex::encode(id)));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    let removed = fs::remove_file(&draft);
    written?;
    removed?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SealedAt<'static> = SealedAt { table: "gw_destinations", row: "dst_1", column: "secret" };

    fn key(id: &str, byte: u8) -> (String, Secret) {
        (id.to_owned(), Secret::new([byte; KEY_BYTES]).expect("not empty"))
    }

    #[test]
    fn the_first_key_seals_and_every_live_key_opens() {
        let old = Vault::new(vec![key("old", 1)]).expect("usable");
        let sealed_by_old = old.seal(AT, b"whsec").expect("seals");
        let both = Vault::new(vec![key("new", 2), key("old", 1)]).expect("usable");
        assert_eq!(both.open(AT, &sealed_by_old).expect("opens").expose(), b"whsec");
        let sealed_by_both = both.seal(AT, b"whsec").expect("seals");
        assert!(sealed_by_both.starts_with("v1.new."));
        assert_eq!(old.open(AT, &sealed_by_both).err(), Some(VaultError::UnknownKey("new".into())));
        both.self_test().expect("opens its own probes");
    }

    #[test]
    fn a_record_moved_to_another_row_or_column_does_not_open() {
        let vault = Vault::new(vec![key("k", 1)]).expect("usable");
        let sealed = vault.seal(AT, b"whsec").expect("seals");
        for elsewhere in
            [SealedAt { row: "dst_2", ..AT }, SealedAt { column: "old_secret", ..AT }, SealedAt { table: "gw_x", ..AT }]
        {
            assert_eq!(vault.open(elsewhere, &sealed).err(), Some(VaultError::DoesNotOpen));
        }
    }

    #[test]
    fn records_of_a_key_that_is_not_live_or_not_the_same_any_more_do_not_pass_the_check() {
        let first = Vault::new(vec![key("a", 1), key("b", 2)]).expect("usable");
        let second = Vault::new(vec![key("b", 2)]).expect("usable");
        let sealed = [first.seal(AT, b"whsec").expect("seals"), second.seal(AT, b"whsec").expect("seals")];
        let records = || sealed.iter().map(|sealed| (AT, sealed.as_str()));
        assert_eq!(first.check(records()), Ok(()));
        assert_eq!(second.check(records()), Err(VaultError::UnknownKey("a".into())));
        let other_b = Vault::new(vec![key("a", 1), key("b", 3)]).expect("usable");
        assert_eq!(other_b.check(records()), Err(VaultError::DoesNotOpen));
        assert_eq!(other_b.check([]), Ok(()));
    }

    #[test]
    fn unusable_sets_of_keys_are_refused() {
        assert_eq!(Vault::new(Vec::new()).err(), Some(VaultError::NoKey));
        assert_eq!(Vault::new(vec![key("k", 1), key("k", 2)]).err(), Some(VaultError::DuplicateKey("k".into())));
        let short = ("k".to_owned(), Secret::new([1; 31]).expect("not empty"));
        let refused = VaultError::UnusableKey { id: "k".into(), cause: SealError::KeyLength };
        assert_eq!(Vault::new(vec![short]).err(), Some(refused));
    }

    #[test]
    fn a_key_file_is_made_once_with_mode_0600_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("signalbox.key");
        assert!(Vault::open_key_file(&path).expect("absent is no error").is_none());
        let first = Vault::open_or_create_key_file(&path).expect("makes it");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        let sealed = first.seal(AT, b"whsec").expect("seals");
        let again = Vault::open_or_create_key_file(&path).expect("reads it");
        assert_eq!(again.open(AT, &sealed).expect("same key").expose(), b"whsec");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no draft is left behind");
    }

    #[test]
    fn a_key_file_that_others_can_read_or_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("signalbox.key");
        let refused = |text: &str, mode: u32| {
            fs::write(&path, text).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets the mode");
            Vault::open_or_create_key_file(&path).expect_err("refused").to_string()
        };
        let good = format!("k1:{}\n", "ab".repeat(32));
        assert!(refused(&good, 0o640).contains("can be read by others"));
        assert!(refused(&good, 0o604).contains("can be read by others"));
        let damaged = refused(&format!("k1:{}\n", "ab".repeat(31)), 0o600);
        assert!(damaged.contains("64 hex digits") && !damaged.contains("abab"));
        assert!(refused("", 0o600).contains("is empty"));
    }
}
