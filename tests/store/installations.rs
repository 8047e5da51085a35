//! Installations, resources, integrations.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use signalbox::{
    model::{
        clock::EpochMs,
        destination::DestinationScope,
        ids::{InstallationId, IntegrationId, OrgId, WorkspaceId},
        installation::InstallationStatus,
        integration::IntegrationStatus,
        provider::{ExternalId, ProviderResourceId},
        resource::ResourceStatus,
    },
    store::{PageRequest, StoreError},
};

use crate::{
    GITHUB, LINEAR,
    fixtures::{org, page},
};

store_suite! {
    async fn an_installation_is_read_back_as_it_was_written(store: TestStore) {
        let mut installation = store.installation("4711");
        installation.alternate_external_id = Some(ExternalId::new("icfg_1"));
        installation.status_reason = Some("why not".into());
        installation.control_at = Some(EpochMs(1));
        installation.last_event_at = Some(EpochMs(2));
        let entry = store.entry("installation.created");
        store.insert_connection(&installation, None, &entry).await.expect("it is inserted");
        assert_eq!(store.find_installation(&installation.id).await.expect("read"), Some(installation));
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items, vec![entry]);
        assert_eq!(store.find_installation(&InstallationId::from_raw("in_none")).await.expect("read"), None);
    }

    async fn a_workspace_that_is_new_to_an_installation_brings_its_destination(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let destination = store.destination_for(DestinationScope::Workspace, "ws_new");
        store.save_destination(&destination, None, &store.entry("destination.created")).await.expect("saved");
        let resource = store.resource(&installation.id, "r1");
        let integration = store.integration(&resource, "ws_new");
        let subscribe = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
            record.resources.push(resource);
            record.integrations.push(integration);
            true
        });
        let changed = store.change_installation(&installation.id, subscribe).await.expect("changed").expect("there");
        assert_eq!(changed.destinations, [destination], "the record that is answered is whole");
        let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!(changed.destinations, loaded.destinations);
    }

    async fn an_integration_that_is_given_away_is_in_the_other_installations_record(store: TestStore) {
        let (giving, receiving) = (store.insert_installation_of("1").await, store.insert_installation_of("2").await);
        let (here, there) = (store.resource(&giving.id, "r1"), store.resource(&receiving.id, "r1"));
        let integration = store.integration(&here, "ws_1");
        let mut moved = integration.clone();
        (moved.installation, moved.resource) = (receiving.id.clone(), there.id.clone());
        for (installation, resource, integrations) in [(&giving, here, vec![integration]), (&receiving, there, vec![])] {
            let link = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
                record.resources.push(resource);
                record.integrations.extend(integrations);
                true
            });
            store.change_installation(&installation.id, link).await.expect("changed");
        }
        let given = moved.clone();
        let give = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
            record.integrations[0] = given;
            true
        });
        let changed = store.change_installation(&giving.id, give).await.expect("changed").expect("there");
        assert_eq!(changed.integrations, []);
        for (installation, integrations) in [(&giving, vec![]), (&receiving, vec![moved])] {
            let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
            assert_eq!(loaded.integrations, integrations);
        }
    }

    async fn one_account_has_one_installation_that_is_not_revoked(store: TestStore) {
        let first = store.insert_installation_of("4711").await;
        let refused = store.insert_connection(&store.installation("4711"), None, &store.entry("x")).await;
        assert!(matches!(refused, Err(StoreError::NotUnique { table: "gw_installations" })), "{refused:?}");
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 1, "nothing half done");

        let revoke = Box::new(|record: &mut signalbox::store::InstallationRecord| {
            record.installation.status = InstallationStatus::Revoked;
            true
        });
        store.change_installation(&first.id, revoke).await.expect("changed");
        assert_eq!(store.find_live_installation(GITHUB, &ExternalId::new("4711")).await.expect("read"), None);
        let second = store.insert_installation_of("4711").await;
        let live = store.find_live_installation(GITHUB, &ExternalId::new("4711")).await.expect("read");
        assert_eq!(live, Some(second));
    }

    async fn an_account_is_found_by_its_alternate_id_too_and_within_its_provider_only(store: TestStore) {
        let mut installation = store.installation("team_1");
        installation.alternate_external_id = Some(ExternalId::new("icfg_1"));
        store.insert_connection(&installation, None, &store.entry("x")).await.expect("inserted");
        for id in ["team_1", "icfg_1"] {
            let found = store.find_live_installation(GITHUB, &ExternalId::new(id)).await.expect("read");
            assert_eq!(found.as_ref(), Some(&installation), "by {id}");
            assert_eq!(store.find_live_installation(LINEAR, &ExternalId::new(id)).await.expect("read"), None);
        }
        // An external id wins over an alternate one.
        let other = store.insert_installation_of("icfg_1").await;
        let found = store.find_live_installation(GITHUB, &ExternalId::new("icfg_1")).await.expect("read");
        assert_eq!(found, Some(other));
    }

    async fn a_resource_finds_the_routing_installations_that_have_it_active(store: TestStore) {
        let mut holders = BTreeSet::new();
        for (external, status, resource_status) in [
            ("1", InstallationStatus::Active, ResourceStatus::Active),
            ("2", InstallationStatus::NeedsReauth, ResourceStatus::Active),
            ("3", InstallationStatus::Suspended, ResourceStatus::Active),
            ("4", InstallationStatus::Active, ResourceStatus::Removed),
        ] {
            let mut installation = store.installation(external);
            installation.status = status;
            store.insert_connection(&installation, None, &store.entry("x")).await.expect("inserted");
            let mut resource = store.resource(&installation.id, "r1");
            resource.status = resource_status;
            let link = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
                record.resources.push(resource);
                true
            });
            store.change_installation(&installation.id, link).await.expect("changed");
            if external == "1" || external == "2" {
                holders.insert(installation.id);
            }
        }
        let by_resource = async |provider, id| {
            let found = store.find_installations_by_resource(provider, &ProviderResourceId::new(id)).await;
            found.expect("read").into_iter().map(|installation| installation.id).collect::<BTreeSet<_>>()
        };
        assert_eq!(by_resource(GITHUB, "r1").await, holders);
        assert_eq!(by_resource(GITHUB, "r2").await, BTreeSet::new());
        assert_eq!(by_resource(LINEAR, "r1").await, BTreeSet::new());
        let routing = store.list_routing_installations().await.expect("read");
        assert_eq!(routing.len(), 3, "active twice, needs_reauth once");
    }

    async fn installations_are_listed_newest_first_page_by_page(store: TestStore) {
        let mut ids = Vec::new();
        for number in 0..5 {
            store.clock.advance(Duration::from_millis(1));
            ids.push(store.insert_installation_of(&number.to_string()).await.id);
        }
        ids.reverse();
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let request = PageRequest { limit: 2, cursor: cursor.as_deref() };
            let page = store.list_installations(Some(&org()), Some("github"), None, request).await.expect("read");
            assert!(page.items.len() <= 2);
            seen.extend(page.items.into_iter().map(|installation| installation.id));
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, ids);
        let other_org = OrgId::from_raw("org_2");
        for (org, provider, status) in [
            (Some(&other_org), None, None),
            (None, Some("linear"), None),
            (None, None, Some(InstallationStatus::Revoked)),
        ] {
            let page = store.list_installations(org, provider, status, page(10)).await.expect("read");
            assert_eq!(page.items, vec![]);
        }
        for cursor in ["", "\u{0}", "zzzz", "'; DROP TABLE gw_events"] {
            let request = PageRequest { limit: 0, cursor: Some(cursor) };
            store.list_installations(None, None, None, request).await.expect("any cursor is a cursor");
        }
    }

    async fn a_change_writes_what_differs_and_answers_the_record_as_it_is_now(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let resource = store.resource(&installation.id, "r1");
        let integration = store.integration(&resource, "ws_1");
        let own = store.destination_for(DestinationScope::Integration, integration.id.as_str());
        let workspaces = store.destination_for(DestinationScope::Workspace, "ws_1");
        let others = store.destination_for(DestinationScope::Workspace, "ws_2");
        for destination in [&own, &workspaces, &others] {
            store.save_destination(destination, None, &store.entry("x")).await.expect("saved");
        }
        let entry = store.entry("resource.linked");
        let (linked, with, logged) = (resource.clone(), integration.clone(), entry.clone());
        let changed = store
            .change_installation(&installation.id, Box::new(move |record| {
                assert_eq!(record.resources, vec![]);
                record.resources.push(linked);
                record.integrations.push(with);
                record.log.push(logged);
                true
            }))
            .await
            .expect("changed")
            .expect("there");
        assert_eq!(changed.log, vec![]);
        let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!(loaded.resources, changed.resources);
        assert_eq!(loaded.integrations, vec![integration.clone()]);
        let mut serving: Vec<_> = loaded.destinations.iter().map(|destination| destination.id.clone()).collect();
        serving.sort();
        let mut expected = vec![own.id, workspaces.id];
        expected.sort();
        assert_eq!(serving, expected, "another workspace's destination does not serve");
        assert!(store.list_log(None, None, page(10)).await.expect("read").items.contains(&entry));

        // Editing rows in place.
        let changed = store
            .change_installation(&installation.id, Box::new(|record| {
                record.installation.status = InstallationStatus::Suspended;
                record.installation.metadata.insert("note".into(), json!("\u{0}"));
                record.resources[0].status = ResourceStatus::Removed;
                record.integrations[0].status = IntegrationStatus::Removed;
                record.integrations[0].status_reason = Some("unlinked".into());
                true
            }))
            .await
            .expect("changed")
            .expect("there");
        let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!(loaded, changed);
        assert_eq!(store.find_integration(&integration.id).await.expect("read"), Some(loaded.integrations[0].clone()));
    }

    async fn a_change_that_says_no_or_fails_leaves_everything_as_it_was(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let answer = store
            .change_installation(&installation.id, Box::new(|record| {
                record.installation.status = InstallationStatus::Revoked;
                false
            }))
            .await
            .expect("answered")
            .expect("there");
        assert_eq!(answer.installation, installation);

        let (resource, other) = (store.resource(&installation.id, "r1"), store.resource(&installation.id, "r1"));
        let refused = store
            .change_installation(&installation.id, Box::new(move |record| {
                record.installation.status = InstallationStatus::Suspended;
                record.resources.extend([resource, other]);
                true
            }))
            .await;
        assert!(matches!(refused, Err(StoreError::NotUnique { table: "gw_resources" })), "{refused:?}");
        let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!((loaded.installation, loaded.resources), (installation, vec![]));

        let nowhere = InstallationId::from_raw("in_none");
        assert_eq!(store.change_installation(&nowhere, Box::new(|_| true)).await.expect("answered"), None);
        assert_eq!(store.load_installation(&nowhere).await.expect("read"), None);
    }

    async fn concurrent_changes_of_one_installation_do_not_overwrite_each_other(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let changes = (0..16).map(|number| {
            let (store, id) = (store.clone(), installation.id.clone());
            tokio::spawn(async move {
                let insert = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
                    record.installation.metadata.insert(format!("change{number}"), json!(number));
                    true
                });
                store.change_installation(&id, insert).await.expect("changed");
            })
        });
        futures_util::future::join_all(changes).await.into_iter().for_each(|done| done.expect("no panic"));
        let kept = store.find_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!(kept.metadata.keys().filter(|key| key.starts_with("change")).count(), 16);
    }

    async fn a_workspace_sees_its_integrations_with_their_resources(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let resources = [store.resource(&installation.id, "r1"), store.resource(&installation.id, "r2")];
        let mut paused = store.integration(&resources[1], "ws_1");
        paused.status = IntegrationStatus::Paused;
        let integrations = [store.integration(&resources[0], "ws_1"), store.integration(&resources[0], "ws_2"), paused];
        let (linked, with) = (resources.clone(), integrations.clone());
        let link = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
            record.resources.extend(linked);
            record.integrations.extend(with);
            true
        });
        store.change_installation(&installation.id, link).await.expect("changed");
        let workspace = WorkspaceId::from_raw("ws_1");
        let mut listed = store.list_workspace_integrations(&org(), &workspace, None).await.expect("read");
        listed.sort_by(|a, b| a.1.provider_resource_id.cmp(&b.1.provider_resource_id));
        assert_eq!(listed, vec![
            (integrations[0].clone(), resources[0].clone()),
            (integrations[2].clone(), resources[1].clone()),
        ]);
        let active = store
            .list_workspace_integrations(&org(), &workspace, Some(IntegrationStatus::Active)).await.expect("read");
        assert_eq!(active.len(), 1);
        let foreign = store
            .list_workspace_integrations(&OrgId::from_raw("org_2"), &workspace, None).await.expect("read");
        assert_eq!(foreign, vec![]);

        let again = store.integration(&resources[0], "ws_1");
        let twice = Box::new(move |record: &mut signalbox::store::InstallationRecord| {
            record.integrations.push(again);
            true
        });
        let refused = store.change_installation(&installation.id, twice).await;
        assert!(matches!(refused, Err(StoreError::NotUnique { table: "workspace_integrations" })), "{refused:?}");
    }

    async fn however_many_look_for_an_installation_at_once_everybody_has_a_turn(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        for _round in 0..10 {
            let looking = (0..100).map(|_| async {
                let found = store.find_live_installation(GITHUB, &installation.external_id).await.expect("in time");
                let loaded = store.load_installation(&installation.id).await.expect("in time");
                assert_eq!(found.map(|found| found.id), loaded.map(|record| record.installation.id));
            });
            futures_util::future::join_all(looking).await;
        }
    }

    async fn the_time_of_the_last_event_moves_forward_only(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let nobody = IntegrationId::from_raw("int_none");
        for (at, expected) in [(5, 5), (9, 9), (7, 9)] {
            let touched = vec![(installation.id.clone(), EpochMs(at))];
            store.touch_last_event(touched, vec![(nobody.clone(), EpochMs(at))]).await.expect("touched");
            let read = store.find_installation(&installation.id).await.expect("read").expect("there");
            assert_eq!(read.last_event_at, Some(EpochMs(expected)));
        }
    }

    async fn a_row_of_a_provider_we_do_not_have_is_inconsistent(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        store.meddle("UPDATE gw_installations SET provider = 'acme'").await;
        let refused = store.find_installation(&installation.id).await;
        let Err(StoreError::Inconsistent { table, column, row }) = refused else { panic!("{refused:?}") };
        assert_eq!((table, column, row.as_str()), ("gw_installations", "provider", installation.id.as_str()));
    }
}
