//! Retention.

use std::time::Duration;

use bytes::Bytes;
use signalbox::{
    model::{
        clock::EpochMs,
        delivery::DeliveryStatus,
        event::EventOutcome,
        heal_run::{HealRun, HealStatus},
        ids::EventId,
        oauth_flow::OAuthFlow,
    },
    store::{Deleted, DeletedEvents, QuarantineBounds, Quarantined, RetentionCutoffs},
};

use crate::{GITHUB, START, TestStore, fixtures::page, on_postgres};

const NEVER: EpochMs = EpochMs(0);

async fn exists(store: &TestStore, id: &EventId) -> bool {
    store.find_event(id).await.expect("read").is_some()
}

/// Rows in a table, asked past the store.
async fn rows(store: &TestStore, sql: &'static str) -> i64 {
    if store.backend() == "sqlite" {
        sqlx::query_scalar(sql).fetch_one(&mut crate::sqlite_connection(&store.url).await).await.expect("counted")
    } else {
        sqlx::query_scalar(sql).fetch_one(&mut crate::postgres_connection(&store.url).await).await.expect("counted")
    }
}

store_suite! {
    async fn old_events_go_with_their_deliveries_and_attempts_unless_one_is_open_or_dead(store: TestStore) {
        let delivered = store.accept_one("delivered").await;
        let dead = store.accept_one("dead").await;
        for claimed in store.claim("node-a").await {
            let is_dead = claimed.delivery.id == dead.id;
            let status = if is_dead { DeliveryStatus::Dead } else { DeliveryStatus::Delivered };
            let record = store.attempt(&claimed.delivery.id, 1, "node-a", status);
            store.record_attempts(vec![record]).await.expect("recorded");
        }
        let open = store.accept_one("open").await;
        let mut ignored = store.event("ignored");
        ignored.event.outcome = EventOutcome::Ignored;
        store.accept_event(ignored.clone()).await.expect("stored");
        store.clock.advance(Duration::from_hours(24));
        let young = store.accept_one("young").await;

        let cutoffs =
            RetentionCutoffs { events: store.now(), dead_letters: NEVER, quarantine: NEVER, log: NEVER, flows: NEVER, activity: NEVER };
        let deleted = store.delete_expired_events(&cutoffs, None, 100).await.expect("deleted");
        assert_eq!(deleted, DeletedEvents { deleted: 2, looked_up_to: None });
        for (event, stays) in [
            (&delivered.event, false), (&ignored.event.id, false), (&dead.event, true), (&open.event, true),
            (&young.event, true),
        ] {
            assert_eq!(exists(&store, event).await, stays);
        }
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_deliveries").await, 3);
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_attempts").await, 1, "the dead one's");

        let cutoffs = RetentionCutoffs { dead_letters: store.now(), ..cutoffs };
        let deleted = store.delete_expired_events(&cutoffs, None, 100).await.expect("deleted").deleted;
        assert_eq!(deleted, 1, "the dead letter is past its own age");
        assert!(!exists(&store, &dead.event).await && exists(&store, &open.event).await);
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_attempts").await, 0);
    }

    async fn a_pass_deletes_a_bounded_number_of_deliveries_and_the_next_one_goes_on(store: TestStore) {
        for name in ["first", "second", "third"] {
            let delivery = store.accept_one(name).await;
            store.claim("node-a").await;
            let delivered = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Delivered);
            store.record_attempts(vec![delivered]).await.expect("recorded");
            store.copy_delivery(&delivery.id, 3_000).await;
            store.clock.advance(Duration::from_millis(1));
        }
        let cutoffs =
            RetentionCutoffs { events: store.now(), dead_letters: NEVER, quarantine: NEVER, log: NEVER, flows: NEVER, activity: NEVER };
        let pass = async |after: Option<&EventId>| store.delete_expired_events(&cutoffs, after, 500).await.expect("deleted");
        let first = pass(None).await;
        assert_eq!(first.deleted, 2, "whole events, until they have five thousand deliveries");
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_deliveries").await, 3_001);
        assert!(first.looked_up_to.is_some());
        assert_eq!(pass(first.looked_up_to.as_ref()).await, DeletedEvents { deleted: 1, looked_up_to: None });
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_deliveries").await, 0);
    }

    async fn an_event_is_kept_while_a_younger_dead_letter_of_it_is(store: TestStore) {
        let mut event = store.with_delivery(store.with_delivery(store.event("d1")));
        event.deliveries[1].delivery.due_at = EpochMs(START.0 + 1_000);
        store.accept_event(event.clone()).await.expect("stored");
        store.let_everything_die().await;
        store.clock.advance(Duration::from_secs(10));
        store.let_everything_die().await;
        let now = store.now();
        let cutoffs = |dead_letters| RetentionCutoffs { events: now, dead_letters, quarantine: NEVER, log: NEVER, flows: NEVER, activity: NEVER };
        let between = EpochMs(START.0 + 5_000);
        assert_eq!(store.delete_expired_events(&cutoffs(between), None, 100).await.expect("deleted").deleted, 0);
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_deliveries").await, 1, "the older dead letter has an age of its own");
        let after = EpochMs(START.0 + 20_000);
        assert_eq!(store.delete_expired_events(&cutoffs(after), None, 100).await.expect("deleted").deleted, 1);
    }

    async fn a_dead_letter_that_expires_first_leaves_its_event_with_body_and_other_deliveries(store: TestStore) {
        let event = store.with_delivery(store.with_delivery(store.event("both")));
        let delivered = event.deliveries[0].delivery.id.clone();
        store.accept_event(event.clone()).await.expect("stored");
        for claimed in store.claim("node-a").await {
            let is_delivered = claimed.delivery.id == delivered;
            let status = if is_delivered { DeliveryStatus::Delivered } else { DeliveryStatus::Dead };
            let record = store.attempt(&claimed.delivery.id, 1, "node-a", status);
            store.record_attempts(vec![record]).await.expect("recorded");
        }
        let only_dead = store.accept_one("dead").await;
        store.let_everything_die().await;
        let delivered_only = store.accept_one("delivered").await;
        for claimed in store.claim("node-a").await {
            let record = store.attempt(&claimed.delivery.id, 1, "node-a", DeliveryStatus::Delivered);
            store.record_attempts(vec![record]).await.expect("recorded");
        }
        store.clock.advance(Duration::from_secs(10));
        let cutoffs =
            RetentionCutoffs { events: NEVER, dead_letters: store.now(), quarantine: NEVER, log: NEVER, flows: NEVER, activity: NEVER };
        let mut looked_up_to = None;
        // A batch of one at a time, to the end.
        loop {
            let pass = store.delete_expired_events(&cutoffs, looked_up_to.as_ref(), 1).await.expect("deleted");
            assert_eq!(pass.deleted, 0, "no event is old enough");
            looked_up_to = pass.looked_up_to;
            if looked_up_to.is_none() {
                break;
            }
        }
        let detail = store.find_event_detail(&event.event.id).await.expect("read").expect("it stays");
        let left: Vec<_> = detail.deliveries.iter().map(|delivery| delivery.id.clone()).collect();
        assert_eq!((left, detail.attempts.len(), detail.event.reason), (vec![delivered], 1, None));
        assert!(store.find_event_body(&event.event.id).await.expect("read").is_some());
        let detail = store.find_event_detail(&only_dead.event).await.expect("read").expect("it stays");
        assert_eq!((detail.deliveries.len(), detail.attempts.len()), (0, 0));
        assert_eq!(detail.event.reason.as_deref(), Some("dead_letters_expired"));
        assert_eq!(store.find_event(&delivered_only.event).await.expect("read").expect("it stays").reason, None);
        assert_eq!(store.take_census().await.expect("counted").contradictions, Vec::<String>::new());
    }

    async fn old_events_that_stay_are_passed_over_a_bounded_number_at_a_time(store: TestStore) {
        let first = store.accept_one("first").await;
        store.let_everything_die().await;
        // Between the two there are more that wait for their delivery than one pass looks at.
        store.meddle(
            "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, org_id, resources, outcome, possible_replay, \
             held, received_at, correlation_id, headers, decision, payload_encoding, payload_bytes, payload) \
             WITH RECURSIVE n (i) AS (SELECT CAST(10001 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 16000) \
             SELECT 'evt_019c923d10dc' || CAST(i AS TEXT), 'github', CAST(i AS TEXT), 'push', 'org_1', '[]', 'routed', false, \
             false, 1771980001500, 'c', '{}', '{}', 'raw', 0, (SELECT payload FROM gw_events LIMIT 1) FROM n",
        ).await;
        store.meddle(
            "INSERT INTO gw_deliveries (id, event_id, integration_id, resource_id, workspace_id, org_id, status, attempts, \
             is_retry, due_at, replay, created_at) SELECT 'dlv_' || id, id, 'int_1', 'res_1', 'ws_1', 'org_1', 'pending', 0, false, \
             received_at, false, received_at FROM gw_events WHERE id LIKE 'evt_019c923d10dc1%'",
        ).await;
        store.clock.advance(Duration::from_secs(10));
        let mut last = store.event("last");
        last.event.outcome = EventOutcome::Ignored;
        store.accept_event(last.clone()).await.expect("stored");
        store.clock.advance(Duration::from_secs(10));

        let now = store.now();
        let cutoffs = |dead_letters| RetentionCutoffs { events: now, dead_letters, quarantine: NEVER, log: NEVER, flows: NEVER, activity: NEVER };
        let pass = async |dead_letters, after: Option<EventId>| {
            store.delete_expired_events(&cutoffs(dead_letters), after.as_ref(), 100).await.expect("deleted")
        };
        let (mut passes, mut looked_up_to, mut deleted) = (0, None, 0);
        loop {
            let before = looked_up_to.clone();
            let done = pass(NEVER, looked_up_to).await;
            passes += 1;
            deleted += done.deleted;
            looked_up_to = done.looked_up_to;
            if looked_up_to.is_none() {
                break;
            }
            assert!(looked_up_to > before, "it comes further");
        }
        assert!(passes > 1 && deleted == 1, "{deleted} of the old ones in {passes} passes");
        assert!(!exists(&store, &last.event.id).await && exists(&store, &first.event).await);
        // The next round begins anew, and finds what has expired meanwhile.
        assert_eq!(pass(now, looked_up_to).await.deleted, 1);
        assert!(!exists(&store, &first.event).await);
        assert_eq!(rows(&store, "SELECT COUNT(*) FROM gw_events").await, 6000, "the others wait still");
    }

    async fn what_is_not_an_event_expires_even_if_events_cannot_be_looked_at(store: TestStore) {
        store.append_log(&[store.entry("x")]).await.expect("appended");
        store.accept_one("d1").await;
        store.clock.advance(Duration::from_secs(1));
        let now = store.now();
        let cutoffs = RetentionCutoffs { events: now, dead_letters: now, quarantine: now, log: now, flows: now, activity: now };
        store.meddle("ALTER TABLE gw_deliveries RENAME TO elsewhere").await;
        assert!(store.delete_expired_events(&cutoffs, None, 10).await.is_err());
        assert_eq!(store.delete_expired(&cutoffs, 10).await.expect("deleted").log_entries, 1);
        store.meddle("ALTER TABLE elsewhere RENAME TO gw_deliveries").await;
        assert_eq!(store.delete_expired_events(&cutoffs, None, 10).await.expect("looked").deleted, 0);
    }

    async fn a_pass_deletes_no_more_than_its_limit_of_each_kind(store: TestStore) {
        for number in 0..5 {
            let mut event = store.event(&format!("d{number}"));
            event.event.outcome = EventOutcome::Ignored;
            store.accept_event(event).await.expect("stored");
            store.append_log(&[store.entry("x")]).await.expect("appended");
            let webhook = Quarantined {
                id: store.ids.quarantine(),
                provider: GITHUB,
                cause: "invalid_signature".into(),
                headers: "[]".into(),
                body: Bytes::new(),
                body_sha256: number.to_string(),
                headers_sha256: String::new(),
                attempts: 1,
                received_at: store.now(),
                last_at: store.now(),
            };
            let bounds = QuarantineBounds { max_count: 10, max_bytes: 10 };
            store.quarantine(&[webhook], bounds).await.expect("kept");
            store.insert_flow(&OAuthFlow { expires_at: store.now(), ..store.flow(number) }, None).await.expect("inserted");
            let run = store.heal_run("node-a");
            assert!(store.begin_heal_run(&run, START).await.expect("answered"));
            store.save_heal_run(&HealRun { status: HealStatus::Completed, ..run }).await.expect("saved");
        }
        store.clock.advance(Duration::from_secs(1));
        let now = store.now();
        let cutoffs = RetentionCutoffs { events: now, dead_letters: now, quarantine: now, log: now, flows: now, activity: now };
        let running = store.heal_run("node-a");
        assert!(store.begin_heal_run(&running, START).await.expect("answered"));
        let mut looked_up_to = None;
        for left in [2, 2, 1, 0] {
            let deleted = store.delete_expired(&cutoffs, 2).await.expect("deleted");
            assert_eq!(deleted, Deleted { quarantined: left, log_entries: left, flows: left, runs: left });
            let events = store.delete_expired_events(&cutoffs, looked_up_to.as_ref(), 2).await.expect("deleted");
            assert_eq!(events.deleted, left);
            looked_up_to = events.looked_up_to;
        }
        let kept = store.list_heal_runs(None, page(10)).await.expect("read").items;
        assert_eq!(kept, [running], "it has not ended");
    }
}

