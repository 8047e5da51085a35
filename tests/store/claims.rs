//! Claiming and leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use signalbox::{
    model::{
        clock::EpochMs,
        delivery::DeliveryStatus,
        ids::{DeliveryId, DestinationId},
    },
    store::{ClaimRequest, Claimed, DueDestination, MAX_CLAIMED_BYTES, NewEvent},
};

use crate::{TestStore, fixtures::destination};

impl TestStore {
    /// An event with a body of that size, and one delivery that is due now.
    fn large_event(&self, provider_delivery_id: &str, bytes: usize) -> NewEvent {
        let event = NewEvent { body: vec![b' '; bytes].into(), ..self.event(provider_delivery_id) };
        self.with_delivery(event)
    }

    async fn accept_large(&self, provider_delivery_id: &str, bytes: usize) {
        self.accept_event(self.large_event(provider_delivery_id, bytes)).await.expect("it is stored");
        self.clock.advance(Duration::from_millis(1));
    }

    async fn claim_due_now(&self) -> Claimed {
        self.store.claim_deliveries(&self.claim_of("node-a")).await.expect("claiming works")
    }
}

/// The provider's ids of what was claimed, in order.
fn names(claimed: &Claimed) -> Vec<&str> {
    claimed.deliveries.iter().map(|claimed| claimed.event.provider_delivery_id.as_str()).collect()
}

