//! The PostgreSQL backend: several nodes are one gateway.
//!
//! **Owns** the connections and their settings, the notifications between nodes and each node's presence lock.
//! **Invariants**: nothing waits for ever: statements and locks have timeouts here and operations have one in the client,
//! because a stopped server answers nothing; a serving node holds its presence lock. **Must not know** queries both
//! databases understand.

mod listener;
mod presence;

use std::{
    ops::{Deref, DerefMut},
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _, PgPool, Transaction,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions},
};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore, SemaphorePermit, watch},
    time::timeout,
};

use self::{
    listener::Listener,
    presence::{Absences, Presence},
};
use super::{
    Accepted, ApiKey, AttemptRecord, BatchObserver, BoundedCount, Census, Change, ChangeFn, ClaimRequest, Claimed,
    ConnectionStore, DeadLetter, Deleted, DeliveryFilter, DestinationHealth, DueDestination, EventDetail, EventFilter,
    Found, InstallationRecord, NewEvent, OpenOptions, OrgSummary, OverviewStore, Page, PageRequest, QuarantineBounds,
    Quarantined, Rerouting, RetentionCutoffs, Rhythm, SealedCursor, SealedValue, Store, StoreError, StoreResult,
    ToReaddress, UnroutedFilter, WorkspaceSummary,
    backend::{CENSUS_TIME, Home, in_time, patience},
    changes,
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

/// The clock that all nodes have in common, milliseconds.
macro_rules! server_time_ms {
    () => {
        "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint"
    };
}
/// A lease is over when the server says so too: a node whose own clock is ahead takes nothing from the others.
macro_rules! lease_is_over {
    () => {
        concat!(" AND (d.lease_owner IS NULL OR d.due_at <= ", server_time_ms!(), ")")
    };
}

/// What both clocks say is over: of this node's and the server's the earlier.
macro_rules! earlier_now {
    ($now:literal) => {
        concat!("LEAST(", $now, ", ", server_time_ms!(), ")")
    };
}

/// What is judged, and written, by the clock that all nodes have in common.
macro_rules! shared_now {
    ($now:literal) => {
        server_time_ms!()
    };
}

/// What another node is claiming is not waited for.
macro_rules! skip_locked {
    () => {
        " FOR UPDATE SKIP LOCKED"
    };
}
macro_rules! for_update {
    () => {
        " FOR UPDATE"
    };
}
macro_rules! in_list {
    ($parameter:literal) => {
        // An array, not a subselect: of that the planner knows nothing, and would rather read a whole table.
        concat!(" = ANY(ARRAY(SELECT jsonb_array_elements_text(", $parameter, "::jsonb)))")
    };
}
/// The planner has seen how rows are distributed.
macro_rules! by_index {
    ($index:literal) => {
        ""
    };
}
/// The condition of `gw_events_backdated`, word for word.
macro_rules! is_backdated {
    () => {
        "e.id > 'evt_' || lpad(to_hex(GREATEST(e.received_at, 0) + 3600000), 12, '0')"
    };
}
macro_rules! table_exists {
    ($table:literal) => {
        concat!("SELECT to_regclass('", $table, "') IS NOT NULL")
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

type Db = sqlx::Postgres;

static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// Two, so that one batch is gathered and planned while the other is flushed.
const COMMITTERS: u32 = 2;
/// Connections for finding the way of a webhook whose installation is not known yet.
const LOOKERS: u32 = 2;
/// Prepared statements kept per connection: every text we have, in every bucket size.
const STATEMENTS: usize = 256;
/// A connection that was idle longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// Keeps a connection's commits on disk if somebody sets the running server otherwise: that is only looked at when a
/// gateway starts. What the server does beyond that (waiting for a standby) stays.
const STAY_DURABLE: &str = "SELECT set_config('synchronous_commit', \
     CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)";
/// Statements that look up keys.
const ONLY_BY_INDEX: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET cpu_index_tuple_cost = 1; SET plan_cache_mode = force_generic_plan";
/// How long it may take to answer that it does.
const PING_TIME: Duration = Duration::from_millis(200);
/// How long a connection may take to come back into its pool.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// The store on a PostgreSQL database.
pub(crate) struct PostgresStore {
    pool: PgPool,
    committing: Arc<KeyedConnections>,
    looking: KeyedConnections,
    known: KnownProviders,
    writer: Writer,
    home: Home,
    listener: AsyncMutex<Listener>,
    /// Held until the store is closed or dropped; `None` for a process that only looks.
    presence: Option<Presence>,
    absences: Absences,
}

impl PostgresStore {
    pub(crate) async fn open(options: &OpenOptions, observer: Arc<dyn BatchObserver>) -> StoreResult<Self> {
        let patience = patience(options.acquire_timeout);
        in_time(patience, Self::connect(options, &observer, patience)).await
    }

    async fn connect(
        options: &OpenOptions,
        observer: &Arc<dyn BatchObserver>,
        patience: Duration,
    ) -> StoreResult<Self> {
        let connect = PgConnectOptions::from_str(&options.url)?
            .application_name("signalbox")
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging();
        try_connecting(&connect, options.acquire_timeout).await?;
        let timeouts = Timeouts::new(options.acquire_timeout);
        // Rows are found by keys that the planner cannot see the number of; a plan made while a table was small must
        // not outlive that, so plans are made anew.
        let pool = pool_options(options, options.max_connections.saturating_sub(COMMITTERS + LOOKERS).max(2))
            .after_connect(move |connection, _| {
                Box::pin(async move { timeouts.apply(connection, "SET plan_cache_mode = force_custom_plan").await })
            })
            .connect_with(connect.clone())
            .await?;
        // The writer's statements, and those that find the way of a webhook, only ever look up keys: with nothing else
        // allowed, their plans are right whatever the statistics say, and can be kept. Reading an index from end to end is
        // still allowed, and of a table without statistics it looks as cheap as a few dozen keys: the price of an index's
        // entries decides against it.
        let keyed = |connections, further_settings: String| {
            let settings = format!("{ONLY_BY_INDEX}; {further_settings}");
            pool_options(options, connections).after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move { timeouts.apply(connection, &settings).await })
            })
        };
        let is_there = if options.serving { presence::of_connection(&options.node) } else { String::new() };
        let committing = Arc::new(KeyedConnections::new(
            keyed(COMMITTERS, is_there).connect_with(connect.clone()).await?,
            COMMITTERS,
            options.acquire_timeout,
        ));
        let looking = KeyedConnections::new(
            keyed(LOOKERS, String::new()).connect_lazy_with(connect.clone()),
            LOOKERS,
            options.acquire_timeout,
        );
        let presence = if options.serving {
            Some(Presence::take(connect.clone(), &options.node, Arc::clone(&committing)).await?)
        } else {
            None
        };
        let committers = (0..COMMITTERS)
            .map(|_| Arc::new(PostgresCommitter { committing: Arc::clone(&committing) }) as Arc<dyn Committer>)
            .collect();
        Ok(Self {
            known: KnownProviders::new(options.providers.clone()),
            writer: Writer::start(committers, observer, patience),
            home: Home::here(patience),
            listener: AsyncMutex::new(Listener::start(connect).await?),
            presence,
            absences: Absences::default(),
            pool,
            committing,
            looking,
        })
    }

    async fn reading(&self) -> Result<PoolConnection<Db>, sqlx::Error> {
        self.pool.acquire().await
    }

    async fn looking(&self) -> Result<Keyed<'_>, sqlx::Error> {
        self.looking.take().await
    }

    fn looked(&self, connection: Keyed<'_>) {
        self.looking.keep(connection);
    }

    async fn snapshot(&self) -> Result<Transaction<'static, Db>, sqlx::Error> {
        self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }

    async fn writing(&self) -> Result<Transaction<'static, Db>, sqlx::Error> {
        self.pool.begin().await
    }

    async fn apply_migrations(&self) -> StoreResult<u32> {
        // A connection of its own: without timeouts, and gone with its session lock whatever happens.
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        let pending =
            migrations::count_pending(&mut Session { conn: &mut connection, known: &self.known }, &MIGRATOR).await?;
        MIGRATOR.run_direct(None, &mut connection, false).await?;
        connection.close().await?;
        Ok(pending)
    }

    async fn read_durability_settings(&self) -> StoreResult<()> {
        // What the server is set to, whatever this connection insists on.
        const SERVER_SETTING: &str = "SELECT reset_val FROM pg_settings WHERE name = $1";
        let mut connection = self.reading().await?;
        for setting in ["synchronous_commit", "fsync", "full_page_writes"] {
            let value: String = sqlx::query_scalar(SERVER_SETTING).bind(setting).fetch_one(&mut *connection).await?;
            if value == "off" {
                return Err(StoreError::NotDurable(format!("{setting} is off")));
            }
        }
        Ok(())
    }

    async fn receive_change(&self) -> Change {
        self.listener.lock().await.next().await
    }

    fn presence(&self) -> watch::Receiver<bool> {
        self.presence.as_ref().map_or_else(|| watch::channel(true).1, Presence::is_there)
    }

    fn confirm_gone(&self, absent: &[String]) -> Vec<String> {
        self.absences.confirm(absent, Instant::now())
    }

    async fn close_connections(&self) {
        self.listener.lock().await.stop();
        if let Some(presence) = &self.presence {
            presence.give_up().await;
        }
        self.pool.close().await;
        self.looking.close().await;
        self.committing.close().await;
    }
}

