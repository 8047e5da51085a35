//! A database of an earlier release, with rows in it, becomes one of this release, with the same rows.

use std::path::Path;

use signalbox::{
    model::{
        ids::{DestinationId, InstallationId},
        log_entry::Actor,
        oauth_flow::FlowStatus,
        teardown::TeardownStatus,
    },
    store::{self, NoObserver, SharedStore},
};
use sqlx::migrate::{Migrate, Migrator};

use crate::{GITHUB, options, postgres_connection, postgres_server, sqlite_connection};

/// Rows as the first release wrote them, in words both databases understand.
const ROWS: &str = "
    INSERT INTO gw_installations (id, provider, external_id, org_id, connected_by, status, created_at, updated_at)
        VALUES ('in_1', 'github', '4711', 'org_1', 'user_1', 'active', 1, 2);
    INSERT INTO gw_tokens (installation_id, access_token_sealed, refresh_token_sealed, expires_at, created_at, updated_at)
        VALUES ('in_1', 'sealed', 'sealed too', 1000, 1, 2);
    INSERT INTO gw_destinations (id, org_id, scope, scope_id, url, secret_sealed, created_at, updated_at)
        VALUES ('dst_1', 'org_1', 'org', 'org_1', 'https://sink.example', 'sealed', 1, 2);
    INSERT INTO gw_teardowns (installation_id, org_id, reason, status, due_at, started_at, updated_at)
        VALUES ('in_1', 'org_1', 'disconnected', 'completed', 1, 1, 2);
    INSERT INTO gw_backfill_runs (id, installation_id, org_id, provider, status, created_at, updated_at)
        VALUES ('bfr_1', 'in_1', 'org_1', 'github', 'running', 1, 2);";

/// The migrations up to that version.
async fn migrator_up_to(version: &str, folder: &str) -> Migrator {
    let some = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(Path::new("migrations").join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a plain name");
        if name.as_str() < version || name.starts_with(version) {
            std::fs::copy(entry.path(), some.path().join(name)).expect("copied");
        }
    }
    Migrator::new(some.path()).await.expect("readable migrations")
}

/// Applies the first release's migrations, and writes its rows.
async fn release_one<C: Migrate + Send>(connection: &mut C, folder: &str) {
    let first = migrator_up_to("0001", folder).await;
    assert_eq!(first.iter().count(), 1);
    first.run_direct(None, connection, false).await.expect("applied");
}

async fn everything_is_there_after_migrating(store: &SharedStore) {
    let pending = store.count_pending_migrations().await.expect("counted");
    assert!(pending > 0);
    assert_eq!(store.migrate().await.expect("migrated"), pending);
    assert_eq!(store.migrate().await.expect("migrated"), 0, "once");

    let id = InstallationId::from_raw("in_1");
    let record = store.load_installation(&id).await.expect("read").expect("there");
    assert_eq!((record.installation.provider, record.installation.external_id.as_str()), (GITHUB, "4711"));
    assert_eq!(
        record.teardown.map(|teardown| (teardown.status, teardown.steps.len())),
        Some((TeardownStatus::Completed, 0))
    );
    assert_eq!(record.destinations.first().map(|found| &found.id), Some(&DestinationId::from_raw("dst_1")));
    let token = store.find_token(&id).await.expect("read").expect("there");
    assert_eq!((token.generation, token.refresh.as_deref()), (0, Some("sealed too")));
    assert_eq!(store.find_visible_resources(&id).await.expect("read"), None);
    let flow = store.find_flow(&[7; 32]).await.expect("read").expect("there");
    assert_eq!((flow.status, flow.actor, flow.context), (FlowStatus::Pending, Actor::system(), None));
    assert_eq!(store.cancel_backfill_runs(&id, signalbox::model::clock::EpochMs(3)).await.expect("cancelled"), 1);
    assert_eq!(store.list_sealed(None, 10).await.expect("read").len(), 4);
    let contradictions = store.take_census().await.expect("taken").contradictions;
    assert!(contradictions.is_empty(), "{contradictions:?}");
    store.close().await;
}

const FLOW_COLUMNS: &str = "state_hash, provider, org_id, pkce_verifier_sealed, status, created_at, expires_at";

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_database_of_the_first_release_keeps_its_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("signalbox.db").display());
    let store = store::open(options(&url, "node-a"), std::sync::Arc::new(NoObserver)).await.expect("it opens");
    let mut connection = sqlite_connection(&url).await;
    release_one(&mut connection, "sqlite").await;
    let flow = format!(
        "INSERT INTO gw_oauth_states ({FLOW_COLUMNS}) VALUES (x'{}', 'github', 'org_1', 's', 'pending', 1, 2)",
        "07".repeat(32)
    );
    for sql in [ROWS, &flow] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("written");
    }
    everything_is_there_after_migrating(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_database_of_the_first_release_keeps_its_rows() {
    let Some(database) = postgres_server::Database::create(false).await else { return };
    let store = store::open(options(&database.url, "node-a"), std::sync::Arc::new(NoObserver)).await.expect("it opens");
    let mut connection = postgres_connection(&database.url).await;
    release_one(&mut connection, "postgres").await;
    let flow = format!(
        "INSERT INTO gw_oauth_states ({FLOW_COLUMNS}) VALUES ('\\x{}', 'github', 'org_1', 's', 'pending', 1, 2)",
        "07".repeat(32)
    );
    for sql in [ROWS, &flow] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("written");
    }
    everything_is_there_after_migrating(&store).await;
    database.drop_it().await;
}