store_suite! {
    async fn a_claimed_delivery_comes_with_its_event_and_body_and_is_leased(store: TestStore) {
        let event = store.with_delivery(store.event("d1"));
        store.accept_event(event.clone()).await.expect("stored");
        let claimed = store.claim("node-a").await;
        assert_eq!(claimed.len(), 1);
        let claimed = &claimed[0];
        assert_eq!((&claimed.event, &claimed.body), (&event.event, &event.body));
        assert_eq!(claimed.content_type, event.content_type);
        let lease_until = EpochMs(store.now().0 + 30_000);
        assert_eq!(claimed.delivery.lease_until, Some(lease_until));
        assert_eq!(claimed.delivery.due_at, lease_until);
        assert_eq!(store.delivery(&claimed.delivery.id).await, claimed.delivery, "committed before it is answered");
        assert_eq!(store.claim("node-b").await.len(), 0, "leased to somebody else");
        store.clock.advance(Duration::from_secs(30));
        assert_eq!(store.claim("node-b").await.len(), 1, "the lease ended by itself");
    }

    async fn each_of_several_that_are_claimed_together_comes_with_its_own_events_body(store: TestStore) {
        let mut bodies = BTreeMap::new();
        for (number, bytes) in [(1, 10), (2, 5_000), (3, 0), (4, 300_000)] {
            let body = format!(r#"{{"event":{number},"text":"{}"}}"#, "x".repeat(bytes));
            let event = NewEvent { body: body.clone().into(), ..store.event(&format!("d{number}")) };
            // To two integrations each: their bodies are read once.
            let event = store.with_delivery(store.with_delivery(event));
            for new in &event.deliveries {
                bodies.insert(new.delivery.id.clone(), (event.event.id.clone(), body.clone()));
            }
            store.accept_event(event).await.expect("stored");
        }
        let claimed = store.claim("node-a").await;
        assert_eq!(claimed.len(), bodies.len());
        for claimed in claimed {
            let (event, body) = &bodies[&claimed.delivery.id];
            assert_eq!((&claimed.event.id, &claimed.delivery.event), (event, event));
            assert!(claimed.body == body.as_bytes(), "{} has another event's body", claimed.delivery.id);
        }
    }

    async fn concurrent_claimers_never_get_the_same_delivery(store: TestStore) {
        for number in 0..60 {
            store.accept_one(&format!("d{number}")).await;
        }
        let claimers = (0..8).map(|claimer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let request = ClaimRequest { first_tries: 5, ..store.claim_of(&format!("node-{claimer}")) };
                    let claimed = store.claim_deliveries(&request).await.expect("claiming works").deliveries;
                    if claimed.is_empty() {
                        return mine;
                    }
                    mine.extend(claimed.into_iter().map(|claimed| claimed.delivery.id));
                }
            })
        });
        let claimed = futures_util::future::join_all(claimers).await;
        let claimed: Vec<DeliveryId> = claimed.into_iter().flat_map(|mine| mine.expect("no panic")).collect();
        assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), claimed.len(), "one was claimed twice");
        // A claimer that found every row locked by others stops early; nothing is lost by that.
        let left = store.claim("the last").await.len();
        assert_eq!(claimed.len() + left, 60);
    }

    async fn first_tries_are_claimed_before_retries_and_each_within_its_limit(store: TestStore) {
        for name in ["failed 1", "failed 2"] {
            store.accept_one(name).await;
        }
        for claimed in store.claim("node-a").await {
            let failed = store.attempt(&claimed.delivery.id, 1, "node-a", DeliveryStatus::Pending);
            store.record_attempts(vec![failed]).await.expect("recorded");
        }
        store.clock.advance(Duration::from_secs(10));
        for name in ["fresh 1", "fresh 2", "fresh 3"] {
            store.accept_one(name).await;
        }
        let claim = async |first_tries, retries, in_all| {
            let request = ClaimRequest { first_tries, retries, in_all, ..store.claim_of("node-a") };
            let claimed = store.claim_deliveries(&request).await.expect("claiming works").deliveries;
            claimed.into_iter().map(|claimed| claimed.delivery.attempts).collect::<Vec<_>>()
        };
        assert_eq!(claim(0, 0, 5).await, [0; 0]);
        assert_eq!(claim(5, 1, 3).await, [0, 0, 1], "first tries take what retries leave");
        assert_eq!(claim(0, 5, 5).await, [1]);
        assert_eq!(claim(5, 0, 5).await, [0]);
    }

    async fn only_what_is_due_to_that_destination_is_claimed(store: TestStore) {
        let mut later = store.with_delivery(store.event("later"));
        later.deliveries[0].delivery.due_at = EpochMs(store.now().0 + 1);
        let mut elsewhere = store.with_delivery(store.event("elsewhere"));
        elsewhere.deliveries[0].delivery.destination = Some(DestinationId::from_raw("dst_2"));
        let mut nowhere = store.with_delivery(store.event("nowhere"));
        nowhere.deliveries[0].delivery.destination = None;
        nowhere.deliveries[0].delivery.reason = Some("no_destination".into());
        for event in [later, elsewhere, nowhere] {
            store.accept_event(event).await.expect("stored");
        }
        assert_eq!(store.claim("node-a").await.len(), 0);
        let due = store.list_due_destinations(store.now(), None, 10).await.expect("read");
        assert_eq!(due, [DueDestination { destination: DestinationId::from_raw("dst_2"), due_at: store.now() }]);
    }

    async fn destinations_with_something_due_are_listed_in_order_with_their_earliest_time(store: TestStore) {
        let due_to = |destination: &str, due_at, attempts| {
            let mut event = store.with_delivery(store.event(&format!("{destination} {due_at} {attempts}")));
            let delivery = &mut event.deliveries[0].delivery;
            delivery.destination = Some(DestinationId::from_raw(destination));
            delivery.due_at = EpochMs(store.now().0 + due_at);
            delivery.attempts = attempts;
            event
        };
        store.contradicts_itself();
        for event in [
            due_to("dst_c", 0, 0), due_to("dst_c", -5, 1), due_to("dst_c", 9, 1),
            due_to("dst_a", -1, 0), due_to("dst_a", -2, 0),
            due_to("dst_b", 5, 0), due_to("dst_b", 6, 2),
            due_to("dst_d", -3, 2),
        ] {
            store.accept_event(event).await.expect("stored");
        }
        let list = async |at: i64, after: Option<&str>, limit| {
            let after = after.map(DestinationId::from_raw);
            let due = store.list_due_destinations(EpochMs(store.now().0 + at), after.as_ref(), limit).await;
            let due = due.expect("read").into_iter();
            due.map(|due| (due.destination.as_str().to_owned(), due.due_at.0 - store.now().0)).collect::<Vec<_>>()
        };
        let all = [("dst_a".to_owned(), -2), ("dst_c".to_owned(), -5), ("dst_d".to_owned(), -3)];
        assert_eq!(list(0, None, 10).await, all);
        assert_eq!(list(0, None, 2).await, all[..2]);
        assert_eq!(list(0, Some("dst_a"), 10).await, all[1..]);
        assert_eq!(list(0, Some("dst_d"), 10).await, []);
        assert_eq!(list(-4, None, 10).await, all[1..2]);
        assert_eq!(list(5, None, 10).await.len(), 4);
    }

    async fn a_delivery_accepted_with_a_lease_is_its_nodes_until_the_lease_ends(store: TestStore) {
        let mut event = store.with_delivery(store.event("d1"));
        let lease_until = EpochMs(store.now().0 + 5_000);
        event.deliveries[0].delivery.lease_until = Some(lease_until);
        event.deliveries[0].delivery.due_at = lease_until;
        event.deliveries[0].lease_owner = Some("node-a".into());
        let id = event.deliveries[0].delivery.id.clone();
        store.accept_event(event).await.expect("stored");
        assert_eq!(store.claim("node-b").await.len(), 0);
        assert_eq!(store.delivery(&id).await.lease_until, Some(lease_until));
        store.clock.advance(Duration::from_secs(5));
        assert_eq!(store.claim("node-b").await.len(), 1);
    }

    async fn leases_are_given_up_one_by_one_or_all_together_and_by_their_owner_only(store: TestStore) {
        for number in 0..4 {
            store.accept_one(&format!("d{number}")).await;
        }
        let claimed: Vec<_> = store.claim("node-a").await.into_iter().map(|claimed| claimed.delivery.id).collect();
        let now = store.now();
        assert_eq!(store.release_leases("node-b", None, now).await.expect("answered"), 0);
        assert_eq!(store.release_leases("node-b", Some(&claimed), now).await.expect("answered"), 0);
        assert_eq!(store.release_leases("node-a", Some(&claimed[..1]), now).await.expect("released"), 1);
        let released = store.delivery(&claimed[0]).await;
        assert_eq!((released.due_at, released.lease_until), (now, None));
        assert_eq!(store.claim("node-b").await.len(), 1);
        assert_eq!(store.release_leases("node-a", Some(&[]), now).await.expect("answered"), 0);
        assert_eq!(store.release_leases("node-a", None, now).await.expect("released"), 3);
        assert_eq!(store.claim("node-c").await.len(), 3);
    }

    async fn what_is_given_up_keeps_its_place_before_what_came_later(store: TestStore) {
        let older = store.accept_one("older").await;
        store.claim("node-a").await;
        store.clock.advance(Duration::from_secs(1));
        let newer = store.accept_one("newer").await;
        store.clock.advance(Duration::from_secs(1));
        assert_eq!(store.release_leases("node-a", None, store.now()).await.expect("released"), 1);
        let claimed: Vec<_> = store.claim("node-b").await.into_iter().map(|claimed| claimed.delivery.id).collect();
        assert_eq!(claimed, [older.id, newer.id]);
    }

    async fn an_attempt_settles_its_delivery_and_gives_the_lease_back(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.claim("node-a").await;
        let failed = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Pending);
        store.record_attempts(vec![failed.clone()]).await.expect("recorded");
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.status, read.attempts), (DeliveryStatus::Pending, 1));
        assert_eq!((read.due_at, read.lease_until), (failed.due_at, None));
        assert_eq!(read.reason.as_deref(), Some("http_status"));

        store.clock.advance(Duration::from_secs(10));
        assert_eq!(store.claim("node-a").await.len(), 1);
        let delivered = store.attempt(&delivery.id, 2, "node-a", DeliveryStatus::Delivered);
        store.record_attempts(vec![delivered.clone()]).await.expect("recorded");
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.status, read.attempts, read.reason), (DeliveryStatus::Delivered, 2, None));
        assert_eq!(read.finished_at, Some(store.now()));
        // Written again, as after a lost answer: nothing changes.
        store.record_attempts(vec![delivered.clone(), failed.clone()]).await.expect("recorded");
        let detail = store.find_event_detail(&delivery.event).await.expect("read").expect("there");
        assert_eq!(detail.deliveries[0].attempts, 2);
        let mut attempts = vec![failed.attempt, delivered.attempt];
        for attempt in &mut attempts {
            attempt.response_body = Some("with a zero \u{fffd}".into());
        }
        assert_eq!(detail.attempts, attempts);
        store.record_attempts(vec![]).await.expect("nothing to record");
    }

    async fn an_attempt_of_a_node_that_lost_its_lease_is_recorded_and_changes_nothing(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.claim("node-a").await;
        store.clock.advance(Duration::from_secs(31));
        assert_eq!(store.claim("node-b").await.len(), 1, "taken over");
        let late = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Dead);
        store.record_attempts(vec![late]).await.expect("recorded");
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.status, read.attempts), (DeliveryStatus::Pending, 0));
        assert!(read.lease_until.is_some(), "still node-b's");
        let detail = store.find_event_detail(&delivery.event).await.expect("read").expect("there");
        assert_eq!(detail.attempts.len(), 1);
        let delivered = store.attempt(&delivery.id, 1, "node-b", DeliveryStatus::Delivered);
        store.record_attempts(vec![delivered]).await.expect("recorded");
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Delivered);
    }

    async fn an_attempt_whose_lease_was_given_up_meanwhile_still_counts(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.claim("node-a").await;
        store.release_leases("node-a", None, store.now()).await.expect("released");
        let delivered = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Delivered);
        store.record_attempts(vec![delivered]).await.expect("recorded");
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Delivered);
        assert_eq!(store.claim("node-b").await.len(), 0);
    }

    async fn many_attempts_are_recorded_at_once(store: TestStore) {
        for number in 0..90 {
            store.accept_one(&format!("d{number}")).await;
        }
        let claimed = store.claim("node-a").await;
        let records = claimed
            .iter()
            .map(|claimed| store.attempt(&claimed.delivery.id, 1, "node-a", DeliveryStatus::Delivered))
            .collect();
        store.record_attempts(records).await.expect("recorded");
        assert_eq!(store.take_census().await.expect("counted").deliveries.get("delivered"), Some(&90));
        assert_eq!(store.list_due_destinations(EpochMs(i64::MAX), None, 5).await.expect("read"), []);
        assert_eq!(claimed[0].delivery.destination, Some(destination()));
    }

    async fn what_cannot_be_read_waits_for_its_lease_to_end_and_the_others_are_claimed(store: TestStore) {
        store.contradicts_itself();
        for name in ["of another provider", "does not decode", "not a number", "without its event", "fine"] {
            store.accept_one(name).await;
            store.clock.advance(Duration::from_millis(1));
        }
        store.meddle("UPDATE gw_events SET provider = 'acme' WHERE provider_delivery_id = 'of another provider'").await;
        store.meddle("UPDATE gw_events SET payload_bytes = payload_bytes + 1 \
                      WHERE provider_delivery_id = 'does not decode'").await;
        store.meddle("UPDATE gw_deliveries SET attempts = -1 WHERE event_id = \
                      (SELECT id FROM gw_events WHERE provider_delivery_id = 'not a number')").await;
        store.meddle("DELETE FROM gw_events WHERE provider_delivery_id = 'without its event'").await;

        let claimed = store.claim_due_now().await;
        assert_eq!(names(&claimed), ["fine"]);
        assert!(!claimed.is_all, "what could not be read took places that others may want");
        let claimed = store.claim_due_now().await;
        assert_eq!((names(&claimed), claimed.is_all), (vec![], true), "they are leased, and stand before nobody");

        store.meddle("UPDATE gw_events SET provider = 'github'").await;
        store.clock.advance(Duration::from_secs(30));
        let claimed = store.claim_due_now().await;
        let names = BTreeSet::from_iter(names(&claimed));
        assert_eq!(names, BTreeSet::from(["of another provider", "fine"]), "it comes again when the lease has ended");
    }

    async fn a_claim_takes_as_many_bodies_as_fit_and_says_that_more_are_due(store: TestStore) {
        let mut shared = store.large_event("shared", MAX_CLAIMED_BYTES / 2);
        shared = store.with_delivery(shared);
        store.accept_event(shared).await.expect("stored");
        store.clock.advance(Duration::from_millis(1));
        store.accept_large("fits", MAX_CLAIMED_BYTES / 2).await;
        store.accept_large("does not", 1_000).await;

        let claimed = store.claim_due_now().await;
        assert_eq!(names(&claimed), ["shared", "shared", "fits"], "deliveries of one event share its body");
        assert!(!claimed.is_all);
        let claimed = store.claim_due_now().await;
        assert_eq!((names(&claimed), claimed.is_all), (vec!["does not"], true), "it was left due");
    }

    async fn a_body_that_is_larger_than_a_claim_is_claimed_without_others(store: TestStore) {
        store.accept_large("small", 1_000).await;
        store.accept_large("too large", MAX_CLAIMED_BYTES + 1).await;
        store.accept_large("the next", 1_000).await;
        for expected in ["small", "too large", "the next"] {
            let claimed = store.claim_due_now().await;
            assert_eq!((names(&claimed), claimed.is_all), (vec![expected], expected == "the next"));
        }
    }

    async fn first_tries_and_retries_share_the_bytes_of_a_claim_in_turns(store: TestStore) {
        for name in ["retry 1", "retry 2", "retry 3"] {
            store.accept_large(name, MAX_CLAIMED_BYTES / 4).await;
        }
        for claimed in store.claim("node-a").await {
            let failed = store.attempt(&claimed.delivery.id, 1, "node-a", DeliveryStatus::Pending);
            store.record_attempts(vec![failed]).await.expect("recorded");
            store.clock.advance(Duration::from_millis(1));
        }
        store.clock.advance(Duration::from_secs(10));
        for name in ["first 1", "first 2", "first 3"] {
            store.accept_large(name, MAX_CLAIMED_BYTES / 4).await;
        }
        let claimed = store.claim_due_now().await;
        assert_eq!(names(&claimed), ["first 1", "first 2", "retry 1", "retry 2"]);
        assert!(!claimed.is_all);
        let claimed = store.claim_due_now().await;
        assert_eq!((names(&claimed), claimed.is_all), (vec!["first 3", "retry 3"], true));
    }
}
