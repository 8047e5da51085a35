//! The SQLite file: private, served once, and unavailable when it is.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use signalbox::{
    model::{
        event::{Event, EventOutcome},
        ids::EventId,
        provider::ProviderDeliveryId,
    },
    store::{self, Accepted, NewEvent, NoObserver, OpenOptions, StoreError},
};

use crate::{GITHUB, START, TestStore, on_sqlite, options, sqlite_connection};

/// An event that needs no store to make it.
fn an_ignored_event() -> NewEvent {
    NewEvent {
        event: Event {
            id: EventId::from_raw("evt_1"),
            provider: GITHUB,
            provider_delivery_id: ProviderDeliveryId::new("d1"),
            wire_type: "ping".into(),
            key: None,
            installation: None,
            org: None,
            external_id: None,
            resources: Vec::new(),
            outcome: EventOutcome::Ignored,
            reason: None,
            possible_replay: false,
            held: false,
            received_at: START,
            correlation_id: "corr-1".into(),
            trace_id: None,
        },
        headers: "{}".into(),
        content_type: None,
        body: Bytes::from_static(b"{}"),
        body_digest: None,
        decision: "{}".into(),
        deliveries: Vec::new(),
        drop_possible_replay: false,
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("it is there").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_its_owners_only() {
    on_sqlite(async |store: TestStore| {
        store.accept_one("d1").await;
        let database = store.url.strip_prefix("sqlite://").expect("a file").to_owned();
        for suffix in ["", "-wal", "-shm", ".lock"] {
            assert_eq!(mode(Path::new(&format!("{database}{suffix}"))), 0o600, "{suffix}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_serving_process_is_refused_and_one_that_looks_is_not() {
    on_sqlite(async |store: TestStore| {
        let refused = store::open(options(&store.url, "node-b"), Arc::new(NoObserver)).await.map(|_| ());
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        let beside = store.open_beside("cli").await.expect("it opens");
        let delivery = store.accept_one("d1").await;
        assert!(beside.find_delivery(&delivery.id).await.expect("read").is_some());
        beside.append_log(&[store.entry("written by a command")]).await.expect("it may write, too");
        beside.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite://x?mode=memory"] {
        let refused = store::open(options(url, "node-a"), Arc::new(NoObserver)).await.map(|_| ());
        assert!(matches!(refused, Err(StoreError::NotDurable(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_created_is_named() {
    let url = "sqlite:///nowhere/at/all/signalbox.db";
    let refused = store::open(options(url, "node-a"), Arc::new(NoObserver)).await.map(|_| ());
    let Err(StoreError::Driver(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("/nowhere/at/all"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_makes_the_store_unavailable_and_no_longer_than_it_is_locked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("signalbox.db").display());
    let impatient = OpenOptions { acquire_timeout: Duration::from_millis(200), ..options(&url, "node-a") };
    let store = store::open(impatient, Arc::new(NoObserver)).await.expect("it opens");
    store.migrate().await.expect("migrated");
    let mut other = sqlite_connection(&url).await;
    let lock = sqlx::Connection::begin_with(&mut other, "BEGIN IMMEDIATE").await.expect("locked");
    let refused = store.append_log(&[]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let event = an_ignored_event();
    let refused = store.accept_event(event.clone()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    store.list_keys().await.expect("readers are not locked out");
    lock.rollback().await.expect("unlocked");
    store.append_log(&[]).await.expect("it recovers by itself");
    assert_eq!(store.accept_event(event).await.expect("stored"), Accepted::New { possible_replay: false });
    store.close().await;
}