/// Retention has found the event expired and waits for its lock; whoever holds it has tried a dead letter again, in vain.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_dead_letter_has_died_again_since_it_was_looked_at_stays() {
    on_postgres(async |store: TestStore| {
        let event = store.accept_one("d1").await.event;
        store.let_everything_die().await;
        store.clock.advance(Duration::from_hours(24));
        let now = store.now();
        let cutoffs = RetentionCutoffs {
            events: now,
            dead_letters: now,
            quarantine: NEVER,
            log: NEVER,
            flows: NEVER,
            activity: NEVER,
        };
        let mut other = crate::postgres_connection(&store.url).await;
        let mut retrying = sqlx::Connection::begin(&mut other).await.expect("a transaction");
        sqlx::query("SELECT id FROM gw_events FOR UPDATE").execute(&mut *retrying).await.expect("locked");
        let retention = store.store.clone();
        let deleting = tokio::spawn(async move { retention.delete_expired_events(&cutoffs, None, 100).await });
        let waits =
            "SELECT COUNT(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        let mut observer = crate::postgres_connection(&store.url).await;
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut observer).await.expect("answered") {
            tokio::task::yield_now().await;
        }
        let dies = "UPDATE gw_deliveries SET finished_at = $1";
        sqlx::query(dies).bind(now.0).execute(&mut *retrying).await.expect("written");
        retrying.commit().await.expect("unlocked");
        assert_eq!(deleting.await.expect("no panic").expect("answered").deleted, 0);
        assert!(exists(&store, &event).await);
    })
    .await;
}
