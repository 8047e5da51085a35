//! What people look at: orgs, workspaces, deliveries searched for and counted, activity.

use std::time::Duration;

use serde_json::json;
use signalbox::{
    model::{
        activity::{Activity, ActivityCounts, MINUTE_MS},
        clock::EpochMs,
        delivery::DeliveryStatus,
        destination::DestinationScope,
        ids::{DestinationId, InstallationId, IntegrationId, OrgId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        provider::ExternalId,
        resource::Resource,
    },
    store::{ApiKey, DeliveryFilter, InstallationRecord, PageRequest, RetentionCutoffs},
};

use crate::{START, TestStore, fixtures::org, fixtures::page};

impl TestStore {
    /// An installation of that org's.
    async fn installed(&self, org: &str, external_id: &str) -> Installation {
        let installation = Installation {
            org: OrgId::from_raw(org),
            external_id: ExternalId::new(external_id),
            ..self.installation(external_id)
        };
        self.insert_connection(&installation, None, &self.entry("installation.created")).await.expect("inserted");
        installation
    }

    /// A resource of an installation with an integration for each of these workspaces; the integrations' ids.
    async fn subscribed(
        &self,
        installation: &InstallationId,
        resource: &str,
        workspaces: &[&str],
    ) -> Vec<IntegrationId> {
        let resource: Resource = self.resource(installation, resource);
        let integrations: Vec<_> = workspaces.iter().map(|workspace| self.integration(&resource, workspace)).collect();
        let ids = integrations.iter().map(|integration| integration.id.clone()).collect();
        let changed = self
            .change_installation(
                installation,
                Box::new(move |record| {
                    record.resources.push(resource);
                    for mut integration in integrations {
                        integration.org = record.installation.org.clone();
                        record.integrations.push(integration);
                    }
                    true
                }),
            )
            .await;
        changed.expect("written").expect("there");
        ids
    }

    /// A delivered or dead delivery of an event of its own to that integration.
    async fn delivery_to(&self, number: u32, org: &str, integration: &IntegrationId, dies: bool) -> String {
        self.clock.advance(Duration::from_secs(1));
        let mut event = self.with_delivery(self.event(&format!("d{number}")));
        event.event.org = Some(OrgId::from_raw(org));
        event.deliveries[0].delivery.org = OrgId::from_raw(org);
        event.deliveries[0].delivery.integration = integration.clone();
        let id = event.deliveries[0].delivery.id.clone();
        self.accept_event(event).await.expect("stored");
        self.claim("node-a").await;
        let status = if dies { DeliveryStatus::Dead } else { DeliveryStatus::Delivered };
        self.record_attempts(vec![self.attempt(&id, 1, "node-a", status)]).await.expect("recorded");
        id.to_string()
    }
}

fn after(cursor: &str, limit: u32) -> PageRequest<'_> {
    PageRequest { limit, cursor: Some(cursor) }
}

