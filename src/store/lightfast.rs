//! Reading the tables of Lightfast, the system connections can be taken over from: a PostgreSQL database that is not
//! ours. Nothing is ever written to it.
//!
//! **Invariants**: everything is read in one read-only transaction, so that a row and what refers to it belong together;
//! rows come as JSON objects, because the columns differ from one age of that system to the next. **Must not know** what
//! the columns mean.

use std::str::FromStr as _;

use serde_json::{Map, Value};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _,
    postgres::{PgConnectOptions, PgConnection},
};

use super::{StoreError, StoreResult};

const INSTALLATIONS: &str = "lightfast_gw_installations";
const TOKENS: &str = "lightfast_gw_tokens";
const RESOURCES: &str = "lightfast_gw_resources";
const INTEGRATIONS: &str = "lightfast_workspace_integrations";
const LEGACY: &str = "lightfast_user_sources";

/// A row as it is, by column.
pub type LightfastRow = Map<String, Value>;

/// What is in that database. A table that is not there has no rows; the one of installations must be there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LightfastRows {
    /// `lightfast_gw_installations`
    pub installations: Vec<LightfastRow>,
    /// `lightfast_gw_tokens`
    pub tokens: Vec<LightfastRow>,
    /// `lightfast_gw_resources`
    pub resources: Vec<LightfastRow>,
    /// `lightfast_workspace_integrations`
    pub integrations: Vec<LightfastRow>,
    /// How many rows the legacy table `lightfast_user_sources` has, where it is still there. Nothing of it is carried
    /// over: what is alive in it has a row among the installations.
    pub legacy_sources: Option<u64>,
}

/// Reads everything.
///
/// # Errors
/// [`StoreError::Unavailable`] if the database does not answer; [`StoreError::Driver`] if it is none of Lightfast.
pub async fn read(url: &str) -> StoreResult<LightfastRows> {
    let options = PgConnectOptions::from_str(url)?.application_name("signalbox import").disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    let mut read = connection.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *read).await?;
    let installations = rows(&mut read, INSTALLATIONS).await?.ok_or_else(|| {
        StoreError::Driver(format!("there is no table {INSTALLATIONS}: this is no database of Lightfast"))
    })?;
    let found = LightfastRows {
        installations,
        tokens: rows(&mut read, TOKENS).await?.unwrap_or_default(),
        resources: rows(&mut read, RESOURCES).await?.unwrap_or_default(),
        integrations: rows(&mut read, INTEGRATIONS).await?.unwrap_or_default(),
        legacy_sources: count(&mut read, LEGACY).await?,
    };
    read.rollback().await?;
    connection.close().await?;
    Ok(found)
}

async fn exists(db: &mut PgConnection, table: &'static str) -> StoreResult<bool> {
    let row = sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(db).await?;
    Ok(row.try_get(0)?)
}

async fn rows(db: &mut PgConnection, table: &'static str) -> StoreResult<Option<Vec<LightfastRow>>> {
    if !exists(db, table).await? {
        return Ok(None);
    }
    // One of our own names, not anybody's input. By the text of the row, so that two runs see one order, and that a table
    // without one of these columns has one too.
    let sql = format!(
        "SELECT to_jsonb(t)::text FROM {table} t ORDER BY to_jsonb(t)->>'created_at' NULLS LAST, to_jsonb(t)->>'id'"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(db).await?;
    let objects = rows.iter().map(|row| {
        let text: &str = row.try_get(0)?;
        serde_json::from_str(text).map_err(|error| StoreError::Driver(format!("a row of {table}: {error}")))
    });
    objects.collect::<StoreResult<_>>().map(Some)
}

async fn count(db: &mut PgConnection, table: &'static str) -> StoreResult<Option<u64>> {
    if !exists(db, table).await? {
        return Ok(None);
    }
    let row = sqlx::query(AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"))).fetch_one(db).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).ok())
}
