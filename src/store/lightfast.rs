//! Reads the rows of a Lightfast PostgreSQL database, to import them.
//!
//! **Owns** the one place that reads somebody else's tables. **Invariants**: nothing is written: the transaction is read
//! only; all tables are of one moment; whatever columns there are come along, so that older and newer schemas are read
//! alike. **Must not know** what the columns mean.

use serde_json::{Map, Value};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{StoreError, StoreResult};

/// A row, by its columns' names.
pub type ForeignRow = Map<String, Value>;

/// What is imported from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LightfastRows {
    /// `lightfast_gw_installations`.
    pub installations: Vec<ForeignRow>,
    /// `lightfast_gw_tokens`.
    pub tokens: Vec<ForeignRow>,
    /// `lightfast_gw_resources`.
    pub resources: Vec<ForeignRow>,
    /// `lightfast_workspace_integrations`.
    pub integrations: Vec<ForeignRow>,
    /// `lightfast_user_sources`, where the database still has it.
    pub user_sources: Vec<ForeignRow>,
    /// Tables there are none of.
    pub missing: Vec<&'static str>,
}

macro_rules! table {
    ($name:literal) => {
        ($name, concat!("SELECT to_jsonb(t)::text FROM ", $name, " t ORDER BY t.id"))
    };
}

/// Reads every table, each ordered by its id.
///
/// # Errors
/// [`StoreError::Unavailable`] if the database does not answer; [`StoreError::Driver`] if it refuses, or is none.
pub async fn read_lightfast(url: &str) -> StoreResult<LightfastRows> {
    let options: PgConnectOptions = url.parse()?;
    let options = options.application_name("signalbox import").disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    // Times come out with their offset, and as texts of one form.
    sqlx::query("SET TIME ZONE 'UTC'").execute(&mut connection).await?;
    let mut moment = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut rows = LightfastRows::default();
    for (into, (table, sql)) in [
        (&mut rows.installations, table!("lightfast_gw_installations")),
        (&mut rows.tokens, table!("lightfast_gw_tokens")),
        (&mut rows.resources, table!("lightfast_gw_resources")),
        (&mut rows.integrations, table!("lightfast_workspace_integrations")),
        (&mut rows.user_sources, table!("lightfast_user_sources")),
    ] {
        let exists: bool =
            sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(&mut *moment).await?;
        if !exists {
            rows.missing.push(table);
            continue;
        }
        let texts: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut *moment).await?;
        for text in texts {
            let row = serde_json::from_str(&text);
            into.push(row.map_err(|_| StoreError::Driver(format!("a row of {table} is no JSON object")))?);
        }
    }
    moment.rollback().await?;
    connection.close().await?;
    Ok(rows)
}
