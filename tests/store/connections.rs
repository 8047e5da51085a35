//! What an installation's row keeps beside its routing: what is visible at the provider, and the provider's health; what
//! revives it; and what healing asks about its events.

use std::time::Duration;

use serde_json::json;
use signalbox::{
    model::{
        ids::{InstallationId, OrgId},
        installation::{Installation, InstallationStatus},
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId},
    },
    store::{InstallationRecord, Rhythm, StoreError},
};

use crate::{GITHUB, LINEAR, fixtures::page};

store_suite! {
    async fn a_connection_that_is_refused_leaves_neither_token_nor_entry(store: TestStore) {
        store.insert_connected("4711").await;
        let second = store.installation("4711");
        let token = store.token(&second.id);
        let refused = store.insert_connection(&second, Some(&token), &store.entry("x")).await;
        assert!(matches!(refused, Err(StoreError::NotUnique { table: "gw_installations" })), "{refused:?}");
        assert_eq!(store.find_token(&second.id).await.expect("read"), None);
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 1);
    }

    async fn the_newest_ended_row_of_an_org_is_found(store: TestStore) {
        let external = ExternalId::new("4711");
        let other_org = OrgId::from_raw("org_2");
        let ended = async |org: &OrgId| {
            let installation = Installation { status: InstallationStatus::Revoked, org: org.clone(), ..store.installation("4711") };
            store.insert_connection(&installation, None, &store.entry("x")).await.expect("inserted");
            // Ids of one moment have no order.
            store.clock.advance(Duration::from_millis(1));
            installation
        };
        let org = crate::fixtures::org();
        ended(&org).await;
        let newest = ended(&org).await;
        let others = ended(&other_org).await;
        store.insert_installation_of("4711").await;
        let find = async |provider, org| store.find_ended_installation(provider, &external, org).await.expect("read");
        assert_eq!(find(GITHUB, Some(&org)).await, Some(newest));
        assert_eq!(find(GITHUB, Some(&other_org)).await, Some(others.clone()));
        assert_eq!(find(GITHUB, None).await, Some(others), "the newest of all");
        assert_eq!(find(LINEAR, Some(&org)).await, None);
        assert_eq!(find(LINEAR, None).await, None);
        assert_eq!(find(GITHUB, Some(&OrgId::from_raw("org_3"))).await, None);
    }

    async fn what_a_provider_showed_and_its_health_are_kept_and_survive_changes(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let id = &installation.id;
        assert_eq!(store.find_visible_resources(id).await.expect("read"), None);
        assert_eq!(store.find_provider_health(id).await.expect("read"), None);
        let visible = vec![ProviderResourceId::new("r1"), ProviderResourceId::new("r\"2")];
        store.save_visible_resources(id, &visible, store.now()).await.expect("saved");
        let health = json!({"webhookDisabled": true, "text": "\u{0}"});
        store.save_provider_health(id, Some(&health)).await.expect("saved");
        assert_eq!(store.find_installation(id).await.expect("read"), Some(installation.clone()), "nothing else moved");
        let change = Box::new(|record: &mut InstallationRecord| {
            record.installation.account_login = Some("renamed".into());
            true
        });
        store.change_installation(id, change).await.expect("changed");
        assert_eq!(store.find_visible_resources(id).await.expect("read"), Some(visible));
        assert_eq!(store.find_provider_health(id).await.expect("read"), Some(health));
        store.save_visible_resources(id, &[], store.now()).await.expect("saved");
        store.save_provider_health(id, None).await.expect("saved");
        assert_eq!(store.find_visible_resources(id).await.expect("read"), Some(Vec::new()), "looked, and saw nothing");
        assert_eq!(store.find_provider_health(id).await.expect("read"), None);
        assert_eq!(store.find_visible_resources(&InstallationId::from_raw("in_none")).await.expect("read"), None);
    }

    async fn the_rhythm_is_that_of_the_newest_events_of_the_installation(store: TestStore) {
        store.contradicts_itself();
        let id = InstallationId::from_raw("in_1");
        let rhythm = async |limit| store.find_rhythm(&id, limit).await.expect("read");
        assert_eq!(rhythm(3).await, None);
        let mut arrivals = Vec::new();
        for number in 0..4 {
            store.accept_event(store.event(&format!("d{number}"))).await.expect("stored");
            arrivals.push(store.now());
            if number == 0 {
                assert_eq!(rhythm(3).await, None, "one event has no rhythm");
            }
            store.clock.advance(Duration::from_secs(10));
            let mut elsewhere = store.event(&format!("e{number}"));
            elsewhere.event.installation = Some(InstallationId::from_raw("in_2"));
            store.accept_event(elsewhere).await.expect("stored");
        }
        assert_eq!(rhythm(3).await, Some(Rhythm { events: 3, oldest: arrivals[1], newest: arrivals[3] }));
        assert_eq!(rhythm(100).await, Some(Rhythm { events: 4, oldest: arrivals[0], newest: arrivals[3] }));
    }

    async fn which_webhooks_arrived_is_answered_in_the_order_asked(store: TestStore) {
        for id in ["d1", "d2", "d3\u{0}"] {
            store.accept_one(id).await;
        }
        let ids = ["d4", "d3\u{0}", "d1", "d\"", "d1"].map(ProviderDeliveryId::new);
        let received = store.list_received(GITHUB, &ids).await.expect("read");
        assert_eq!(received, ["d3\u{0}", "d1", "d1"].map(ProviderDeliveryId::new));
        assert!(store.list_received(LINEAR, &ids).await.expect("read").is_empty());
        assert!(store.list_received(GITHUB, &[]).await.expect("read").is_empty());
    }
}
