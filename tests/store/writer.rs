//! The writer: group commit, races, and rows that cannot be stored.

use std::sync::atomic::Ordering;

use signalbox::{
    model::{delivery::DeliveryStatus, event::EventOutcome, ids::DeliveryId},
    store::{Accepted, StoreError},
};

store_suite! {
    async fn sixty_four_copies_of_one_webhook_at_once_make_one_event(store: TestStore) {
        let copies = (0..64).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let event = store.with_delivery(store.event("the one"));
                let id = event.event.id.clone();
                (id, store.accept_event(event).await.expect("answered"))
            })
        });
        let answers = futures_util::future::join_all(copies).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("no panic")).collect();
        let stored: Vec<_> = answers.iter().filter(|(_, answer)| matches!(answer, Accepted::New { .. })).collect();
        assert_eq!(stored.len(), 1);
        let first = &stored[0].0;
        assert!(answers.iter().all(|(id, answer)| id == first || *answer == Accepted::Duplicate { of: first.clone() }));
        let census = store.take_census().await.expect("counted");
        assert_eq!((census.events.get("routed"), census.deliveries.get("pending")), (Some(&1), Some(&1)));
    }

    async fn many_webhooks_at_once_share_commits(store: TestStore) {
        let events = (0..200).map(|number| {
            let (store, event) = (store.clone(), store.with_delivery(store.event(&format!("d{number}"))));
            tokio::spawn(async move { store.accept_event(event).await.expect("stored") })
        });
        for answer in futures_util::future::join_all(events).await {
            assert_eq!(answer.expect("no panic"), Accepted::New { possible_replay: false });
        }
        let (batches, events) =
            (store.commits.batches.load(Ordering::SeqCst), store.commits.events.load(Ordering::SeqCst));
        assert_eq!(events, 200);
        assert!(batches < 200, "{batches} commits for 200 events");
        let census = store.take_census().await.expect("counted");
        assert_eq!((census.events.get("routed"), census.deliveries.get("pending")), (Some(&200), Some(&200)));
    }

    async fn a_lone_webhook_commits_alone_and_at_once(store: TestStore) {
        store.accept_one("d1").await;
        assert_eq!(store.commits.batches.load(Ordering::SeqCst), 1);
        assert_eq!(store.commits.events.load(Ordering::SeqCst), 1);
        store.claim("node-a").await;
        let ids = store.list_due_destinations(signalbox::model::clock::EpochMs(i64::MAX), None, 1).await.expect("read");
        assert_eq!(ids.len(), 1);
        assert_eq!(store.commits.attempts.load(Ordering::SeqCst), 0);
    }

    async fn a_row_that_cannot_be_stored_fails_alone(store: TestStore) {
        // Two deliveries of one id: the second cannot be inserted, so its event is not either.
        let taken = store.accept_one("taken").await.id;
        let events = (0..40).map(|number| {
            let mut event = store.with_delivery(store.event(&format!("d{number}")));
            if number == 17 {
                event.deliveries[0].delivery.id = taken.clone();
            }
            let store = store.clone();
            tokio::spawn(async move { store.accept_event(event).await })
        });
        let answers = futures_util::future::join_all(events).await;
        for (number, answer) in answers.into_iter().enumerate() {
            let answer = answer.expect("no panic");
            if number == 17 {
                assert!(matches!(answer, Err(StoreError::Driver(_))), "{answer:?}");
            } else {
                assert_eq!(answer.expect("stored"), Accepted::New { possible_replay: false });
            }
        }
        let census = store.take_census().await.expect("counted");
        assert_eq!((census.events.get("routed"), census.deliveries.get("pending")), (Some(&40), Some(&40)));
        store.accept_one("afterwards").await;
    }

    async fn an_event_and_its_deliveries_are_stored_together_or_not_at_all(store: TestStore) {
        let taken = store.accept_one("taken").await.id;
        let mut event = store.with_delivery(store.with_delivery(store.event("d1")));
        event.deliveries[1].delivery.id = taken;
        store.accept_event(event.clone()).await.expect_err("it cannot be stored");
        assert_eq!(store.find_event(&event.event.id).await.expect("read"), None);
        // A retry of the provider is processed: nothing remembers the failure.
        event.deliveries[1].delivery.id = store.ids.delivery();
        let accepted = store.accept_event(event.clone()).await.expect("stored");
        assert_eq!(accepted, Accepted::New { possible_replay: false });
        let detail = store.find_event_detail(&event.event.id).await.expect("read").expect("there");
        assert_eq!(detail.deliveries.len(), 2);
    }

    async fn an_event_with_a_thousand_deliveries_is_stored_whole(store: TestStore) {
        let mut event = store.event("wide");
        for _ in 0..1_000 {
            event = store.with_delivery(event);
        }
        store.accept_event(event).await.expect("stored");
        assert_eq!(store.take_census().await.expect("counted").deliveries.get("pending"), Some(&1_000));
    }

    async fn webhooks_and_attempts_of_every_kind_go_through_one_writer(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.claim("node-a").await;
        let delivered = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Delivered);
        let stray = store.attempt(&DeliveryId::from_raw("dlv_none"), 1, "node-a", DeliveryStatus::Delivered);
        store.contradicts_itself();
        let mut unrouted = store.event("d2");
        unrouted.event.outcome = EventOutcome::Unrouted;
        let (recorded, accepted) = tokio::join!(
            store.record_attempts(vec![delivered, stray]),
            store.accept_event(unrouted),
        );
        recorded.expect("recorded");
        assert_eq!(accepted.expect("stored"), Accepted::New { possible_replay: false });
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Delivered);
    }

    async fn a_closed_store_has_committed_what_it_took_and_takes_no_more(store: TestStore) {
        let beside = store.open_beside("node-b").await.expect("it opens");
        let events = (0..50).map(|number| {
            let (store, event) = (store.clone(), store.with_delivery(store.event(&format!("d{number}"))));
            tokio::spawn(async move { store.accept_event(event).await })
        });
        let events: Vec<_> = events.collect();
        store.accept_one("before").await;
        store.close().await;
        let mut stored = 1;
        for event in events {
            match event.await.expect("no panic") {
                Ok(_) => stored += 1,
                Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
            }
        }
        assert_eq!(beside.take_census().await.expect("counted").events.get("routed"), Some(&stored));
        let refused = store.accept_event(store.event("after")).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        beside.close().await;
        store.end_early();
    }
}