store_suite! {
    async fn orgs_are_those_of_installations_destinations_and_live_keys(store: TestStore) {
        store.installed("org_a", "1").await;
        let revoked = store.installed("org_a", "2").await;
        store.change_installation(&revoked.id, Box::new(|record| {
            record.installation.status = InstallationStatus::Revoked;
            true
        })).await.expect("written");
        let destination = store.destination_for(DestinationScope::Org, "org_1");
        store.save_destination(&destination, None, &store.entry("destination.created")).await.expect("saved");
        for (number, org) in [(1, "org_b"), (2, "org_c")] {
            let key = ApiKey {
                id: store.ids.key(), name: "k".into(), hash: [number; 32], prefix: "sbx".into(),
                org: Some(OrgId::from_raw(org)), can_write: true, created_at: store.now(), last_used_at: None, revoked_at: None,
            };
            store.insert_key(&key, &store.entry("key.created")).await.expect("inserted");
            if org == "org_c" {
                store.revoke_key(&key.id, store.now(), &store.entry("key.revoked")).await.expect("revoked");
            }
        }
        let all = store.list_orgs("", page(10)).await.expect("read");
        let names: Vec<_> = all.items.iter().map(|summary| summary.org.as_str()).collect();
        assert_eq!((names.as_slice(), &all.next_cursor), (["org_1", "org_a", "org_b"].as_slice(), &None));
        assert_eq!(all.items[0].destinations, 1);
        assert_eq!(all.items[1].installations, [("active".to_owned(), 1), ("revoked".to_owned(), 1)].into());
        let first = store.list_orgs("", page(2)).await.expect("read");
        assert_eq!((first.items.len(), first.next_cursor.as_deref()), (2, Some("org_a")));
        let second = store.list_orgs("", after("org_a", 2)).await.expect("read");
        assert_eq!((second.items[0].org.as_str(), second.next_cursor), ("org_b", None));
        let some = store.list_orgs("org_a", page(10)).await.expect("read");
        assert_eq!(some.items.len(), 1);
        assert_eq!(store.list_orgs("nobody", page(10)).await.expect("read").items, []);
        let nothing = store.summarize_org(&OrgId::from_raw("org_x")).await.expect("read");
        assert_eq!((nothing.installations.len(), nothing.destinations), (0, 0));
    }

    async fn workspaces_are_those_of_integrations_and_destinations_and_of_their_org(store: TestStore) {
        let installation = store.installed("org_1", "1").await;
        store.subscribed(&installation.id, "r1", &["ws_b", "ws_a"]).await;
        store.subscribed(&installation.id, "r2", &["ws_a"]).await;
        let foreign = store.installed("org_2", "2").await;
        store.subscribed(&foreign.id, "r1", &["ws_a", "ws_x"]).await;
        for workspace in ["ws_a", "ws_c"] {
            let destination = store.destination_for(DestinationScope::Workspace, workspace);
            store.save_destination(&destination, None, &store.entry("destination.created")).await.expect("saved");
        }
        let all = store.list_workspaces(&org(), page(10)).await.expect("read");
        let shown: Vec<_> = all.items.iter().map(|summary| {
            let active = summary.integrations.get("github").and_then(|statuses| statuses.get("active")).copied();
            (summary.workspace.as_str(), active, summary.destination.is_some())
        }).collect();
        assert_eq!(shown, [("ws_a", Some(2), true), ("ws_b", Some(1), false), ("ws_c", None, true)]);
        let first = store.list_workspaces(&org(), page(1)).await.expect("read");
        assert_eq!(first.next_cursor.as_deref(), Some("ws_a"));
        let rest = store.list_workspaces(&org(), after("ws_a", 10)).await.expect("read");
        assert_eq!((rest.items.len(), rest.next_cursor), (2, None));
    }

    async fn an_integration_that_its_rules_pause_counts_as_paused(store: TestStore) {
        let installation = store.installed("org_1", "1").await;
        let ids = store.subscribed(&installation.id, "r1", &["ws_a", "ws_b"]).await;
        store.subscribed(&installation.id, "r2", &["ws_a"]).await;
        let pause = move |record: &mut InstallationRecord| {
            for integration in record.integrations.iter_mut().filter(|integration| ids.contains(&integration.id)) {
                integration.source_config.insert("sync".into(), json!({"events": [], "autoSync": false}));
            }
            // Somebody's words are not ours.
            for integration in &mut record.integrations {
                integration.source_config.insert("note".into(), json!("\"autoSync\":false"));
                integration.source_config.insert("other".into(), json!({"autoSync": false}));
            }
            true
        };
        store.change_installation(&installation.id, Box::new(pause)).await.expect("written").expect("there");
        let all = store.list_workspaces(&org(), page(10)).await.expect("read");
        let counted: Vec<_> = all.items.iter().map(|summary| summary.integrations["github"].clone()).collect();
        let words = |counts: &[(&str, u64)]| counts.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        assert_eq!(counted, [words(&[("active", 1), ("paused", 1)]), words(&[("paused", 1)])]);
    }

    async fn destinations_are_paged_in_the_order_of_their_making(store: TestStore) {
        for number in 0..3 {
            store.clock.advance(Duration::from_millis(2));
            let destination = store.destination_for(DestinationScope::Workspace, &format!("ws_{number}"));
            store.save_destination(&destination, None, &store.entry("destination.created")).await.expect("saved");
        }
        let first = store.list_destinations_page(&org(), page(2)).await.expect("read");
        let cursor = first.next_cursor.expect("there is more");
        let second = store.list_destinations_page(&org(), after(&cursor, 2)).await.expect("read");
        let names: Vec<_> = first.items.iter().chain(&second.items).map(|found| found.scope_id.as_str()).collect();
        assert_eq!((names.as_slice(), second.next_cursor), (["ws_0", "ws_1", "ws_2"].as_slice(), None));
    }

    async fn disabled_destinations_are_paged_among_all_or_those_of_an_org(store: TestStore) {
        for number in 0..5 {
            store.clock.advance(Duration::from_millis(2));
            let mut destination = store.destination_for(DestinationScope::Workspace, &format!("ws_{number}"));
            destination.disabled_reason = (number != 1).then(|| "gone".to_owned());
            if number == 3 {
                destination.org = OrgId::from_raw("org_2");
            }
            store.save_destination(&destination, None, &store.entry("destination.created")).await.expect("saved");
        }
        let names = async |org: Option<&OrgId>, page: PageRequest<'_>| {
            let found = store.list_disabled_destinations(org, page).await.expect("read");
            let names: Vec<_> = found.items.into_iter().map(|found| found.scope_id).collect();
            (names.join(" "), found.next_cursor)
        };
        let (first, cursor) = names(None, page(2)).await;
        assert_eq!(first, "ws_0 ws_2");
        let cursor = cursor.expect("there is more");
        assert_eq!(names(None, after(&cursor, 2)).await, ("ws_3 ws_4".to_owned(), None));
        assert_eq!(names(Some(&org()), page(9)).await, ("ws_0 ws_2 ws_4".to_owned(), None));
    }

    async fn deliveries_are_found_by_everything_that_can_be_asked_for(store: TestStore) {
        let installation = store.installed("org_1", "1").await;
        let [near, far] = store.subscribed(&installation.id, "r1", &["ws_1", "ws_2"]).await.try_into().expect("two");
        let foreign = store.installed("org_2", "2").await;
        let [theirs] = store.subscribed(&foreign.id, "r1", &["ws_1"]).await.try_into().expect("one");
        let one = store.delivery_to(1, "org_1", &near, true).await;
        let two = store.delivery_to(2, "org_1", &far, false).await;
        let three = store.delivery_to(3, "org_2", &theirs, true).await;
        let four = store.delivery_to(4, "org_1", &near, true).await;
        let of_org = |org: &str| DeliveryFilter { org: Some(OrgId::from_raw(org)), ..DeliveryFilter::default() };
        let mine = || of_org("org_1");
        let dead = |filter: DeliveryFilter| DeliveryFilter { status: Some(DeliveryStatus::Dead), ..filter };
        let event = store.find_delivery(&signalbox::model::ids::DeliveryId::from_raw(&*two)).await.expect("read").expect("there").1.id;
        for (what, filter, expected) in [
            ("everything", DeliveryFilter::default(), vec![&four, &three, &two, &one]),
            ("an org's", mine(), vec![&four, &two, &one]),
            ("dead ones", dead(DeliveryFilter::default()), vec![&four, &three, &one]),
            ("an org's dead ones", dead(mine()), vec![&four, &one]),
            ("delivered ones", DeliveryFilter { status: Some(DeliveryStatus::Delivered), ..mine() }, vec![&two]),
            ("a provider's", DeliveryFilter { provider: Some("github".into()), ..mine() }, vec![&four, &two, &one]),
            ("no provider's", DeliveryFilter { provider: Some("linear".into()), ..mine() }, vec![]),
            ("an installation's", DeliveryFilter { installation: Some(installation.id.clone()), ..dead(mine()) }, vec![&four, &one]),
            ("a foreign installation's", DeliveryFilter { installation: Some(foreign.id.clone()), ..mine() }, vec![]),
            ("a workspace's", DeliveryFilter { workspace: Some(WorkspaceId::from_raw("ws_1")), ..mine() }, vec![&four, &two, &one]),
            ("an integration's", DeliveryFilter { integration: Some(far.clone()), ..mine() }, vec![&two]),
            ("a destination's", DeliveryFilter { destination: Some(DestinationId::from_raw("dst_9")), ..mine() }, vec![]),
            ("an event's", DeliveryFilter { event: Some(event.clone()), ..mine() }, vec![&two]),
            ("a foreign event's", DeliveryFilter { event: Some(event), ..of_org("org_2") }, vec![]),
            ("since", DeliveryFilter { since: Some(EpochMs(START.0 + 3_000)), ..mine() }, vec![&four]),
            ("until", DeliveryFilter { until: Some(EpochMs(START.0 + 2_000)), ..mine() }, vec![&one]),
        ] {
            let found = store.search_deliveries(&filter, page(10)).await.expect("searched");
            let ids: Vec<_> = found.items.iter().map(|(delivery, _)| delivery.id.as_str()).collect();
            assert_eq!(ids, expected, "{what}");
            assert_eq!((found.next_cursor, found.searched_back_to), (None, None), "{what}");
            let counted = store.count_deliveries(&filter, 10).await.expect("counted");
            assert_eq!((counted.count, counted.more), (expected.len() as u64, false), "{what}");
        }
        let first = store.search_deliveries(&dead(mine()), page(1)).await.expect("searched");
        let cursor = first.next_cursor.expect("there is more");
        let second = store.search_deliveries(&dead(mine()), after(&cursor, 1)).await.expect("searched");
        assert_eq!((second.items[0].0.id.as_str(), second.next_cursor), (one.as_str(), None));
        let counted = store.count_deliveries(&DeliveryFilter::default(), 3).await.expect("counted");
        assert_eq!((counted.count, counted.more), (3, true));
    }

    async fn a_search_that_stops_says_how_far_it_came_and_goes_on_from_there(store: TestStore) {
        let installation = store.installed("org_1", "1").await;
        let [integration] = store.subscribed(&installation.id, "r1", &["ws_1"]).await.try_into().expect("one");
        let oldest = store.delivery_to(1, "org_1", &integration, false).await;
        store.clock.advance(Duration::from_secs(1));
        // More of another org's than one search looks at, copied behind the store's back.
        store.meddle(
            "INSERT INTO gw_deliveries (id, event_id, integration_id, resource_id, workspace_id, org_id, status, attempts, \
             is_retry, due_at, replay, created_at) \
             WITH RECURSIVE n (i) AS (SELECT CAST(10000 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 37000) \
             SELECT 'dlv_019c923d10dc' || CAST(i AS TEXT), 'evt_x', 'int_x', 'res_x', 'ws_x', 'org_x', 'held', 0, false, 0, \
             false, 0 FROM n",
        ).await;
        store.contradicts_itself();
        let filter = DeliveryFilter { org: Some(org()), ..DeliveryFilter::default() };
        let mut cursor: Option<String> = None;
        let mut searches = 0;
        loop {
            let request = PageRequest { limit: 10, cursor: cursor.as_deref() };
            let found = store.search_deliveries(&filter, request).await.expect("searched");
            searches += 1;
            assert_eq!(found.next_cursor.is_some(), found.searched_back_to.is_some());
            if let Some((delivery, _)) = found.items.first() {
                assert_eq!(delivery.id.as_str(), oldest);
                assert_eq!(found.next_cursor, None);
                break;
            }
            assert!(found.searched_back_to.expect("it stopped") > START);
            cursor = found.next_cursor;
        }
        assert!(searches > 1, "one search does not look at everything");
        let counted = store.count_deliveries(&filter, 10).await.expect("counted");
        assert_eq!((counted.count, counted.more), (0, true), "it does not claim that there are none");
    }

    async fn a_deliverys_attempts_are_listed_oldest_first(store: TestStore) {
        let delivery = store.accept_one("d1").await;
        store.claim("node-a").await;
        for number in [1, 2] {
            store.clock.advance(Duration::from_secs(1));
            let record = store.attempt(&delivery.id, number, "node-a", DeliveryStatus::Dead);
            store.record_attempts(vec![record]).await.expect("recorded");
        }
        let attempts = store.list_attempts(&delivery.id).await.expect("read");
        assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
    }

    async fn keys_are_paged_newest_first_and_by_org(store: TestStore) {
        for number in 0..3_u8 {
            store.clock.advance(Duration::from_millis(2));
            let key = ApiKey {
                id: store.ids.key(), name: format!("k{number}"), hash: [number; 32], prefix: "sbx".into(),
                org: (number > 0).then(org), can_write: true, created_at: store.now(), last_used_at: None, revoked_at: None,
            };
            store.insert_key(&key, &store.entry("key.created")).await.expect("inserted");
        }
        let names = async |of: Option<&OrgId>, limit| {
            let page = store.list_keys_page(of, page(limit)).await.expect("read");
            (page.items.into_iter().map(|key| key.name).collect::<Vec<_>>(), page.next_cursor.is_some())
        };
        assert_eq!(names(None, 2).await, (vec!["k2".to_owned(), "k1".to_owned()], true));
        assert_eq!(names(Some(&org()), 5).await, (vec!["k2".to_owned(), "k1".to_owned()], false));
    }

    async fn what_is_counted_adds_up_and_is_summed_by_bucket_and_forgotten(store: TestStore) {
        let counted = |of: Option<OrgId>, minute: i64, provider: &str| Activity {
            org: of,
            at: EpochMs(minute * MINUTE_MS),
            provider: provider.into(),
            counts: ActivityCounts { routed: 1, delivered: 2, ..ActivityCounts::default() },
        };
        let rows = [
            counted(None, 30, "github"), counted(Some(org()), 30, "github"), counted(Some(org()), 31, "github"),
            counted(Some(org()), 31, "linear"), counted(Some(org()), 45, "github"), counted(Some(OrgId::from_raw("org_2")), 31, "github"),
        ];
        store.add_activity(&rows).await.expect("added");
        store.add_activity(&rows[..2]).await.expect("added");
        let list = async |of: Option<OrgId>, since: i64, until: i64, minutes| {
            let at = |minute: i64| EpochMs(minute * MINUTE_MS);
            let rows = store.list_activity(of.as_ref(), at(since), at(until), minutes).await.expect("read");
            rows.into_iter().map(|row| (row.at.0 / MINUTE_MS, row.provider, row.counts.routed, row.counts.delivered)).collect::<Vec<_>>()
        };
        let github = |minute, routed| (minute, "github".to_owned(), routed, routed * 2);
        assert_eq!(list(Some(org()), 0, 100, 15).await, [github(30, 3), (30, "linear".to_owned(), 1, 2), github(45, 1)]);
        assert_eq!(list(Some(org()), 31, 45, 1).await, [github(31, 1), (31, "linear".to_owned(), 1, 2)]);
        assert_eq!(list(None, 0, 100, 1).await, [github(30, 2)]);
        let cutoffs = RetentionCutoffs {
            events: EpochMs(0), dead_letters: EpochMs(0), quarantine: EpochMs(0), log: EpochMs(0), flows: EpochMs(0),
            activity: EpochMs(31 * MINUTE_MS),
        };
        store.delete_expired(&cutoffs, 10).await.expect("deleted");
        assert_eq!(list(Some(org()), 0, 100, 1).await.len(), 3);
        assert_eq!(list(None, 0, 100, 1).await, []);
    }
}
