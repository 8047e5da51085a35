//! What survives, and what the store says of itself.

use std::sync::Arc;

use signalbox::store::{self, NoObserver, OpenOptions, StoreError};

use crate::{options, postgres_server::Database, release_until_some_are};

store_suite! {
    async fn the_store_knows_itself(store: TestStore) {
        assert!(["sqlite", "postgres"].contains(&store.backend()));
        store.ping().await.expect("it answers");
        store.check_durability().await.expect("both are durable as they come");
        assert_eq!(store.count_pending_migrations().await.expect("counted"), 0);
        assert_eq!(store.migrate().await.expect("nothing to do"), 0);
    }

    async fn two_processes_may_migrate_at_once(store: TestStore) {
        let beside = store.open_beside("node-b").await.expect("it opens");
        let (first, second) = tokio::join!(store.migrate(), beside.migrate());
        assert_eq!((first.expect("migrated"), second.expect("migrated")), (0, 0));
        beside.close().await;
    }

    async fn a_database_of_a_newer_release_is_refused(store: TestStore) {
        store.meddle(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'from the future', true, '', 0)",
        ).await;
        let refused = store.count_pending_migrations().await;
        assert!(matches!(refused, Err(StoreError::Migration(_))), "{refused:?}");
        let refused = store.migrate().await;
        assert!(matches!(refused, Err(StoreError::Migration(_))), "{refused:?}");
    }

    async fn a_migration_that_was_edited_after_it_was_applied_is_refused(store: TestStore) {
        store.meddle("UPDATE _sqlx_migrations SET checksum = '' WHERE version = 1").await;
        let refused = store.migrate().await;
        assert!(matches!(refused, Err(StoreError::Migration(_))), "{refused:?}");
    }

    async fn what_was_acknowledged_is_there_after_a_restart(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.claim("node-a").await;
        store.close().await;
        let again = store::open(options(&store.url, "node-a again"), Arc::new(NoObserver)).await.expect("it opens");
        let (read, event) = again.find_delivery(&delivery.id).await.expect("read").expect("there");
        assert_eq!((read.id, event.id), (delivery.id.clone(), delivery.event.clone()));
        assert_eq!(release_until_some_are(&again, "node-a again", store.now()).await, 1, "node-a is gone");
        let (read, _) = again.find_delivery(&delivery.id).await.expect("read").expect("there");
        assert_eq!((read.lease_until, read.due_at), (None, store.now()));
        again.close().await;
        store.end_early();
    }
}

#[tokio::test]
async fn a_url_of_neither_database_is_refused() {
    let refused = store::open(options("mysql://localhost/x", "node-a"), Arc::new(NoObserver)).await;
    assert!(matches!(refused.map(|_| ()), Err(StoreError::Driver(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_would_lose_what_it_acknowledged_is_refused() {
    let Some(database) = Database::create(true).await else { return };
    let store = store::open(options(&database.url, "node-a"), Arc::new(NoObserver)).await.expect("it opens");
    store.check_durability().await.expect("as it comes");
    store.close().await;
    let mut connection = crate::postgres_connection(&database.url).await;
    let weaken =
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$";
    sqlx::raw_sql(weaken).execute(&mut connection).await.expect("an owner may");
    drop(connection);
    let store = store::open(options(&database.url, "node-a"), Arc::new(NoObserver)).await.expect("it opens");
    let refused = store.check_durability().await;
    assert!(matches!(refused, Err(StoreError::NotDurable(_))), "{refused:?}");
    store.close().await;
    database.drop_it().await;
}

async fn migrate_from_nothing(url: &str) {
    let looking = |node| OpenOptions { serving: false, ..options(url, node) };
    let first = store::open(looking("node-a"), Arc::new(NoObserver)).await.expect("it opens");
    let second = store::open(looking("node-b"), Arc::new(NoObserver)).await.expect("it opens");
    let all = first.count_pending_migrations().await.expect("counted");
    assert!(all > 0, "nothing is applied yet");
    let (one, other) = tokio::join!(first.migrate(), second.migrate());
    assert_eq!(one.expect("migrated").max(other.expect("migrated")), all);
    assert_eq!(second.count_pending_migrations().await.expect("counted"), 0);
    assert_eq!(first.take_census().await.expect("counted").contradictions, Vec::<String>::new());
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn two_processes_migrate_one_empty_file_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    migrate_from_nothing(&format!("sqlite://{}", folder.path().join("signalbox.db").display())).await;
}

#[tokio::test]
async fn two_processes_migrate_one_empty_postgres_database_at_once() {
    let Some(database) = Database::create(false).await else { return };
    migrate_from_nothing(&database.url).await;
    database.drop_it().await;
}
