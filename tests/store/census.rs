//! The census.

use std::collections::{BTreeMap, BTreeSet};

use signalbox::model::delivery::DeliveryStatus;

use crate::TestStore;

/// Everything the census looks for. The list is the store's own affair and is read where it stands.
fn subjects() -> BTreeSet<String> {
    let source = include_str!("../../src/store/queries/census.rs");
    let (_, list) = source.split_once("const CONTRADICTIONS").expect("the list begins");
    let (list, _) = list.split_once("\n];").expect("the list ends");
    list.split("\n    (\n").skip(1).filter_map(|entry| Some(entry.split('"').nth(1)?.to_owned())).collect()
}

/// The subjects of what is found, each of one row.
async fn find(store: &TestStore) -> Vec<String> {
    let found = store.take_census().await.expect("counted").contradictions;
    let subject_of = |contradiction: &str| {
        let (subject, _) = contradiction.strip_prefix("1 ")?.split_once(", such as ")?;
        Some(subject.to_owned())
    };
    found.iter().map(|contradiction| subject_of(contradiction).expect(contradiction)).collect()
}

store_suite! {
    async fn the_census_counts_by_state(store: TestStore) {
        store.accept_one("d1").await;
        let second = store.accept_one("d2").await;
        store.claim("node-a").await;
        let delivered = store.attempt(&second.id, 1, "node-a", DeliveryStatus::Delivered);
        store.record_attempts(vec![delivered]).await.expect("recorded");
        let census = store.take_census().await.expect("counted");
        assert_eq!(census.events, BTreeMap::from([("routed".to_owned(), 2)]));
        assert_eq!(census.deliveries, BTreeMap::from([("pending".to_owned(), 1), ("delivered".to_owned(), 1)]));
        assert_eq!(census.contradictions, Vec::<String>::new());
    }

    async fn every_contradiction_is_found_and_named(store: TestStore) {
        store.contradicts_itself();
        store.accept_one("d1").await;
        store.insert_installation_of("4711").await;
        store.meddle("UPDATE gw_installations SET status = 'revoked'").await;
        store.meddle(
            "INSERT INTO gw_teardowns (installation_id, org_id, reason, status, due_at, started_at, updated_at) \
             SELECT id, org_id, 'disconnected', 'completed', 1, 1, 1 FROM gw_installations",
        ).await;
        assert_eq!(find(&store).await, Vec::<String>::new());
        let mut seen = BTreeSet::new();
        for (meddling, mending, subject) in [
            (
                "UPDATE gw_events SET outcome = 'filtered'",
                "UPDATE gw_events SET outcome = 'routed'",
                "events with a delivery that are not routed",
            ),
            (
                "UPDATE gw_deliveries SET status = 'delivered', finished_at = 1",
                "UPDATE gw_deliveries SET status = 'pending', finished_at = NULL",
                "delivered deliveries without a successful attempt",
            ),
            (
                "UPDATE gw_deliveries SET status = 'dead', finished_at = 1",
                "UPDATE gw_deliveries SET status = 'pending', finished_at = NULL",
                "dead deliveries without a reason",
            ),
            (
                "UPDATE gw_deliveries SET finished_at = 1",
                "UPDATE gw_deliveries SET finished_at = NULL",
                "open deliveries with an end",
            ),
            (
                "UPDATE gw_deliveries SET status = 'dead', reason = 'gone'",
                "UPDATE gw_deliveries SET status = 'pending', reason = NULL",
                "finished deliveries without an end",
            ),
            (
                "UPDATE gw_deliveries SET status = 'dead', reason = 'gone', finished_at = 1, lease_owner = 'n'",
                "UPDATE gw_deliveries SET status = 'pending', reason = NULL, finished_at = NULL, lease_owner = NULL",
                "leased deliveries that are not pending",
            ),
            (
                "UPDATE gw_deliveries SET status = 'held'",
                "UPDATE gw_deliveries SET status = 'pending'",
                "held deliveries of events that are not held",
            ),
            (
                "UPDATE gw_deliveries SET attempts = 1, is_retry = true",
                "UPDATE gw_deliveries SET attempts = 0, is_retry = false",
                "deliveries that count more attempts than there are",
            ),
            (
                "UPDATE gw_deliveries SET is_retry = true",
                "UPDATE gw_deliveries SET is_retry = false",
                "deliveries whose due time is for first tries though they were tried",
            ),
            (
                "INSERT INTO gw_tokens (installation_id, access_token_sealed, created_at, updated_at) \
                 SELECT id, 'sealed', 1, 1 FROM gw_installations",
                "DELETE FROM gw_tokens",
                "tokens of installations that were torn down",
            ),
            (
                "INSERT INTO gw_resources (id, installation_id, provider_resource_id, kind, status, created_at, updated_at) \
                 SELECT 'res_1', id, 'r1', 'repository', 'active', 1, 1 FROM gw_installations",
                "DELETE FROM gw_resources",
                "active resources of installations that were torn down",
            ),
        ] {
            store.meddle(meddling).await;
            let found = find(&store).await;
            assert_eq!(found, [subject]);
            seen.extend(found);
            store.meddle(mending).await;
        }
        store.meddle(
            "INSERT INTO gw_attempts (delivery_id, id, number, started_at, duration_ms, result) \
             VALUES ('dlv_none', 'att_1', 1, 1, 1, 'timeout')",
        ).await;
        store.meddle("DELETE FROM gw_events").await;
        let found = find(&store).await;
        assert_eq!(found, ["deliveries without an event", "attempts without a delivery"]);
        seen.extend(found);
        store.meddle("DELETE FROM gw_attempts").await;
        store.meddle("DELETE FROM gw_deliveries").await;
        let mut routed = store.event("d2");
        routed.deliveries.clear();
        store.accept_event(routed).await.expect("stored");
        let found = find(&store).await;
        assert_eq!(found, ["routed events without a delivery"]);
        seen.extend(found);
        assert_eq!(seen, subjects(), "each has to be provoked here");
    }
}
