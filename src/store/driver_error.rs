//! What the driver's errors mean to us.
//!
//! **Owns** the mapping from `sqlx::Error` to [`StoreError`]. **Invariants**: whatever may go away by itself (a lock, a
//! full disk, a stopped server, an exhausted pool) is `Unavailable`, so that the provider is asked to come again; what
//! the row itself causes is not. **Must not know** any query.

use sqlx::error::{DatabaseError, ErrorKind};

use super::StoreError;

/// Every table with a unique key that a caller can collide with.
const TABLES: [&str; 16] = [
    "gw_installations",
    "gw_tokens",
    "gw_resources",
    "workspace_integrations",
    "gw_events",
    "gw_deliveries",
    "gw_attempts",
    "gw_destinations",
    "gw_oauth_states",
    "gw_teardowns",
    "gw_backfill_runs",
    "gw_heal_runs",
    "gw_lifecycle_log",
    "gw_api_keys",
    "gw_sessions",
    "gw_quarantine",
];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(reported) if reported.kind() == ErrorKind::UniqueViolation => {
                Self::NotUnique { table: table_of(&**reported) }
            }
            sqlx::Error::Database(reported) if is_passing(&**reported) => Self::Unavailable(error.to_string()),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::InvalidSavePointStatement => Self::Unavailable(error.to_string()),
            _ => Self::Driver(error.to_string()),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(inner) | MigrateError::ExecuteMigration(inner, _) => match Self::from(inner) {
                unavailable @ Self::Unavailable(_) => unavailable,
                other => Self::Migration(other.to_string()),
            },
            MigrateError::VersionMissing(version) => Self::Migration(format!(
                "the database has migration {version}, which this Signalbox does not: it belongs to a newer one"
            )),
            other => Self::Migration(other.to_string()),
        }
    }
}

/// Whether the connection broke: what was under way may be tried again on another one, as far as that is idempotent.
pub(crate) fn lost_the_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::Tls(_) => true,
        // Class 57: shut down by an administrator, crashed, starting up. 57014 is our own statement timeout.
        sqlx::Error::Database(reported) => {
            reported.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }
        _ => false,
    }
}

/// Whether two transactions got in each other's way and this one lost: trying again at once helps.
pub(crate) fn lost_a_race(error: &sqlx::Error) -> bool {
    let sqlstate = error.as_database_error().and_then(DatabaseError::code);
    sqlstate.is_some_and(|code| code.len() == 5 && code.starts_with("40"))
}

/// Whether the condition may pass by itself. SQLSTATE classes are five characters; SQLite's extended codes are decimal
/// numbers whose low byte is the primary code (<https://www.sqlite.org/rescode.html>).
fn is_passing(reported: &dyn DatabaseError) -> bool {
    let Some(code) = reported.code() else { return false };
    if code.len() == 5 {
        // Connection, rolled back, resources, object in use or lock not available, operator, I/O; 25006: read only, as
        // after a failover.
        return ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class)) || code == "25006";
    }
    // BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL.
    code.parse::<u32>().is_ok_and(|code| [5, 6, 7, 8, 10, 13, 14, 15].contains(&(code & 0xff)))
}

/// PostgreSQL names the table; SQLite's message does (`UNIQUE constraint failed: gw_events.id`).
fn table_of(reported: &dyn DatabaseError) -> &'static str {
    let named = reported.table().unwrap_or_default();
    let message = reported.message();
    TABLES
        .into_iter()
        .find(|table| named == *table || message.split([' ', '.', ',']).any(|word| word == *table))
        .unwrap_or("unknown")
}
