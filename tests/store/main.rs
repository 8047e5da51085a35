//! The store's suite: every case runs on both databases.
//!
//! A case is defined once in [`store_suite!`] and registered twice, as `sqlite::<name>` and `postgres::<name>`. After each
//! case a census looks for rows that contradict each other, unless the case asked it not to.

#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../support/wire.rs"]
mod wire;

mod fixtures;

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use signalbox::{
    model::{
        clock::{EpochMs, Ids, ManualClock},
        provider::ProviderSlug,
    },
    store::{self, BatchObserver, OpenOptions, SharedStore, StoreResult},
};

macro_rules! store_suite {
    ($($(#[$meta:meta])* async fn $case:ident($store:ident: TestStore) $body:block)*) => {
        $($(#[$meta])* async fn $case($store: $crate::TestStore) $body)*

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::on_sqlite(super::$case).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::on_postgres(super::$case).await;
            })*
        }
    };
}

mod census;
mod claims;
mod connections;
mod dead_letters;
mod deliveries;
mod destinations;
mod durability;
mod events;
mod flows;
mod installations;
mod keys;
mod log;
mod migrations;
mod nodes;
mod overview;
mod plans;
mod quarantine;
mod retention;
mod runs;
mod sealed;
mod sessions;
mod sqlite_file;
mod teardowns;
mod tokens;
mod writer;

const GITHUB: ProviderSlug = ProviderSlug("github");
const LINEAR: ProviderSlug = ProviderSlug("linear");

/// The moment at which every case begins.
const START: EpochMs = EpochMs(1_771_980_000_000);

/// Counts what the writer commits.
#[derive(Debug, Default)]
struct Commits {
    batches: AtomicUsize,
    events: AtomicUsize,
    attempts: AtomicUsize,
}

impl BatchObserver for Commits {
    fn batch_committed(&self, events: usize, attempts: usize, _took: Duration) {
        self.batches.fetch_add(1, Ordering::SeqCst);
        self.events.fetch_add(events, Ordering::SeqCst);
        self.attempts.fetch_add(attempts, Ordering::SeqCst);
    }
}

/// A store under test, with what makes rows for it. Derefs to the store.
#[derive(Clone)]
struct TestStore {
    store: SharedStore,
    url: String,
    clock: ManualClock,
    ids: Ids,
    commits: Arc<Commits>,
    contradicts_itself: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl std::ops::Deref for TestStore {
    type Target = dyn store::Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl TestStore {
    async fn open(url: String) -> Self {
        let clock = ManualClock::starting_at(START);
        let commits = Arc::new(Commits::default());
        let store = store::open(options(&url, "node-a"), commits.clone()).await.expect("the store opens");
        let ids = Ids::new(Arc::new(clock.clone()));
        Self { store, url, clock, ids, commits, contradicts_itself: Arc::default(), ended: Arc::default() }
    }

    /// A second handle on the same database, as another process (on SQLite: one that only looks) would have it.
    async fn open_beside(&self, node: &str) -> StoreResult<SharedStore> {
        let serving = self.backend() == "postgres";
        store::open(OpenOptions { serving, ..options(&self.url, node) }, Arc::new(store::NoObserver)).await
    }

    /// This case leaves rows that contradict each other, on purpose.
    fn contradicts_itself(&self) {
        self.contradicts_itself.store(true, Ordering::SeqCst);
    }

    /// Executes a statement past the store, to make what the store would not.
    async fn meddle(&self, sql: impl Into<String>) {
        let sql = sqlx::AssertSqlSafe(sql.into());
        if self.backend() == "sqlite" {
            let mut connection = sqlite_connection(&self.url).await;
            sqlx::query(sql).execute(&mut connection).await.expect("the statement works");
        } else {
            let mut connection = postgres_connection(&self.url).await;
            sqlx::query(sql).execute(&mut connection).await.expect("the statement works");
        }
    }

    /// This case has closed the store itself.
    fn end_early(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    async fn end(&self) {
        if self.ended.load(Ordering::SeqCst) {
            return;
        }
        let census = self.take_census().await.expect("the census is taken");
        self.close().await;
        if !self.contradicts_itself.load(Ordering::SeqCst) {
            assert_eq!(census.contradictions, Vec::<String>::new(), "rows contradict each other");
        }
    }
}

async fn sqlite_connection(url: &str) -> sqlx::SqliteConnection {
    <sqlx::SqliteConnection as sqlx::Connection>::connect(url).await.expect("the file opens")
}

async fn postgres_connection(url: &str) -> sqlx::PgConnection {
    <sqlx::PgConnection as sqlx::Connection>::connect(url).await.expect("the server answers")
}

/// Takes over the leases of the gone, as often as it takes: a PostgreSQL server that has just started judges nobody.
async fn release_until_some_are(store: &SharedStore, owner: &str, now: EpochMs) -> u64 {
    let releasing = async {
        loop {
            match store.release_leases_of_the_gone(owner, now).await.expect("answered") {
                0 => tokio::task::yield_now().await,
                released => return released,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), releasing).await.expect("some are released")
}

fn options(url: &str, node: &str) -> OpenOptions {
    OpenOptions {
        url: url.to_owned(),
        max_connections: 6,
        acquire_timeout: Duration::from_secs(5),
        providers: vec![GITHUB, LINEAR],
        node: node.to_owned(),
        serving: true,
    }
}

async fn on_sqlite<F: Future<Output = ()>>(case: impl FnOnce(TestStore) -> F) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("signalbox.db").display());
    let store = TestStore::open(url).await;
    store.migrate().await.expect("the migrations apply");
    run(case, store).await;
}

async fn on_postgres<F: Future<Output = ()>>(case: impl FnOnce(TestStore) -> F) {
    let Some(database) = postgres_server::Database::create(true).await else { return };
    let store = TestStore::open(database.url.clone()).await;
    let outcome = AssertUnwindSafe(run(case, store)).catch_unwind().await;
    database.drop_it().await;
    outcome.unwrap_or_else(|panic| resume_unwind(panic));
}

async fn run<F: Future<Output = ()>>(case: impl FnOnce(TestStore) -> F, store: TestStore) {
    case(store.clone()).await;
    store.end().await;
}
