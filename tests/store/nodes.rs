//! Several nodes on one PostgreSQL.

use std::{sync::Arc, time::Duration};

use signalbox::{
    model::{
        delivery::DeliveryStatus,
        destination::DestinationScope,
        ids::{InstallationId, OrgId},
    },
    store::{self, ApiKey, Change, NoObserver, OpenOptions, SharedStore, StoreError},
};
use tokio::time::timeout;

use crate::{
    START, TestStore, fixtures::org, on_postgres, on_sqlite, options, postgres_connection, release_until_some_are,
    wire::Wire,
};

async fn next(node: &SharedStore) -> Change {
    timeout(Duration::from_secs(20), node.next_change()).await.expect("a change arrives")
}

/// Changes until one of them is told to the node, which may have to listen again first.
async fn expect_told(store: &TestStore, node: &SharedStore) {
    let told = async {
        for number in 9000.. {
            store.insert_installation_of(&number.to_string()).await;
            if matches!(next(node).await, Change::Installation(_)) {
                break;
            }
        }
    };
    timeout(Duration::from_secs(30), told).await.expect("it listens again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_one_node_is_told_to_the_others() {
    on_postgres(async |store: TestStore| {
        let other = store.open_beside("node-b").await.expect("it opens");
        let installation = store.insert_installation_of("4711").await;
        assert_eq!(next(&other).await, Change::Installation(installation.id.clone()));
        store.change_installation(&installation.id, Box::new(|_| false)).await.expect("answered");
        store.change_installation(&installation.id, Box::new(|_| true)).await.expect("changed");
        assert_eq!(next(&other).await, Change::Installation(installation.id), "told once: one change said no");
        let destination = store.destination_for(DestinationScope::Org, "org_1");
        store.save_destination(&destination, None, &store.entry("x")).await.expect("saved");
        assert_eq!(next(&other).await, Change::Destinations(org()));
        store.delete_destination(&destination.id, &store.entry("x")).await.expect("deleted");
        assert_eq!(next(&other).await, Change::Destinations(org()));
        let key = ApiKey {
            id: store.ids.key(),
            name: "k".into(),
            hash: [1; 32],
            prefix: "sbx".into(),
            org: Some(OrgId::from_raw("org_1")),
            can_write: false,
            created_at: START,
            last_used_at: None,
            revoked_at: None,
        };
        store.insert_key(&key, &store.entry("x")).await.expect("inserted");
        assert_eq!(next(&other).await, Change::Keys);
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_stream_of_changes_says_that_anything_may_have_changed() {
    on_postgres(async |store: TestStore| {
        let mut admin = postgres_connection(&store.url).await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        )
        .execute(&mut admin)
        .await
        .expect("an administrator may");
        assert_eq!(next(&store.store).await, Change::Unknown);
        expect_told(&store, &store.store).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_listen_again_says_all_the_time_that_anything_may_have_changed() {
    on_postgres(async |store: TestStore| {
        let wire = Wire::to(&store.url).await;
        let node = store::open(options(&wire.url, "node-b"), Arc::new(NoObserver)).await.expect("it opens");
        wire.lose_listeners();
        for _ in 0..3 {
            assert_eq!(next(&node).await, Change::Unknown);
        }
        wire.resume();
        expect_told(&store, &node).await;
        node.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_no_notification_arrives_says_that_anything_may_have_changed() {
    on_postgres(async |store: TestStore| {
        let wire = Wire::to(&store.url).await;
        let node = store::open(options(&wire.url, "node-b"), Arc::new(NoObserver)).await.expect("it opens");
        wire.mute();
        store.insert_installation_of("4711").await;
        assert_eq!(next(&node).await, Change::Unknown);
        wire.resume();
        expect_told(&store, &node).await;
        node.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_elsewhere_on_sqlite() {
    on_sqlite(async |store: TestStore| {
        store.insert_installation_of("4711").await;
        let waited = timeout(Duration::from_millis(50), store.next_change()).await;
        assert!(waited.is_err(), "{waited:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leases_of_nodes_that_are_gone_are_taken_over() {
    on_postgres(async |store: TestStore| {
        let other = store.open_beside("node-b").await.expect("it opens");
        let delivery = store.accept_one("d1").await;
        assert_eq!(other.claim_deliveries(&store.claim_of("node-b")).await.expect("claimed").deliveries.len(), 1);
        expect_nothing_released(&store).await;
        other.close().await;
        assert_eq!(release_until_some_are(&store.store, "node-a", store.now()).await, 1, "node-b is gone");
        assert_eq!(store.delivery(&delivery.id).await.lease_until, None);
        assert_eq!(store.claim("node-a").await.len(), 1);
        let released = store.release_leases_of_the_gone("node-a", store.now()).await.expect("answered");
        assert_eq!(released, 0, "one's own leases are not a stranger's");
    })
    .await;
}

/// Looks for leases of the gone for longer than it takes to conclude that somebody is.
async fn expect_nothing_released(store: &TestStore) {
    let looking = async {
        loop {
            let released = store.release_leases_of_the_gone("node-a", store.now()).await.expect("answered");
            assert_eq!(released, 0, "node-b is at work");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(13), looking).await.expect_err("it looks to the end");
}

/// Cuts the connections that hold advisory locks of this mode (`%`: of any) in the store's database.
async fn cut_holders(admin: &mut sqlx::PgConnection, mode: &str) {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode LIKE $1 \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query(cut).bind(mode).execute(admin).await.expect("an administrator may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connection_broke_keeps_its_leases() {
    on_postgres(async |store: TestStore| {
        let other = store.open_beside("node-b").await.expect("it opens");
        let delivery = store.accept_one("d1").await;
        assert_eq!(other.claim_deliveries(&store.claim_of("node-b")).await.expect("claimed").deliveries.len(), 1);
        let mut admin = postgres_connection(&store.url).await;
        cut_holders(&mut admin, "%").await;
        expect_nothing_released(&store).await;
        assert!(*other.is_present().borrow(), "it was never gone for long");
        assert!(store.delivery(&delivery.id).await.lease_until.is_some());
        other.close().await;
    })
    .await;
}

/// Lets nobody connect to the store's database any more, or lets them again.
async fn allow_connections(store: &TestStore, allow: bool) {
    let server = crate::postgres_server::server().await.expect("there was one");
    let (_, database) = store.url.split('?').next().and_then(|url| url.rsplit_once('/')).expect("a URL");
    let sql = format!("ALTER DATABASE {database} WITH ALLOW_CONNECTIONS {allow}");
    let mut admin = postgres_connection(server).await;
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.expect("an administrator may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_lost_its_presence_and_cannot_connect_keeps_its_leases_while_it_has_a_connection() {
    on_postgres(async |store: TestStore| {
        let other = store.open_beside("node-b").await.expect("it opens");
        let delivery = store.accept_one("d1").await;
        assert_eq!(other.claim_deliveries(&store.claim_of("node-b")).await.expect("claimed").deliveries.len(), 1);
        let mut admin = postgres_connection(&store.url).await;
        allow_connections(&store, false).await;
        cut_holders(&mut admin, "ExclusiveLock").await;
        expect_nothing_released(&store).await;
        assert!(*other.is_present().borrow(), "another of its connections says so");
        let delivered = store.attempt(&delivery.id, 1, "node-b", DeliveryStatus::Delivered);
        other.record_attempts(vec![delivered]).await.expect("recorded");
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Delivered, "the lease was its own");
        allow_connections(&store, true).await;
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_knows_it_before_the_others_take_its_leases_over() {
    on_postgres(async |store: TestStore| {
        let wire = Wire::to(&store.url).await;
        let other = store::open(options(&wire.url, "node-b"), Arc::new(NoObserver)).await.expect("it opens");
        store.accept_one("d1").await;
        assert_eq!(other.claim_deliveries(&store.claim_of("node-b")).await.expect("claimed").deliveries.len(), 1);
        let mut present = other.is_present();
        wire.part();
        assert_eq!(release_until_some_are(&store.store, "node-a", store.now()).await, 1);
        assert!(!*present.borrow_and_update(), "its leases are somebody else's, and it does not know");
        wire.resume();
        let back = timeout(Duration::from_secs(30), present.wait_for(|present| *present)).await;
        assert!(*back.expect("it comes back").expect("the store is open"));
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connection_broke_takes_its_presence_again() {
    on_postgres(async |store: TestStore| {
        let mut admin = postgres_connection(&store.url).await;
        let holders = "SELECT COUNT(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE l.granted \
                       AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND d.datname = current_database()";
        let held = async |admin: &mut sqlx::PgConnection| {
            sqlx::query_scalar::<_, i64>(holders).fetch_one(admin).await.expect("counted")
        };
        assert_eq!(held(&mut admin).await, 1);
        cut_holders(&mut admin, "%").await;
        timeout(Duration::from_secs(20), async {
            while held(&mut admin).await == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the lock is taken again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_one_name_are_refused() {
    on_postgres(async |store: TestStore| {
        let refused = store.open_beside("node-a").await.map(|_| ());
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_recovers_by_itself_when_the_server_drops_every_connection() {
    on_postgres(async |store: TestStore| {
        store.accept_one("before").await;
        let mut admin = postgres_connection(&store.url).await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(&mut admin)
        .await
        .expect("an administrator may");
        timeout(Duration::from_secs(20), async {
            let event = store.with_delivery(store.event("after"));
            while let Err(error) = store.accept_event(event.clone()).await {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            }
            while let Err(error) = store.find_installation(&InstallationId::from_raw("in_1")).await {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            }
        })
        .await
        .expect("it recovers");
        assert_eq!(store.take_census().await.expect("counted").events.get("routed"), Some(&2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_makes_the_store_unavailable_and_no_longer_than_it_is_locked() {
    on_postgres(async |store: TestStore| {
        let mut admin = postgres_connection(&store.url).await;
        let mut lock = sqlx::Connection::begin(&mut admin).await.expect("a transaction");
        sqlx::query("LOCK TABLE gw_events IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.expect("locked");
        let event = store.with_delivery(store.event("d1"));
        let refused = store.accept_event(event.clone()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        let refused = store.find_event(&event.event.id).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        lock.rollback().await.expect("unlocked");
        store.accept_event(event).await.expect("stored");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_answering_makes_the_store_unavailable_and_no_longer_than_that() {
    on_postgres(async |store: TestStore| {
        let wire = Wire::to(&store.url).await;
        let impatient = OpenOptions { acquire_timeout: Duration::from_millis(300), ..options(&wire.url, "node-b") };
        let node = store::open(impatient, Arc::new(NoObserver)).await.expect("it opens");
        node.ping().await.expect("it answers");
        wire.pause();
        let event = store.with_delivery(store.event("d1"));
        let (accepted, found) = tokio::join!(node.accept_event(event.clone()), node.find_event(&event.event.id));
        assert!(matches!(accepted, Err(StoreError::Unavailable(_))), "{accepted:?}");
        assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
        wire.resume();
        timeout(Duration::from_secs(30), async {
            while let Err(error) = node.accept_event(event.clone()).await {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            }
        })
        .await
        .expect("it recovers by itself");
        assert!(store.find_event(&event.event.id).await.expect("read").is_some());
        node.close().await;
    })
    .await;
}
