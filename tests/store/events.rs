//! Events: stored, found, listed, held, rerouted.

use std::time::Duration;

use bytes::Bytes;
use signalbox::{
    model::{
        clock::EpochMs,
        delivery::DeliveryStatus,
        event::{EventKey, EventOutcome},
        ids::{EventId, InstallationId, OrgId},
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId},
    },
    store::{Accepted, EventFilter, NewDelivery, PageRequest, Rerouting, UnroutedFilter},
};

use crate::{
    GITHUB, LINEAR, START, TestStore,
    fixtures::{org, page},
};

fn unrouted(mut event: signalbox::store::NewEvent) -> signalbox::store::NewEvent {
    event.event.outcome = EventOutcome::Unrouted;
    event.event.installation = None;
    event.event.org = None;
    event
}

async fn held(store: &TestStore, delivery_id: &str) -> EventId {
    held_since(store, delivery_id, store.now()).await
}

async fn held_since(store: &TestStore, delivery_id: &str, received_at: EpochMs) -> EventId {
    let mut event = store.with_delivery(store.event(delivery_id));
    event.event.held = true;
    event.event.received_at = received_at;
    event.deliveries[0].delivery.status = DeliveryStatus::Held;
    let id = event.event.id.clone();
    store.accept_event(event).await.expect("stored");
    id
}

