//! Which migrations are applied.

use std::collections::BTreeSet;

use sqlx::migrate::Migrator;

use super::{Fields, Session, query};
use crate::store::{StoreError, StoreResult};

/// Versions of the migrations that are applied.
pub(crate) async fn list_applied(db: &mut Session<'_>) -> StoreResult<BTreeSet<i64>> {
    const EXISTS: &str = table_exists!("_sqlx_migrations");
    const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success";
    let row = query(EXISTS).fetch_one(&mut *db.conn).await?;
    let mut applied = BTreeSet::new();
    if Fields::new(&row).get::<bool>()? {
        for row in query(APPLIED).fetch_all(&mut *db.conn).await? {
            applied.insert(Fields::new(&row).get()?);
        }
    }
    Ok(applied)
}

/// Counts the migrations that are not applied yet; refuses a database that has some we do not know.
pub(crate) async fn count_pending(db: &mut Session<'_>, migrator: &Migrator) -> StoreResult<u32> {
    let mut applied = list_applied(db).await?;
    let mut pending = 0;
    for migration in migrator.iter() {
        pending += u32::from(!applied.remove(&migration.version));
    }
    match applied.first() {
        Some(unknown) => Err(StoreError::Migration(format!(
            "the database has migration {unknown}, which this Signalbox does not: it belongs to a newer one"
        ))),
        None => Ok(pending),
    }
}
