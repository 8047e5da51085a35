//! The census.

use std::collections::BTreeMap;

use signalbox::model::delivery::DeliveryStatus;

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
        ] {
            store.meddle(meddling).await;
            let found = store.take_census().await.expect("counted").contradictions;
            assert!(found.len() == 1 && found[0].starts_with(&format!("1 {subject}, such as ")), "{found:?}");
            store.meddle(mending).await;
        }
        store.meddle(
            "INSERT INTO gw_attempts (delivery_id, id, number, started_at, duration_ms, result) \
             VALUES ('dlv_none', 'att_1', 1, 1, 1, 'timeout')",
        ).await;
        store.meddle("DELETE FROM gw_events").await;
        let found = store.take_census().await.expect("counted").contradictions;
        assert!(found.len() == 2 && found[0].contains("without an event"), "{found:?}");
        assert!(found[1].contains("attempts without a delivery"), "{found:?}");
        store.meddle("DELETE FROM gw_attempts").await;
        store.meddle("DELETE FROM gw_deliveries").await;
        let mut routed = store.event("d2");
        routed.deliveries.clear();
        store.accept_event(routed).await.expect("stored");
        let found = store.take_census().await.expect("counted").contradictions;
        assert!(found.len() == 1 && found[0].contains("routed events without a delivery"), "{found:?}");
    }
}