store_suite! {
    async fn an_event_is_read_back_as_it_was_written(store: TestStore) {
        let event = store.with_delivery(store.event("d1"));
        let accepted = store.accept_event(event.clone()).await.expect("stored");
        assert_eq!(accepted, Accepted::New { possible_replay: false });
        let id = &event.event.id;
        assert_eq!(store.find_event(id).await.expect("read").as_ref(), Some(&event.event));
        let delivery_id = ProviderDeliveryId::new("d1");
        let found = store.find_event_by_delivery_id(GITHUB, &delivery_id).await.expect("read");
        assert_eq!(found.as_ref(), Some(&event.event));
        assert_eq!(store.find_event_by_delivery_id(LINEAR, &delivery_id).await.expect("read"), None);
        let detail = store.find_event_detail(id).await.expect("read").expect("there");
        assert_eq!(detail.event, event.event);
        assert_eq!((detail.headers, detail.content_type, detail.decision), (
            event.headers.clone(), event.content_type.clone(), event.decision.clone()
        ));
        assert_eq!(detail.deliveries, vec![event.deliveries[0].delivery.clone()]);
        assert_eq!(detail.attempts, vec![]);
        let (content_type, body) = store.find_event_body(id).await.expect("read").expect("there");
        assert_eq!((content_type, body), (event.content_type, event.body));
        let nothing = EventId::from_raw("evt_none");
        assert_eq!(store.find_event(&nothing).await.expect("read"), None);
        assert!(store.find_event_detail(&nothing).await.expect("read").is_none());
        assert_eq!(store.find_event_body(&nothing).await.expect("read"), None);
    }

    async fn every_body_is_kept_byte_for_byte(store: TestStore) {
        let noise: Bytes = (0..300_000).map(|_| rand::random::<u8>()).collect();
        let bodies = [
            Bytes::new(),
            Bytes::from_static(b"{\"n\":1e400,\"s\":\"\\ud800\\u0000\"}"),
            Bytes::from_static(b"\xff\xfe\x00"),
            Bytes::from("x".repeat(2_000_000)),
            noise,
        ];
        for (number, body) in bodies.into_iter().enumerate() {
            let mut event = store.event(&format!("d{number}"));
            event.event.outcome = EventOutcome::Ignored;
            event.body = body.clone();
            let id = event.event.id.clone();
            store.accept_event(event).await.expect("stored");
            assert_eq!(store.find_event_body(&id).await.expect("read").expect("there").1, body);
        }
    }

    async fn words_that_the_database_cannot_hold_are_stored_and_found_all_the_same(store: TestStore) {
        let mut event = unrouted(store.event("with\u{0}zero"));
        event.event.wire_type = "a\u{0}b".into();
        event.event.external_id = Some(ExternalId::new("\u{0}"));
        event.headers = "{\"a\":\"\u{0}\"}".into();
        store.accept_event(event.clone()).await.expect("stored");
        let id = ProviderDeliveryId::new("with\u{0}zero");
        assert!(store.find_event_by_delivery_id(GITHUB, &id).await.expect("read").is_some());
        let mut again = event.clone();
        again.event.id = store.ids.event();
        let accepted = store.accept_event(again).await.expect("stored");
        assert_eq!(accepted, Accepted::Duplicate { of: event.event.id });
    }

    async fn a_duplicate_is_answered_with_the_first_event_and_writes_nothing(store: TestStore) {
        let first = store.with_delivery(store.event("d1"));
        store.accept_event(first.clone()).await.expect("stored");
        let accepted = store.accept_event(store.with_delivery(store.event("d1"))).await.expect("answered");
        assert_eq!(accepted, Accepted::Duplicate { of: first.event.id.clone() });
        let mut elsewhere = store.with_delivery(store.event("d1"));
        elsewhere.event.provider = LINEAR;
        let accepted = store.accept_event(elsewhere).await.expect("answered");
        assert_eq!(accepted, Accepted::New { possible_replay: false }, "ids of two providers do not collide");
        let census = store.take_census().await.expect("counted");
        assert_eq!(census.events.get("routed"), Some(&2));
        assert_eq!(census.deliveries.get("pending"), Some(&2));
    }

    async fn an_event_that_is_written_again_is_no_duplicate_of_itself(store: TestStore) {
        // The writer does this when an answer is lost with the connection.
        let event = store.with_delivery(store.event("d1"));
        store.accept_event(event.clone()).await.expect("stored");
        let accepted = store.accept_event(event).await.expect("answered");
        assert_eq!(accepted, Accepted::New { possible_replay: false });
        assert_eq!(store.take_census().await.expect("counted").deliveries.get("pending"), Some(&1));
    }

    async fn a_body_seen_under_another_id_is_flagged_or_dropped_as_asked(store: TestStore) {
        let with_digest = |delivery_id: &str, digest: u8, drop| {
            let mut event = store.with_delivery(store.event(delivery_id));
            event.body_digest = Some([digest; 16]);
            event.drop_possible_replay = drop;
            event
        };
        let accept = async |event: signalbox::store::NewEvent| {
            let id = event.event.id.clone();
            let accepted = store.accept_event(event).await.expect("answered");
            (accepted, store.find_event_detail(&id).await.expect("read"))
        };
        let (accepted, _) = accept(with_digest("d1", 1, false)).await;
        assert_eq!(accepted, Accepted::New { possible_replay: false });
        let (accepted, detail) = accept(with_digest("d2", 1, false)).await;
        assert_eq!(accepted, Accepted::New { possible_replay: true });
        let detail = detail.expect("stored");
        assert!(detail.event.possible_replay && detail.event.outcome == EventOutcome::Routed);
        assert_eq!(detail.deliveries.len(), 1, "flagged and delivered");

        let (accepted, detail) = accept(with_digest("d3", 1, true)).await;
        assert_eq!(accepted, Accepted::New { possible_replay: true });
        let detail = detail.expect("stored");
        assert_eq!(detail.event.outcome, EventOutcome::Filtered);
        assert_eq!(detail.event.reason.as_deref(), Some("possible_replay"));
        assert_eq!(detail.deliveries, vec![]);

        let (accepted, _) = accept(with_digest("d4", 2, true)).await;
        assert_eq!(accepted, Accepted::New { possible_replay: false }, "another body");
        let (accepted, _) = accept(with_digest("d1", 1, true)).await;
        assert!(matches!(accepted, Accepted::Duplicate { .. }), "a duplicate is no replay");
        let mut elsewhere = with_digest("d5", 1, false);
        elsewhere.event.provider = LINEAR;
        assert_eq!(accept(elsewhere).await.0, Accepted::New { possible_replay: false }, "another provider");
    }

    async fn replays_within_one_batch_are_noticed(store: TestStore) {
        let copies = (0..20).map(|number| {
            let mut event = store.with_delivery(store.event(&format!("d{number}")));
            event.body_digest = Some([7; 16]);
            let store = store.clone();
            async move { store.accept_event(event).await.expect("stored") }
        });
        let answers = futures_util::future::join_all(copies).await;
        let first_seen = answers.iter().filter(|answer| **answer == Accepted::New { possible_replay: false }).count();
        // Two committers on PostgreSQL may each hold a first copy at the same moment.
        assert!((1..=2).contains(&first_seen), "{answers:?}");
    }

    async fn events_are_listed_newest_first_under_every_filter(store: TestStore) {
        let mut ids = Vec::new();
        for number in 0..6 {
            store.clock.advance(Duration::from_secs(1));
            let mut event = store.event(&format!("d{number}"));
            event.event.outcome = if number % 2 == 0 { EventOutcome::Ignored } else { EventOutcome::Filtered };
            ids.push(event.event.id.clone());
            store.accept_event(event).await.expect("stored");
        }
        let list = async |filter: EventFilter| {
            let page = store.list_events(&filter, page(100)).await.expect("read");
            page.items.into_iter().map(|event| event.id).collect::<Vec<_>>()
        };
        let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
        assert_eq!(list(EventFilter::default()).await, newest_first);
        let only = EventFilter {
            org: Some(org()),
            provider: Some("github".into()),
            installation: Some(InstallationId::from_raw("in_1")),
            outcome: Some(EventOutcome::Filtered),
            key: Some("github:push".into()),
            held: Some(false),
            ..EventFilter::default()
        };
        assert_eq!(list(only.clone()).await, [ids[5].clone(), ids[3].clone(), ids[1].clone()]);
        let window = EventFilter {
            since: Some(EpochMs(START.0 + 2_000)),
            until: Some(EpochMs(START.0 + 4_000)),
            ..EventFilter::default()
        };
        assert_eq!(list(window).await, [ids[2].clone(), ids[1].clone()]);
        let one = EventFilter { provider_delivery_id: Some("d4".into()), ..EventFilter::default() };
        assert_eq!(list(one).await, [ids[4].clone()]);
        for nothing in [
            EventFilter { org: Some(OrgId::from_raw("org_2")), ..only.clone() },
            EventFilter { provider: Some("linear".into()), ..only.clone() },
            EventFilter { key: Some("github:fork".into()), ..only.clone() },
            EventFilter { held: Some(true), ..only.clone() },
            EventFilter { installation: Some(InstallationId::from_raw("in_2")), ..only },
        ] {
            assert_eq!(list(nothing).await, []);
        }
        let filter = EventFilter::default();
        let first = store.list_events(&filter, page(4)).await.expect("read");
        let request = PageRequest { limit: 4, cursor: first.next_cursor.as_deref() };
        let second = store.list_events(&filter, request).await.expect("read");
        let both: Vec<_> = first.items.into_iter().chain(second.items).map(|event| event.id).collect();
        assert_eq!((both, second.next_cursor), (newest_first, None));
        let after = store.list_events_after(Some(&org()), &ids[2], 2).await.expect("read");
        assert_eq!(after.into_iter().map(|event| event.id).collect::<Vec<_>>(), [ids[3].clone(), ids[4].clone()]);
        assert_eq!(store.list_events_after(None, &ids[5], 10).await.expect("read"), vec![]);
    }

    async fn an_event_that_claims_an_older_time_is_listed_by_that_time(store: TestStore) {
        let mut event = store.event("d1");
        event.event.outcome = EventOutcome::Ignored;
        event.event.received_at = EpochMs(START.0 - 90 * 86_400_000);
        store.accept_event(event).await.expect("stored");
        let since = EventFilter { since: Some(START), ..EventFilter::default() };
        assert_eq!(store.list_events(&since, page(10)).await.expect("read").items, vec![]);
        for org in [None, Some(org())] {
            let until = EventFilter { until: Some(START), org, ..EventFilter::default() };
            assert_eq!(store.list_events(&until, page(10)).await.expect("read").items.len(), 1);
        }
        // Among what came much later, and found with what came at its time.
        store.clock.advance(Duration::from_hours(48));
        for (name, received_at) in [("now", store.now()), ("then", START), ("long ago", EpochMs(-5))] {
            let mut event = store.event(name);
            event.event.outcome = EventOutcome::Ignored;
            event.event.received_at = received_at;
            store.accept_event(event).await.expect("stored");
        }
        for org in [None, Some(org())] {
            let until = EventFilter { until: Some(EpochMs(START.0 + 1)), org, ..EventFilter::default() };
            let mut found = store.list_events(&until, page(10)).await.expect("read").items;
            found.sort_by_key(|event| event.received_at);
            let names: Vec<_> = found.iter().map(|event| event.provider_delivery_id.as_str()).collect();
            assert_eq!(names, ["long ago", "d1", "then"]);
        }
    }

    async fn a_search_among_very_many_events_goes_on_from_where_it_stopped(store: TestStore) {
        let mut event = store.event("the one");
        event.event.outcome = EventOutcome::Ignored;
        event.event.key = Some(EventKey::new("github:rare"));
        store.accept_event(event).await.expect("stored");
        store.meddle(
            "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, installation_id, org_id, resources, outcome, \
             possible_replay, held, received_at, correlation_id, headers, decision, payload_encoding, payload_bytes, payload) \
             WITH RECURSIVE n (i) AS (SELECT CAST(10000 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 55000) \
             SELECT 'evt_019c923d10dc' || CAST(i AS TEXT), 'github', CAST(i AS TEXT), 'push', 'in_1', 'org_1', '[]', 'ignored', \
             false, false, 1771980001500, 'c', '{}', '{}', 'raw', 0, (SELECT payload FROM gw_events LIMIT 1) FROM n",
        ).await;
        for filter in [
            EventFilter { org: Some(org()), key: Some("github:rare".into()), ..EventFilter::default() },
            EventFilter { key: Some("github:rare".into()), ..EventFilter::default() },
            EventFilter {
                org: Some(org()), installation: Some(InstallationId::from_raw("in_1")), key: Some("github:rare".into()),
                ..EventFilter::default()
            },
        ] {
            let (mut cursor, mut searches): (Option<String>, u32) = (None, 0);
            let found = loop {
                let request = PageRequest { limit: 10, cursor: cursor.as_deref() };
                let found = store.list_events(&filter, request).await.expect("searched");
                searches += 1;
                assert_eq!(found.next_cursor.is_some(), found.searched_back_to.is_some());
                if let Some(event) = found.items.first() {
                    break event.provider_delivery_id.as_str().to_owned();
                }
                assert_eq!(found.searched_back_to, Some(EpochMs(1_771_980_001_500)));
                cursor = Some(found.next_cursor.expect("it is not over"));
            };
            assert!(found == "the one" && searches > 1, "{found} after {searches}");
        }
    }

    async fn unrouted_events_are_found_by_their_installation_or_by_the_account_they_named(store: TestStore) {
        let mut named = unrouted(store.event("named"));
        named.event.external_id = Some(ExternalId::new("4711"));
        store.clock.advance(Duration::from_millis(1));
        let mut known = unrouted(store.event("known"));
        known.event.installation = Some(InstallationId::from_raw("in_1"));
        known.event.external_id = None;
        store.clock.advance(Duration::from_millis(1));
        let mut stranger = unrouted(store.event("stranger"));
        stranger.event.external_id = Some(ExternalId::new("4712"));
        let mut of_another = unrouted(store.event("of another installation"));
        of_another.event.installation = Some(InstallationId::from_raw("in_2"));
        let mut settled = store.event("settled");
        settled.event.outcome = EventOutcome::Filtered;
        for event in [&named, &known, &stranger, &of_another, &settled] {
            store.accept_event(event.clone()).await.expect("stored");
        }
        let filter = UnroutedFilter {
            provider: GITHUB,
            installation: InstallationId::from_raw("in_1"),
            external_id: ExternalId::new("4711"),
            alternate_external_id: None,
            since: START,
            after: None,
            limit: 10,
        };
        let list = async |filter: UnroutedFilter| {
            let events = store.list_unrouted(&filter).await.expect("read");
            events.into_iter().map(|event| event.provider_delivery_id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(list(filter.clone()).await, ["named", "known"]);
        assert_eq!(list(UnroutedFilter { limit: 1, ..filter.clone() }).await, ["named"]);
        assert_eq!(list(UnroutedFilter { after: Some(named.event.id.clone()), ..filter.clone() }).await, ["known"]);
        assert_eq!(list(UnroutedFilter { since: EpochMs(START.0 + 1), ..filter.clone() }).await, ["known"]);
        assert_eq!(list(UnroutedFilter { provider: LINEAR, ..filter.clone() }).await, Vec::<String>::new());
        let alternate_external_id = Some(ExternalId::new("4712"));
        let both = ["named", "known", "stranger"];
        assert_eq!(list(UnroutedFilter { alternate_external_id, ..filter.clone() }).await, both);
        let alternate_external_id = Some(filter.external_id.clone());
        assert_eq!(list(UnroutedFilter { alternate_external_id, ..filter }).await, ["named", "known"], "each once");
    }

    async fn an_unrouted_event_that_names_no_account_is_found_by_a_resource_that_is_linked(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let linked = store.resource(&installation.id, "repo_1");
        let link = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
            record.resources.push(linked);
            true
        });
        store.change_installation(&installation.id, link).await.expect("changed");
        for (name, resources) in [("of both", &["repo_0", "repo_1"][..]), ("of another", &["repo_2"]), ("of none", &[])] {
            let mut event = unrouted(store.event(name));
            event.event.external_id = None;
            event.event.resources = resources.iter().map(|id| ProviderResourceId::new(*id)).collect();
            store.accept_event(event).await.expect("stored");
        }
        let filter = UnroutedFilter {
            provider: GITHUB,
            installation: installation.id.clone(),
            external_id: ExternalId::new("4711"),
            alternate_external_id: None,
            since: EpochMs(0),
            after: None,
            limit: 10,
        };
        let found = store.list_unrouted(&filter).await.expect("read");
        assert_eq!(found.iter().map(|event| event.provider_delivery_id.as_str()).collect::<Vec<_>>(), ["of both"]);
        // Behind more of others' than one step looks at; and in one order with those that name the account.
        store.meddle(
            "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, resources, outcome, possible_replay, held, \
             received_at, correlation_id, headers, decision, payload_encoding, payload_bytes, payload) \
             WITH RECURSIVE n (i) AS (SELECT CAST(100000 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 125000) \
             SELECT 'evt_000000' || CAST(i AS TEXT), 'github', CAST(i AS TEXT), 'push', '[\"repo_2\"]', 'unrouted', false, \
             false, 7, 'c', '{}', '{}', 'raw', 0, (SELECT payload FROM gw_events LIMIT 1) FROM n",
        ).await;
        store.clock.advance(Duration::from_millis(1));
        let mut named = unrouted(store.event("named"));
        named.event.external_id = Some(filter.external_id.clone());
        store.accept_event(named).await.expect("stored");
        let mut pages = UnroutedFilter { limit: 1, ..filter.clone() };
        for expected in ["of both", "named"] {
            let found = store.list_unrouted(&pages).await.expect("read");
            assert_eq!(found[0].provider_delivery_id.as_str(), expected);
            pages.after = Some(found[0].id.clone());
        }
        assert_eq!(store.list_unrouted(&pages).await.expect("read"), []);
        store.meddle("UPDATE gw_resources SET status = 'removed'").await;
        assert_eq!(store.list_unrouted(&filter).await.expect("read").len(), 1, "the one that names it");
    }

    async fn unrouted_events_are_looked_for_from_a_day_before_the_time_asked_about(store: TestStore) {
        const DAY: Duration = Duration::from_hours(24);
        let since = START.plus(3 * DAY);
        // When it arrives, what it names, and whether it is found.
        let cases = [
            ("long before", START, START, false),
            ("long before, naming a time more than a day ahead", START.plus(DAY), since.plus(DAY), false),
            ("a day before, naming the time asked about", START.plus(2 * DAY), since, true),
            ("at the time asked about", since, since, true),
            ("later, naming a time long gone by", since.plus(DAY), START, false),
            ("later, naming the time asked about", since.plus(2 * DAY), since, true),
            ("later, naming a time to come", since.plus(2 * DAY), since.plus(9 * DAY), true),
        ];
        for (name, arrives_at, received_at, _) in &cases {
            store.clock.set(*arrives_at);
            let (mut known, mut named) = (store.event(&format!("{name}, known")), unrouted(store.event(name)));
            known.event.outcome = EventOutcome::Unrouted;
            for event in [&mut known, &mut named] {
                event.event.received_at = *received_at;
                store.accept_event(event.clone()).await.expect("stored");
            }
        }
        let mut filter = UnroutedFilter {
            provider: GITHUB,
            installation: InstallationId::from_raw("in_1"),
            external_id: ExternalId::new("4711"),
            alternate_external_id: None,
            since,
            after: None,
            limit: 3,
        };
        let mut found = Vec::new();
        loop {
            let page = store.list_unrouted(&filter).await.expect("read");
            assert!(page.len() <= 3 && page.is_sorted_by_key(|event| event.id.clone()), "{page:?}");
            let Some(last) = page.last() else { break };
            filter.after = Some(last.id.clone());
            found.extend(page.into_iter().map(|event| event.provider_delivery_id.as_str().to_owned()));
        }
        let mut wanted: Vec<_> = cases.iter().filter(|case| case.3).map(|case| case.0.to_owned()).collect();
        wanted.extend(wanted.iter().map(|name| format!("{name}, known")).collect::<Vec<_>>());
        for names in [&mut found, &mut wanted] {
            names.sort_unstable();
        }
        assert_eq!(found, wanted);
        let from_the_beginning = UnroutedFilter { since: EpochMs(0), after: None, limit: 100, ..filter };
        let all = store.list_unrouted(&from_the_beginning).await.expect("read");
        assert_eq!(all.len(), 2 * cases.len(), "nothing is left out");
    }

    async fn an_unrouted_event_is_rerouted_and_a_routed_one_stays_routed(store: TestStore) {
        let event = unrouted(store.event("d1"));
        let id = event.event.id.clone();
        store.accept_event(event.clone()).await.expect("stored");
        let rerouting = Rerouting {
            event: id.clone(),
            installation: Some((InstallationId::from_raw("in_9"), org())),
            only_if: Some(EventOutcome::Unrouted),
            outcome: EventOutcome::Routed,
            reason: None,
            decision: Some("{\"rerouted\":true}".into()),
            deliveries: vec![NewDelivery { delivery: store.delivery_of(&event.event), lease_owner: None }],
            entry: Some(store.entry("event.rerouted")),
        };
        let another = NewDelivery { delivery: store.delivery_of(&event.event), lease_owner: None };
        let again = Rerouting { deliveries: vec![another], entry: Some(store.entry("again")), ..rerouting.clone() };
        assert!(store.reroute_event(rerouting.clone()).await.expect("rerouted"));
        assert!(!store.reroute_event(again).await.expect("answered"), "somebody else has routed it meanwhile");
        let detail = store.find_event_detail(&id).await.expect("read").expect("there");
        assert_eq!(detail.event.outcome, EventOutcome::Routed);
        assert_eq!(detail.event.installation, Some(InstallationId::from_raw("in_9")));
        assert_eq!(detail.event.org, Some(org()));
        assert_eq!((detail.decision.as_str(), detail.deliveries.len()), ("{\"rerouted\":true}", 1));

        let lowering = Rerouting {
            only_if: None,
            outcome: EventOutcome::Filtered,
            reason: Some("event_not_allowed".into()),
            decision: None,
            deliveries: vec![],
            entry: None,
            ..rerouting.clone()
        };
        assert!(store.reroute_event(lowering).await.expect("answered"));
        let read = store.find_event(&id).await.expect("read").expect("there");
        assert_eq!((read.outcome, read.reason), (EventOutcome::Routed, None));

        let gone = Rerouting { event: EventId::from_raw("evt_none"), ..rerouting.clone() };
        assert!(!store.reroute_event(gone).await.expect("nothing happens"));
        let log = store.list_log(None, None, page(10)).await.expect("read").items;
        assert_eq!(log, Vec::from_iter(rerouting.entry), "only what happened");
        assert_eq!(store.take_census().await.expect("counted").deliveries.get("pending"), Some(&1));
    }

    async fn held_events_are_listed_by_when_their_provider_sent_them(store: TestStore) {
        let mut ids = Vec::new();
        for (number, sent_at) in [3000, 1000, 2000, 1000].into_iter().enumerate() {
            store.clock.advance(Duration::from_millis(10));
            ids.push(held_since(&store, &format!("d{number}"), EpochMs(sent_at)).await);
        }
        let oldest_first = [1, 3, 2, 0].map(|number| ids[number].clone());
        assert_eq!(store.list_held(&InstallationId::from_raw("in_1"), 10).await.expect("read"), oldest_first);
    }

    async fn held_events_are_let_go_in_the_order_given(store: TestStore) {
        let mut ids = Vec::new();
        for number in 0..3 {
            store.clock.advance(Duration::from_millis(10));
            ids.push(held(&store, &format!("d{number}")).await);
        }
        assert_eq!(store.claim("node-a").await.len(), 0, "held deliveries are not claimed");
        let installation = InstallationId::from_raw("in_1");
        assert_eq!(store.list_held(&installation, 10).await.expect("read"), ids);
        assert_eq!(store.list_held(&installation, 2).await.expect("read"), ids[..2]);

        store.clock.advance(Duration::from_secs(1));
        let given = [ids[2].clone(), ids[0].clone(), EventId::from_raw("evt_none")];
        let entry = store.entry("events.released");
        assert_eq!(store.release_held(&given, store.now(), &entry).await.expect("released"), 2);
        assert_eq!(store.release_held(&given, store.now(), &store.entry("again")).await.expect("released"), 0);
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items, [entry], "only what happened");
        let claimed: Vec<_> = store.claim("node-a").await.into_iter().map(|claimed| claimed.event.id).collect();
        assert_eq!(claimed, [ids[2].clone(), ids[0].clone()]);
        assert_eq!(store.list_held(&installation, 10).await.expect("read"), [ids[1].clone()]);
        assert!(!store.find_event(&ids[0]).await.expect("read").expect("there").held);
    }

    async fn what_cannot_be_logged_is_not_done(store: TestStore) {
        let taken = store.entry("something else");
        store.append_log(std::slice::from_ref(&taken)).await.expect("appended");
        let event = unrouted(store.event("d1"));
        store.accept_event(event.clone()).await.expect("stored");
        let rerouting = Rerouting {
            event: event.event.id.clone(),
            installation: None,
            only_if: None,
            outcome: EventOutcome::Routed,
            reason: None,
            decision: None,
            deliveries: vec![NewDelivery { delivery: store.delivery_of(&event.event), lease_owner: None }],
            entry: Some(taken.clone()),
        };
        store.reroute_event(rerouting).await.expect_err("there is an entry of that id");
        let detail = store.find_event_detail(&event.event.id).await.expect("read").expect("there");
        assert_eq!((detail.event.outcome, detail.deliveries), (EventOutcome::Unrouted, vec![]));

        let waiting = held(&store, "d2").await;
        let releasing = store.release_held(std::slice::from_ref(&waiting), store.now(), &taken);
        releasing.await.expect_err("there is an entry of that id");
        let detail = store.find_event_detail(&waiting).await.expect("read").expect("there");
        assert!(detail.event.held && detail.deliveries[0].status == DeliveryStatus::Held, "{detail:?}");
    }

    async fn an_event_that_is_released_while_it_is_rerouted_gets_no_held_delivery(store: TestStore) {
        let mut event = store.event("d1");
        event.event.outcome = EventOutcome::Unrouted;
        event.event.held = true;
        let id = event.event.id.clone();
        store.accept_event(event.clone()).await.expect("stored");
        let reroute = async |deliveries: Vec<NewDelivery>| {
            let rerouting = Rerouting {
                event: id.clone(),
                installation: None,
                only_if: None,
                outcome: EventOutcome::Routed,
                reason: None,
                decision: None,
                deliveries,
                entry: None,
            };
            assert!(store.reroute_event(rerouting).await.expect("rerouted"));
        };
        let mut delivery = store.delivery_of(&event.event);
        delivery.status = DeliveryStatus::Held;
        reroute(vec![NewDelivery { delivery: delivery.clone(), lease_owner: None }]).await;
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Held);
        let entry = store.entry("events.released");
        store.release_held(std::slice::from_ref(&id), store.now(), &entry).await.expect("released");
        delivery.id = store.ids.delivery();
        reroute(vec![NewDelivery { delivery: delivery.clone(), lease_owner: None }]).await;
        assert_eq!(store.delivery(&delivery.id).await.status, DeliveryStatus::Pending, "nobody releases it again");
    }
}
