//! The SQLite backend: one file, one writing process.
//!
//! **Owns** the file, its pragmas and its connections. **Invariants**: write-ahead log and `synchronous = FULL`, so that a
//! commit survives loss of power; one writing connection, so that writers queue here and not in SQLite's busy handler;
//! readers cannot write; one serving process per file. **Must not know** queries both databases understand.

mod checkpointer;
mod file;

use std::{
    path::PathBuf,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use sqlx::{
    ConnectOptions as _, Connection as _, SqlitePool, Transaction,
    migrate::Migrator,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use self::{
    checkpointer::{Checkpointer, LogGrowth},
    file::ServingLock,
};
use super::{
    Accepted, ApiKey, AttemptRecord, BatchObserver, BoundedCount, Census, Change, ChangeFn, ClaimRequest, Claimed,
    ConnectionStore, DeadLetter, Deleted, DeliveryFilter, DestinationHealth, DueDestination, EventDetail, EventFilter,
    Found, InstallationRecord, NewEvent, OpenOptions, OrgSummary, OverviewStore, Page, PageRequest, QuarantineBounds,
    Quarantined, Rerouting, RetentionCutoffs, Rhythm, SealedCursor, SealedValue, Store, StoreError, StoreResult,
    ToReaddress, UnroutedFilter, WorkspaceSummary,
    backend::{CENSUS_TIME, Home, patience},
    known::KnownProviders,
    writer::{Batch, Committer, Writer},
};
use crate::model::{
    activity::Activity,
    backfill_run::BackfillRun,
    clock::EpochMs,
    delivery::{Attempt, Delivery},
    destination::{Destination, DestinationScope},
    event::Event,
    heal_run::HealRun,
    ids::{
        BackfillRunId, DeliveryId, DestinationId, EventId, InstallationId, IntegrationId, KeyId, OrgId, QuarantineId,
        WorkspaceId,
    },
    installation::{Installation, InstallationStatus},
    integration::{Integration, IntegrationStatus},
    log_entry::LogEntry,
    oauth_flow::{FlowOutcome, OAuthFlow, TokenHash},
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
    resource::Resource,
    session::{ConsoleSession, SessionHash},
    teardown::Teardown,
    token::SealedToken,
};

/// One process serves from the file, and it knows what it has in hand.
macro_rules! lease_is_over {
    () => {
        ""
    };
}

/// The only clock there is.
macro_rules! earlier_now {
    ($now:literal) => {
        $now
    };
}
macro_rules! shared_now {
    ($now:literal) => {
        $now
    };
}

/// One writer at a time: rows need no locks of their own.
macro_rules! skip_locked {
    () => {
        ""
    };
}
macro_rules! for_update {
    () => {
        ""
    };
}
macro_rules! in_list {
    ($parameter:literal) => {
        concat!(" IN (SELECT value FROM json_each(", $parameter, "))")
    };
}
/// The planner knows nothing of how rows are distributed: where it could take the wrong index it is told the right one.
macro_rules! by_index {
    ($index:literal) => {
        concat!(" INDEXED BY ", $index)
    };
}
/// The condition of `gw_events_backdated`, word for word.
macro_rules! is_backdated {
    () => {
        "e.id > printf('evt_%012x', max(e.received_at, 0) + 3600000)"
    };
}
macro_rules! table_exists {
    ($table:literal) => {
        concat!("SELECT COUNT(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = '", $table, "'")
    };
}

#[expect(clippy::duplicate_mod, reason = "the queries are compiled once for each driver")]
#[path = "../queries/mod.rs"]
mod queries;

use queries::{
    Session, activity, backfill_runs, batch, census, claims, dead_letters, deliveries, delivery_search, destinations,
    event_search, events, flows, heal_runs, installations, integrations, keys, leases, log, migrations, overview,
    quarantine, readdress, records, retention, sealed, sessions, teardowns, tokens,
};

type Db = sqlx::Sqlite;

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// Prepared statements kept per connection: every text we have, in every bucket size.
const STATEMENTS: usize = 256;
/// The log is folded into the database by the checkpointer; at this many pages (64 MiB) the writer does it itself.
const WRITER_CHECKPOINT_PAGES: &str = "16384";
/// Of a new file. A commit writes each page that it touches whole, a dozen for a lone webhook; one stored webhook of 8 KB
/// fills a page.
const PAGE_BYTES: u32 = 4096;
/// Page caches, in KiB (negative, as the pragma wants it).
const WRITER_CACHE_KIB: &str = "-16384";
const READER_CACHE_KIB: &str = "-4096";

/// The store on a SQLite file.
pub(crate) struct SqliteStore {
    writing: SqlitePool,
    reading: SqlitePool,
    known: KnownProviders,
    writer: Writer,
    home: Home,
    checkpointer: Option<Checkpointer>,
    /// Held until the store is closed or dropped; `None` for a process that only looks.
    serving: Mutex<Option<ServingLock>>,
}

impl SqliteStore {
    pub(crate) async fn open(options: &OpenOptions, observer: Arc<dyn BatchObserver>) -> StoreResult<Self> {
        if options.url.contains(":memory:") || options.url.contains("mode=memory") {
            return Err(StoreError::NotDurable("an SQLite database in memory keeps nothing".into()));
        }
        let connect = SqliteConnectOptions::from_str(&options.url)?;
        let path = connect.get_filename().to_owned();
        file::create_private(&path)?;
        let serving = if options.serving { Some(ServingLock::take(&path)?) } else { None };
        let connect = connect
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(options.acquire_timeout)
            .statement_cache_capacity(STATEMENTS)
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        let writing = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(options.acquire_timeout)
            .max_lifetime(None)
            .idle_timeout(None)
            .test_before_acquire(false)
            // A full disk makes SQLite roll back by itself, and the driver's idea of the transaction is wrong from then
            // on: such a connection is not used again. The ping waits for a rollback that is under way; after a commit
            // there is nothing to wait for.
            .after_release(|connection, _| {
                Box::pin(async move {
                    if connection.is_in_transaction() {
                        connection.ping().await?;
                    }
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(
                connect
                    .clone()
                    .page_size(PAGE_BYTES)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .pragma("wal_autocheckpoint", WRITER_CHECKPOINT_PAGES)
                    .pragma("cache_size", WRITER_CACHE_KIB),
            )
            .await?;
        let reading = SqlitePoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(options.acquire_timeout)
            .test_before_acquire(false)
            .connect_lazy_with(connect.clone().pragma("query_only", "on").pragma("cache_size", READER_CACHE_KIB));
        let growth = Arc::new(LogGrowth::default());
        let committer: Arc<dyn Committer> =
            Arc::new(SqliteCommitter { writing: writing.clone(), growth: Arc::clone(&growth) });
        let patience = patience(options.acquire_timeout);
        Ok(Self {
            known: KnownProviders::new(options.providers.clone()),
            writer: Writer::start(vec![committer], &observer, patience),
            home: Home::here(patience),
            checkpointer: options.serving.then(|| Checkpointer::start(connect, growth)),
            serving: Mutex::new(serving),
            writing,
            reading,
        })
    }

    async fn reading(&self) -> Result<PoolConnection<Db>, sqlx::Error> {
        self.reading.acquire().await
    }

    /// Plans are made once for each connection here.
    async fn looking(&self) -> Result<PoolConnection<Db>, sqlx::Error> {
        self.reading().await
    }

    #[expect(clippy::unused_self, reason = "the other backend keeps what comes back")]
    fn looked(&self, connection: PoolConnection<Db>) {
        drop(connection);
    }

    async fn snapshot(&self) -> Result<Transaction<'static, Db>, sqlx::Error> {
        self.reading.begin().await
    }

    async fn writing(&self) -> Result<Transaction<'static, Db>, sqlx::Error> {
        begin_write(&self.writing).await
    }

    async fn apply_migrations(&self) -> StoreResult<u32> {
        // The write lock keeps a second process out; each migration is a savepoint within.
        let mut transaction = self.writing().await?;
        let pending =
            migrations::count_pending(&mut Session { conn: &mut transaction, known: &self.known }, &MIGRATOR).await?;
        MIGRATOR.run_direct(None, &mut *transaction, false).await?;
        transaction.commit().await?;
        Ok(pending)
    }

    async fn read_durability_settings(&self) -> StoreResult<()> {
        let mut connection = self.writing.acquire().await?;
        let journal_mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
        if !journal_mode.eq_ignore_ascii_case("wal") {
            return Err(StoreError::NotDurable(format!("journal_mode is {journal_mode}, not wal")));
        }
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
        // 2 is FULL, 3 is EXTRA.
        if synchronous < 2 {
            return Err(StoreError::NotDurable(format!("synchronous is {synchronous}, not 2 (FULL)")));
        }
        Ok(())
    }

    async fn receive_change(&self) -> Change {
        std::future::pending().await
    }

    #[expect(clippy::unused_self, reason = "called as the other database's is")]
    fn presence(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }

    #[expect(clippy::unused_self, reason = "called as the other database's is")]
    fn confirm_gone(&self, absent: &[String]) -> Vec<String> {
        absent.to_vec()
    }

    async fn close_connections(&self) {
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.stop();
        }
        self.reading.close().await;
        self.writing.close().await;
        drop(self.serving.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl_store!(SqliteStore, "sqlite");
impl_connection_store!(SqliteStore);
impl_overview_store!(SqliteStore);

#[expect(clippy::unused_async, reason = "called as the other database's is")]
async fn server_time(_db: &mut Session<'_>) -> StoreResult<Option<EpochMs>> {
    Ok(None)
}

/// Only one process serves from the file, so that whoever else holds leases is gone.
async fn list_absent(db: &mut Session<'_>, owner: &str) -> StoreResult<Vec<String>> {
    leases::list_other_owners(db, owner).await
}

#[expect(clippy::unused_async, reason = "called as the other database's is")]
async fn is_still_gone(_db: &mut Session<'_>, _node: &str) -> StoreResult<bool> {
    Ok(true)
}

/// Takes the write lock at once: a transaction that reads first and writes later could not get it any more.
async fn begin_write(writing: &SqlitePool) -> Result<Transaction<'static, Db>, sqlx::Error> {
    writing.begin_with("BEGIN IMMEDIATE").await
}

struct SqliteCommitter {
    writing: SqlitePool,
    growth: Arc<LogGrowth>,
}

#[async_trait]
impl Committer for SqliteCommitter {
    async fn commit(&self, batch: &Batch<'_>) -> Result<Vec<Option<Accepted>>, sqlx::Error> {
        let mut transaction = begin_write(&self.writing).await?;
        let answers = batch::write(&mut transaction, batch).await?;
        transaction.commit().await?;
        self.growth.add(batch.rows());
        Ok(answers)
    }
}

/// The file that a URL of ours names.
pub(super) fn file_of(url: &str) -> Option<PathBuf> {
    let options = url.starts_with("sqlite:").then(|| SqliteConnectOptions::from_str(url))?;
    Some(options.ok()?.get_filename().to_owned())
}

/// There are no other nodes to tell.
async fn notify(_connection: &mut SqliteConnection, _change: &Change) -> StoreResult<()> {
    Ok(())
}

/// SQLite has no statement timeout to lift.
async fn unhurried(_connection: &mut SqliteConnection) -> StoreResult<()> {
    Ok(())
}

pub(super) fn hot_statements() -> Vec<(&'static str, &'static str)> {
    queries::hot_statements()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{ids::LogId, log_entry::Actor},
        store::NoObserver,
    };

    fn installation(bytes: usize) -> Installation {
        Installation {
            id: InstallationId::from_raw("in_1"),
            provider: ProviderSlug("github"),
            external_id: ExternalId::new("1"),
            alternate_external_id: None,
            account_login: Some("x".repeat(bytes)),
            org: OrgId::from_raw("org"),
            connected_by: "me".into(),
            status: InstallationStatus::Active,
            status_reason: None,
            metadata: serde_json::Map::new(),
            provider_account_info: None,
            control_at: None,
            last_event_at: None,
            created_at: EpochMs(0),
            updated_at: EpochMs(0),
        }
    }

    #[test]
    fn the_file_of_a_url_is_found_in_every_spelling() {
        for (url, path) in [
            ("sqlite://signalbox.db", "signalbox.db"),
            ("sqlite:signalbox.db", "signalbox.db"),
            ("sqlite:///var/lib/signalbox.db?mode=rw", "/var/lib/signalbox.db"),
        ] {
            assert_eq!(file_of(url), Some(PathBuf::from(path)), "{url}");
        }
        assert_eq!(file_of("postgres://localhost/x"), None);
    }

    fn entry(id: &str, bytes: usize) -> LogEntry {
        LogEntry {
            reason: Some("x".repeat(bytes)),
            ..LogEntry::new(LogId::from_raw(id), "test", Actor::system(), EpochMs(0))
        }
    }

    #[tokio::test]
    async fn a_full_disk_makes_the_store_unavailable_and_no_longer_than_it_is_full() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = OpenOptions {
            url: format!("sqlite://{}", folder.path().join("signalbox.db").display()),
            max_connections: 1,
            acquire_timeout: Duration::from_secs(5),
            providers: Vec::new(),
            node: "node-a".into(),
            serving: false,
        };
        let store = SqliteStore::open(&options, Arc::new(NoObserver)).await.expect("it opens");
        store.migrate().await.expect("migrated");
        for _ in 0..3 {
            // SQLite treats its own page limit as it treats a full disk. The limit is the connection's, and a connection
            // that met a full disk is not used again.
            let mut connection = store.writing.acquire().await.expect("a writing connection");
            sqlx::query("PRAGMA max_page_count = 1").execute(&mut *connection).await.expect("limited");
            drop(connection);
            let (large, small) = (1_000_000, 1);
            // Of a statement over many rows SQLite takes back what it did; of one over a single row it rolls back the whole.
            let refused = [
                store.append_log(&[entry("log_1", large)]).await,
                store.insert_connection(&installation(large), None, &entry("log_1", small)).await,
            ];
            let is_unavailable = |refused: &Result<(), StoreError>| matches!(refused, Err(StoreError::Unavailable(_)));
            assert!(refused.iter().all(is_unavailable), "{refused:?}");
            store.list_log(None, None, PageRequest { limit: 1, cursor: None }).await.expect("it can be read");
        }
        store.append_log(&[entry("log_1", 1_000_000)]).await.expect("it recovers by itself");
    }
}
