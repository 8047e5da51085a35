//! Every sealed value there is: checked at a start, and sealed anew with the newest key when keys are rotated.
//!
//! **Owns** the walk over the store's sealed values. **Invariants**: a value is replaced only if it is still the one that
//! was opened, so that a gateway beside it loses nothing; what the newest key has sealed already is left alone, so that an
//! interrupted rotation goes on where it was; nothing is removed that cannot be opened. **Must not know** which tables
//! there are, nor what the values mean.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{SealedAt, Vault, VaultError};
use crate::{
    crypto::seal::key_id_of,
    store::{SealedCursor, SealedValue, Store, StoreError},
};

/// Rows read at a time.
const ROWS: u32 = 200;
/// Whoever seals beside the rotation with an older key is caught up with so often.
const PASSES: u32 = 5;

/// Why a walk over the sealed values ended early.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// What happened to the values of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Sealed anew.
    pub resealed: u64,
    /// Under the newest key already.
    pub current: u64,
    /// Not opened.
    pub failed: u64,
}

/// A value that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unopened {
    /// The table.
    pub table: &'static str,
    /// The row's id.
    pub row: String,
    /// The name it was sealed under.
    pub column: &'static str,
    /// Why.
    pub cause: VaultError,
}

/// What a rotation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    /// By table.
    pub tables: BTreeMap<&'static str, TableCounts>,
    /// What it could not open.
    pub unopened: Vec<Unopened>,
    /// Ids of keys that are not the newest and that some value is still sealed with.
    pub still_used: BTreeSet<String>,
}

/// Whether the vault's live keys open what the store has, one value of each key and page; without a vault there may be
/// nothing to open. Flows are left out: they are void within minutes, and one that does not open fails by itself.
///
/// # Errors
/// The first value's that does not open; the store's.
pub async fn check_store(vault: Option<&Vault>, store: &dyn Store) -> Result<(), RotationError> {
    let mut walk = Walk::default();
    while let Some(values) = walk.next(store).await? {
        let mut lasting = values.iter().filter(|value| value.table != "gw_oauth_states");
        match vault {
            Some(vault) => vault.check(lasting.map(|value| (SealedAt::of(value), value.sealed.as_str())))?,
            None if lasting.next().is_some() => return Err(VaultError::NoKey.into()),
            None => {}
        }
    }
    Ok(())
}

/// Seals every value that an older key has sealed with the newest one. `progress` hears of every page.
///
/// # Errors
/// The store's and the cipher's; values that do not open are no error but part of the answer.
pub async fn rotate(
    vault: &Vault,
    store: &dyn Store,
    mut progress: impl FnMut(&BTreeMap<&'static str, TableCounts>),
) -> Result<Rotation, RotationError> {
    let newest = vault.key_ids().next().ok_or(VaultError::NoKey)?.to_owned();
    let mut rotation = Rotation::default();
    let mut known_to_fail: HashSet<(&'static str, String, &'static str)> = HashSet::new();
    for pass in 0..PASSES {
        let (mut old, mut changed) = (BTreeSet::new(), 0_u64);
        let mut walk = Walk::default();
        while let Some(values) = walk.next(store).await? {
            for value in values {
                let key = key_id_of(&value.sealed).map(str::to_owned).ok();
                let counts = rotation.tables.entry(value.table).or_default();
                if key.as_deref() == Some(newest.as_str()) {
                    counts.current += u64::from(pass == 0);
                    continue;
                }
                match reseal(vault, &value) {
                    Ok(by) => {
                        // One that was written in the same moment is met again in the next pass.
                        changed += 1;
                        counts.resealed += u64::from(store.replace_sealed(&value, &by).await?);
                    }
                    Err(cause) => {
                        old.extend(key);
                        if known_to_fail.insert((value.table, value.row.clone(), value.column)) {
                            counts.failed += 1;
                            let SealedValue { table, row, column, .. } = value;
                            rotation.unopened.push(Unopened { table, row, column, cause });
                        }
                    }
                }
            }
            progress(&rotation.tables);
        }
        rotation.still_used = old;
        if changed == 0 {
            return Ok(rotation);
        }
    }
    // Somebody seals with an older key all the while: say which, by looking once more.
    let mut walk = Walk::default();
    while let Some(values) = walk.next(store).await? {
        let keys = values.iter().filter_map(|value| key_id_of(&value.sealed).ok());
        rotation.still_used.extend(keys.filter(|key| *key != newest).map(str::to_owned));
    }
    Ok(rotation)
}

fn reseal(vault: &Vault, value: &SealedValue) -> Result<String, VaultError> {
    let at = SealedAt::of(value);
    let opened = vault.open(at, &value.sealed)?;
    vault.seal(at, opened.expose())
}

/// A walk over every sealed value, a page of rows at a time.
#[derive(Default)]
struct Walk {
    after: Option<SealedCursor>,
}

impl Walk {
    async fn next(&mut self, store: &dyn Store) -> Result<Option<Vec<SealedValue>>, StoreError> {
        let values = store.list_sealed(self.after.as_ref(), ROWS).await?;
        let Some(last) = values.last() else { return Ok(None) };
        self.after = Some(SealedCursor { table: last.table, row: last.row.clone() });
        Ok(Some(values))
    }
}
