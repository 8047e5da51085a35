//! Deliveries mended: retried, readdressed.

use std::time::Duration;

use signalbox::{
    model::{
        clock::{Clock as _, EpochMs, SystemClock},
        delivery::DeliveryStatus,
        destination::DestinationScope,
        ids::{DeliveryId, DestinationId, OrgId},
    },
    store::{AttemptRecord, ClaimRequest, Setback, ToReaddress},
};

use crate::{
    TestStore,
    fixtures::{destination, org, page},
};

const DAY: Duration = Duration::from_hours(24);
const UNDIRECTED: ToReaddress<'static> = ToReaddress::Undirected { since: None };

impl TestStore {
    /// Stores an event with a delivery that is due then, perhaps because node-a's lease ends.
    async fn accept_due(&self, name: &str, due_at: EpochMs, attempts: u32, leased: bool) -> DeliveryId {
        let mut event = self.with_delivery(self.event(name));
        let new = &mut event.deliveries[0];
        let id = new.delivery.id.clone();
        (new.delivery.due_at, new.delivery.attempts) = (due_at, attempts);
        if attempts > 0 {
            // Nobody made them.
            self.contradicts_itself();
        }
        new.delivery.lease_until = leased.then_some(due_at);
        new.lease_owner = leased.then(|| "node-a".into());
        self.accept_event(event).await.expect("stored");
        id
    }

    /// Makes good a clock that was set back; how many are due earlier.
    async fn hasten(&self, by: Duration, retries_within: Duration) -> u64 {
        let setback = Setback { by, retries_within };
        let (mut hastened, mut place) = (0, None);
        loop {
            let portion = self.hasten_deliveries(&setback, place.as_ref(), self.now()).await.expect("written");
            hastened += portion.deliveries;
            place = portion.looked_up_to;
            if place.is_none() {
                return hastened;
            }
        }
    }

    async fn due(&self, ids: &[DeliveryId]) -> Vec<EpochMs> {
        let mut due = Vec::new();
        for id in ids {
            due.push(self.delivery(id).await.due_at);
        }
        due
    }
}