impl_store!(PostgresStore, "postgres");
impl_connection_store!(PostgresStore);
impl_overview_store!(PostgresStore);

/// Makes one connection by itself: what keeps it from being made is told, and where it should have led. A pool would only
/// say that it waited.
async fn try_connecting(connect: &PgConnectOptions, within: Duration) -> StoreResult<()> {
    let tried = async { PgConnection::connect_with(connect).await?.close().await };
    let cause = match timeout(within, tried).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => StoreError::from(error),
        Err(_) => StoreError::Unavailable("no answer in time".into()),
    };
    let at = match connect.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", connect.get_host(), connect.get_port()),
    };
    Err(match cause {
        StoreError::Unavailable(why) => StoreError::Unavailable(format!("{at}: {why}")),
        StoreError::Driver(why) => StoreError::Driver(format!("{at}: {why}")),
        other => other,
    })
}

fn pool_options(options: &OpenOptions, connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(options.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, usage| {
            Box::pin(async move {
                if usage.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        // The pool pings what comes back and would wait for ever if the server does not answer, as after an operation that
        // was cut off for that very reason. Such a connection is dropped, so that another can take its place.
        .after_release(|connection, _| {
            Box::pin(async move {
                match timeout(RELEASE_TIME, connection.ping()).await {
                    Ok(answered) => answered.map(|()| true),
                    Err(_) => Err(sqlx::Error::PoolTimedOut),
                }
            })
        })
}

/// Bounds that the server keeps.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    statement_ms: u128,
    lock_ms: u128,
}

impl Timeouts {
    fn new(acquire_timeout: Duration) -> Self {
        let lock_ms = acquire_timeout.as_millis().max(1);
        Self { statement_ms: lock_ms + 5_000, lock_ms }
    }

    async fn apply(self, connection: &mut PgConnection, further_settings: &str) -> Result<(), sqlx::Error> {
        let Self { statement_ms, lock_ms } = self;
        // A transaction whose beginning is cut short, by a stop or a deadline, is rolled back whether or not it began: what
        // the server warns of then, the driver would log, and nobody could do anything about it.
        let settings = format!(
            "SET client_min_messages = error; SET statement_timeout = {statement_ms}; SET lock_timeout = {lock_ms}; \
             SET idle_in_transaction_session_timeout = {}; {STAY_DURABLE}; {further_settings}",
            statement_ms * 2
        );
        connection.execute(sqlx::AssertSqlSafe(settings)).await?;
        Ok(())
    }
}

async fn server_time(db: &mut Session<'_>) -> StoreResult<Option<EpochMs>> {
    const ASK: &str = concat!("SELECT ", server_time_ms!());
    Ok(Some(EpochMs(sqlx::query_scalar(ASK).fetch_one(&mut *db.conn).await?)))
}

/// Lease owners whose presence locks are free.
async fn list_absent(db: &mut Session<'_>, owner: &str) -> StoreResult<Vec<String>> {
    const SEEMS_GONE: &str = "SELECT pg_try_advisory_lock($1) AND pg_advisory_unlock($1) \
                              AND pg_try_advisory_lock($2) AND pg_advisory_unlock($2)";
    let mut absent = Vec::new();
    for other in leases::list_other_owners(db, owner).await? {
        if ask_of_locks(db, SEEMS_GONE, &other).await? {
            absent.push(other);
        }
    }
    Ok(absent)
}

/// Keeps the node from coming back while the transaction lasts.
async fn is_still_gone(db: &mut Session<'_>, node: &str) -> StoreResult<bool> {
    const IS_GONE: &str = "SELECT pg_try_advisory_xact_lock($1) AND pg_try_advisory_xact_lock($2)";
    ask_of_locks(db, IS_GONE, node).await
}

async fn ask_of_locks(db: &mut Session<'_>, question: &'static str, node: &str) -> StoreResult<bool> {
    let [own, shared] = presence::keys(node);
    Ok(sqlx::query_scalar(question).bind(own).bind(shared).fetch_one(&mut *db.conn).await?)
}

/// Connections for statements that look up keys. Between two uses they are kept here: their pool would ping them twice
/// each time.
struct KeyedConnections {
    pool: PgPool,
    /// A permit for each connection that the pool may open. Whoever has to wait waits for one of these and not for the
    /// pool, to which nothing comes back.
    permits: Semaphore,
    patience: Duration,
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    connection: PoolConnection<Db>,
    since: Instant,
}

/// One of them in use.
struct Keyed<'c> {
    connection: PoolConnection<Db>,
    _permit: SemaphorePermit<'c>,
}

impl Deref for Keyed<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Keyed<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl KeyedConnections {
    /// `pool` may open `connections`; whoever waits for one waits for so long at the most.
    fn new(pool: PgPool, connections: u32, patience: Duration) -> Self {
        Self { pool, permits: Semaphore::new(connections as usize), patience, kept: Mutex::default() }
    }

    async fn take(&self) -> Result<Keyed<'_>, sqlx::Error> {
        let permit = timeout(self.patience, self.permits.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(Kept { mut connection, since }) = kept {
            if since.elapsed() <= TRUSTED_IDLE || matches!(timeout(PING_TIME, connection.ping()).await, Ok(Ok(()))) {
                return Ok(Keyed { connection, _permit: permit });
            }
            // Not back into the pool: its place there is free at once, whether or not the server answers.
            drop(connection.detach());
        }
        Ok(Keyed { connection: self.pool.acquire().await?, _permit: permit })
    }

    /// Takes a connection back that is known to be in order. What fails is dropped instead, and its pool looks at it.
    fn keep(&self, used: Keyed<'_>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: what is kept after the closing would never be given back.
        if !self.pool.is_closed() {
            kept.push(Kept { connection: used.connection, since: Instant::now() });
        }
    }

    async fn close(&self) {
        let closing = self.pool.close();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        closing.await;
    }
}

struct PostgresCommitter {
    committing: Arc<KeyedConnections>,
}

#[async_trait]
impl Committer for PostgresCommitter {
    async fn commit(&self, batch: &Batch<'_>) -> Result<Vec<Option<Accepted>>, sqlx::Error> {
        let mut connection = self.committing.take().await?;
        let mut transaction = connection.begin().await?;
        let answers = batch::write(&mut transaction, batch).await?;
        transaction.commit().await?;
        self.committing.keep(connection);
        Ok(answers)
    }
}

/// Tells the other nodes, if the transaction commits.
async fn notify(connection: &mut PgConnection, change: &Change) -> StoreResult<()> {
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(changes::CHANNEL)
        .bind(change.to_notification())
        .execute(connection)
        .await?;
    Ok(())
}

/// Lifts the statement timeout for this transaction.
async fn unhurried(connection: &mut PgConnection) -> StoreResult<()> {
    connection.execute("SET LOCAL statement_timeout = 0").await?;
    Ok(())
}

pub(super) fn hot_statements() -> Vec<(&'static str, &'static str)> {
    queries::hot_statements()
}