store_suite! {
    async fn a_dead_delivery_is_made_pending_again_with_all_of_its_schedule_before_it(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.let_everything_die().await;
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Dead);
        store.clock.advance(Duration::from_secs(1));
        let entry = store.entry("delivery.retried");
        assert!(store.retry_delivery(&delivery.id, Some(&destination()), store.now(), &entry).await.expect("answered"));
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.status, read.due_at), (DeliveryStatus::Pending, store.now()));
        assert_eq!((read.attempts, read.attempts_of_schedule()), (1, 0), "what was tried stays counted");
        assert_eq!((read.reason, read.finished_at), (None, None));
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items, [entry]);
        let request = ClaimRequest { retries: 0, ..store.claim_of("node-a") };
        let claimed = store.claim_deliveries(&request).await.expect("claimed").deliveries;
        assert_eq!(claimed.len(), 1, "as a first try");
        let failed = store.attempt(&delivery.id, 2, "node-a", DeliveryStatus::Pending);
        let failed = AttemptRecord { attempts_before_retry: claimed[0].delivery.attempts_before_retry, ..failed };
        store.record_attempts(vec![failed]).await.expect("recorded");
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.attempts, read.attempts_of_schedule()), (2, 1));
        let contradictions = store.take_census().await.expect("taken").contradictions;
        assert!(contradictions.is_empty(), "{contradictions:?}");
    }

    async fn a_delivery_in_flight_held_or_delivered_is_not_retried(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        let retry = async || {
            store.retry_delivery(&delivery.id, Some(&destination()), store.now(), &store.entry("delivery.retried")).await.expect("answered")
        };
        assert!(retry().await, "pending and waiting: due now");
        store.claim("node-a").await;
        assert!(!retry().await, "in flight");
        store.clock.advance(Duration::from_secs(31));
        assert!(retry().await, "its lease has ended");
        store.claim("node-a").await;
        let delivered = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Delivered);
        store.record_attempts(vec![delivered]).await.expect("recorded");
        assert!(!retry().await, "delivered");
        let mut held = store.with_delivery(store.event("d2"));
        held.event.held = true;
        held.deliveries[0].delivery.status = DeliveryStatus::Held;
        let waiting = held.deliveries[0].delivery.id.clone();
        store.accept_event(held).await.expect("stored");
        assert!(!store.retry_delivery(&waiting, Some(&destination()), store.now(), &store.entry("x")).await.expect("answered"), "held");
        let nothing = DeliveryId::from_raw("dlv_none");
        assert!(!store.retry_delivery(&nothing, Some(&destination()), store.now(), &store.entry("x")).await.expect("answered"));
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 2, "only what happened");
    }

    async fn waiting_deliveries_go_to_the_narrowest_destination_there_is(store: TestStore) {
        let mut event = store.with_delivery(store.event("d1"));
        event.deliveries[0].delivery.destination = None;
        event.deliveries[0].delivery.reason = Some("no_destination".into());
        let id = event.deliveries[0].delivery.id.clone();
        store.accept_event(event).await.expect("stored");
        let fallback = DestinationId::configured_default();
        store.clock.advance(Duration::from_secs(1));

        let readdress = async |org: Option<&OrgId>, fallback: Option<&DestinationId>| {
            let which = org.map_or(UNDIRECTED, ToReaddress::OfOrg);
            store.readdress_deliveries(which, fallback, store.now()).await.expect("readdressed")
        };
        assert_eq!(readdress(Some(&org()), None).await, 0, "nowhere to go yet");
        assert_eq!(readdress(None, Some(&fallback)).await, 1);
        let read = store.delivery(&id).await;
        assert_eq!((read.destination, read.reason, read.due_at), (Some(fallback.clone()), None, store.now()));

        for (scope, scope_id) in [
            (DestinationScope::Org, "org_1"),
            (DestinationScope::Workspace, "ws_1"),
            (DestinationScope::Integration, "int_1"),
        ] {
            let destination = store.destination_for(scope, scope_id);
            store.save_destination(&destination, None, &store.entry("x")).await.expect("saved");
            assert_eq!(readdress(None, Some(&fallback)).await, 0, "only those without one");
            assert_eq!(readdress(Some(&OrgId::from_raw("org_2")), None).await, 0, "another org's");
            assert_eq!(readdress(Some(&org()), Some(&fallback)).await, 1);
            assert_eq!(readdress(Some(&org()), Some(&fallback)).await, 0, "nothing left to do");
            assert_eq!(store.delivery(&id).await.destination, Some(destination.id));
        }
    }

    async fn where_only_what_fell_due_lately_is_asked_for_nothing_else_is_readdressed(store: TestStore) {
        store.undirected("d1").await;
        let fell_due = store.now();
        store.clock.advance(Duration::from_mins(1));
        let fallback = DestinationId::configured_default();
        let readdress = async |since: EpochMs| {
            let which = ToReaddress::Undirected { since: Some(since) };
            store.readdress_deliveries(which, Some(&fallback), store.now()).await.expect("readdressed")
        };
        assert_eq!(readdress(fell_due.plus(Duration::from_millis(1))).await, 0, "it fell due before");
        assert_eq!(readdress(fell_due).await, 1);
    }

    async fn readdressing_keeps_a_retrys_schedule_and_a_lease(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        let leased = store.claim("node-a").await.remove(0).delivery;
        let destination = store.destination_for(DestinationScope::Org, "org_1");
        store.save_destination(&destination, None, &store.entry("x")).await.expect("saved");
        store.readdress_deliveries(ToReaddress::OfOrg(&org()), None, store.now()).await.expect("readdressed");
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.destination, read.lease_until), (Some(destination.id.clone()), leased.lease_until));
        let failed = store.attempt(&delivery.id, 1, "node-a", DeliveryStatus::Pending);
        store.record_attempts(vec![failed.clone()]).await.expect("recorded");

        assert!(store.delete_destination(&destination.id, &store.entry("x")).await.expect("deleted"));
        store.readdress_deliveries(ToReaddress::OfOrg(&org()), None, EpochMs(1)).await.expect("readdressed");
        let read = store.delivery(&delivery.id).await;
        assert_eq!((read.destination, read.due_at), (None, failed.due_at));
        assert_eq!(read.reason.as_deref(), Some("no_destination"));
    }

    async fn a_backlog_larger_than_one_step_is_readdressed_to_the_last(store: TestStore) {
        const MANY: usize = 12_000;
        let template = store.undirected("d1").await;
        store.copy_delivery(&template, MANY - 1).await;
        // What falls due at one time is one step, however much it is.
        let spread = "UPDATE gw_deliveries SET due_at = due_at + CASE substr(id, length(id)) WHEN '1' THEN 1 WHEN '2' THEN 2 \
                      WHEN '3' THEN 3 WHEN '4' THEN 4 WHEN '5' THEN 5 WHEN '6' THEN 6 ELSE 0 END";
        store.meddle(spread.to_owned()).await;
        assert_eq!(store.readdress_deliveries(UNDIRECTED, None, store.now()).await.expect("looked"), 0, "nowhere to go yet");
        let destination = store.destination_for(DestinationScope::Org, "org_1");
        store.save_destination(&destination, None, &store.entry("x")).await.expect("saved");
        let readdressed = store.readdress_deliveries(ToReaddress::OfOrg(&org()), None, store.now()).await.expect("readdressed");
        assert_eq!(readdressed, MANY as u64);
        assert_eq!(store.delivery(&template).await.destination, Some(destination.id.clone()));

        assert!(store.delete_destination(&destination.id, &store.entry("x")).await.expect("deleted"));
        let readdressed = store.readdress_deliveries(ToReaddress::OfOrg(&org()), None, store.now()).await.expect("readdressed");
        assert_eq!(readdressed, MANY as u64, "what is addressed to a destination that is gone is found too");
    }

    async fn more_leases_than_one_portion_are_given_up_in_one_call(store: TestStore) {
        const MANY: usize = 1_203;
        let template = store.accept_one("d1").await.id;
        assert_eq!(store.claim("node-b").await.len(), 1);
        store.copy_delivery(&template, MANY - 1).await;
        assert_eq!(store.release_leases("node-a", None, store.now()).await.expect("answered"), 0, "another's");
        assert_eq!(store.release_leases("node-b", None, store.now()).await.expect("released"), MANY as u64);
        assert_eq!(store.claim("node-a").await.len(), 100, "as many as one claim takes");
    }

    async fn a_failure_written_again_late_leaves_the_lease_of_the_next_attempt_alone(store: TestStore) {
        let id = store.accept_one("d1").await.id;
        store.claim("node-a").await;
        let failed = store.attempt(&id, 1, "node-a", DeliveryStatus::Pending);
        store.record_attempts(vec![failed.clone()]).await.expect("recorded");
        store.clock.advance(Duration::from_secs(10));
        let lease_until = store.claim("node-a").await.remove(0).delivery.lease_until;
        store.record_attempts(vec![failed]).await.expect("recorded, once");
        let read = store.delivery(&id).await;
        assert_eq!((read.attempts, read.lease_until), (1, lease_until));
        assert_eq!(store.claim("node-b").await.len(), 0, "it is in flight");

        store.clock.advance(Duration::from_secs(31));
        assert!(store.retry_delivery(&id, Some(&destination()), store.now(), &store.entry("delivery.retried")).await.expect("answered"));
        let dead = store.attempt(&id, 2, "node-a", DeliveryStatus::Dead);
        store.record_attempts(vec![dead]).await.expect("recorded");
        assert_eq!(store.delivery(&id).await.status, DeliveryStatus::Pending, "somebody wanted it tried again");
        let delivered = store.attempt(&id, 2, "node-a", DeliveryStatus::Delivered);
        store.record_attempts(vec![delivered]).await.expect("recorded");
        assert_eq!(store.delivery(&id).await.status, DeliveryStatus::Delivered, "what arrived has arrived");
    }

    async fn held_deliveries_are_readdressed_too(store: TestStore) {
        let mut event = store.with_delivery(store.event("d1"));
        event.event.held = true;
        event.deliveries[0].delivery.status = DeliveryStatus::Held;
        event.deliveries[0].delivery.destination = None;
        let id = event.deliveries[0].delivery.id.clone();
        store.accept_event(event).await.expect("stored");
        let fallback = DestinationId::configured_default();
        assert_eq!(store.readdress_deliveries(UNDIRECTED, Some(&fallback), store.now()).await.expect("readdressed"), 1);
        let read = store.delivery(&id).await;
        assert_eq!((read.status, read.destination), (DeliveryStatus::Held, Some(fallback)));
    }

    async fn what_waits_is_due_earlier_when_the_clock_was_set_back(store: TestStore) {
        let later = store.now().plus(DAY).plus(Duration::from_secs(5));
        let ids = [
            store.accept_due("leased", later, 0, true).await,
            store.accept_due("far", later, 1, false).await,
            store.accept_due("near", store.now().plus(DAY / 2), 1, false).await,
        ];
        assert_eq!(store.hasten(DAY, Duration::ZERO).await, 2);
        assert_eq!(store.due(&ids).await, [later, store.now().plus(Duration::from_secs(5)), store.now()]);
        assert_eq!(store.hasten(DAY, Duration::ZERO).await, 1, "the one that is due later");
    }

    async fn a_backlog_is_hastened_in_portions_and_each_delivery_once(store: TestStore) {
        const MANY: u64 = 1_203;
        let due_at = store.now().plus(DAY * 3);
        let template = store.accept_due("d1", due_at, 1, false).await;
        store.copy_delivery(&template, 1_199).await;
        for (name, attempts) in [("first", 0), ("second", 0), ("third", 1)] {
            store.accept_due(name, due_at.plus(Duration::from_secs(1)), attempts, false).await;
        }
        let setback = Setback { by: DAY, retries_within: Duration::ZERO };
        let (mut hastened, mut place) = (0, None);
        loop {
            let portion = store.hasten_deliveries(&setback, place.as_ref(), store.now()).await.expect("written");
            assert!(portion.deliveries <= 500, "{} in one transaction", portion.deliveries);
            hastened += portion.deliveries;
            place = portion.looked_up_to;
            if place.is_none() {
                break;
            }
        }
        assert_eq!(hastened, MANY);
        store.clock.advance(DAY * 2);
        assert_eq!(store.hasten(DAY, Duration::ZERO).await, 3, "the others are due by now, and not before");
        store.clock.set(store.now().minus(Duration::from_millis(1)));
        assert_eq!(store.hasten(DAY, Duration::ZERO).await, MANY);
    }

    async fn a_retry_that_waits_no_longer_than_any_may_is_left_alone_and_a_first_try_is_not(store: TestStore) {
        const HOUR: Duration = Duration::from_hours(1);
        let at = |hours: u32| store.now().plus(HOUR * hours);
        let ids = [
            store.accept_due("first try", at(1), 0, false).await,
            store.accept_due("retry", at(1), 1, false).await,
            store.accept_due("late retry", at(25), 1, false).await,
        ];
        assert_eq!(store.hasten(DAY, HOUR * 2).await, 2);
        assert_eq!(store.due(&ids).await, [at(0), at(1), at(1)]);
        assert_eq!(store.hasten(DAY, HOUR * 2).await, 0, "however often");
        assert_eq!(store.due(&ids).await, [at(0), at(1), at(1)]);
    }

    async fn a_node_whose_clock_is_ahead_takes_no_lease_of_another(store: TestStore) {
        let lease_until = SystemClock.now().plus(Duration::from_hours(1));
        let mut event = store.with_delivery(store.event("d1"));
        let new = &mut event.deliveries[0];
        let id = new.delivery.id.clone();
        (new.delivery.due_at, new.delivery.lease_until) = (lease_until, Some(lease_until));
        new.lease_owner = Some("node-a".into());
        store.accept_event(event).await.expect("stored");
        store.clock.set(lease_until.plus(Duration::from_hours(24)));
        if store.backend() == "postgres" {
            let retried = store.retry_delivery(&id, Some(&destination()), store.now(), &store.entry("delivery.retried")).await;
            assert!(!retried.expect("answered"), "it is in flight elsewhere");
        }
        // One process serves from a file: whoever else had a lease is gone.
        assert_eq!(store.claim("node-b").await.len(), usize::from(store.backend() == "sqlite"));
    }
}
