//! The dead letter queue.

use std::time::Duration;

use signalbox::model::{
    clock::EpochMs, delivery::DeliveryStatus, destination::DestinationScope, ids::OrgId, provider::ProviderDeliveryId,
};

use crate::{
    START,
    fixtures::{destination, org},
};

store_suite! {
    async fn dead_letters_are_listed_oldest_first(store: TestStore) {
        for number in 0..4 {
            store.clock.advance(Duration::from_secs(1));
            store.accept_one(&format!("d{number}")).await;
        }
        // They die in another order than they came in.
        let mut claimed = store.claim("node-a").await;
        claimed.reverse();
        for claimed in &claimed[..3] {
            store.clock.advance(Duration::from_secs(1));
            let record = store.attempt(&claimed.delivery.id, 1, "node-a", DeliveryStatus::Dead);
            store.record_attempts(vec![record]).await.expect("recorded");
        }
        let list = async |org: Option<&OrgId>, provider, limit, offset| {
            let letters = store.list_dead_letters(org, provider, limit, offset).await.expect("read").into_iter();
            letters.map(|letter| letter.event.provider_delivery_id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(list(None, None, 10, 0).await, ["d1", "d2", "d3"]);
        assert_eq!(list(Some(&org()), Some("github"), 2, 0).await, ["d1", "d2"]);
        assert_eq!(list(Some(&org()), Some("github"), 2, 2).await, ["d3"]);
        assert_eq!(list(Some(&OrgId::from_raw("org_2")), None, 10, 0).await, Vec::<String>::new());
        assert_eq!(list(None, Some("linear"), 10, 0).await, Vec::<String>::new());
        store.release_leases("node-a", None, store.now()).await.expect("released");
    }

    async fn dead_letters_are_found_by_the_providers_delivery_id(store: TestStore) {
        let mut event = store.with_delivery(store.with_delivery(store.event("d1")));
        event.deliveries[1].delivery.id = store.ids.delivery();
        store.accept_event(event).await.expect("stored");
        store.accept_one("d2").await;
        store.let_everything_die().await;
        let find = async |org: Option<&OrgId>, provider, id| {
            store.find_dead_letters(org, provider, &ProviderDeliveryId::new(id)).await.expect("read").len()
        };
        assert_eq!(find(None, "github", "d1").await, 2);
        assert_eq!(find(Some(&org()), "github", "d2").await, 1);
        assert_eq!(find(Some(&OrgId::from_raw("org_2")), "github", "d1").await, 0);
        assert_eq!(find(None, "linear", "d1").await, 0);
        assert_eq!(find(None, "github", "d3").await, 0);
    }

    async fn events_of_an_installation_with_dead_letters_are_listed_within_a_window_and_counted(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        for number in 0..5 {
            store.clock.advance(Duration::from_secs(1));
            // Each for two integrations.
            let mut event = store.with_delivery(store.with_delivery(store.event(&format!("d{number}"))));
            event.event.installation = Some(installation.id.clone());
            store.accept_event(event).await.expect("stored");
        }
        store.accept_one("of another installation").await;
        store.let_everything_die().await;
        let list = async |since: Option<i64>, until: Option<i64>, limit| {
            let at = |seconds| EpochMs(START.0 + seconds * 1_000);
            let listed = store.list_dead_of_installation(&installation.id, since.map(at), until.map(at), limit).await;
            let (letters, total) = listed.expect("read");
            let ids = letters.iter().map(|letter| letter.event.provider_delivery_id.as_str().to_owned());
            (ids.collect::<Vec<_>>(), total)
        };
        let twice = |ids: [&str; 2]| ids.iter().flat_map(|id| [(*id).to_owned(), (*id).to_owned()]).collect::<Vec<_>>();
        assert_eq!(list(None, None, 10).await.1, 5);
        assert_eq!(list(None, None, 2).await, (twice(["d0", "d1"]), 5));
        assert_eq!(list(Some(2), Some(4), 10).await, (twice(["d1", "d2"]), 2));

        let mut disabled = store.destination_for(DestinationScope::Org, "org_1");
        disabled.id = destination();
        disabled.disabled_reason = Some("gone".into());
        store.save_destination(&disabled, None, &store.entry("x")).await.expect("saved");
        assert_eq!(list(None, None, 2).await, (vec![], 0), "they would die again at once");
        let narrower = store.destination_for(DestinationScope::Workspace, "ws_1");
        store.save_destination(&narrower, None, &store.entry("x")).await.expect("saved");
        assert_eq!(list(None, None, 2).await, (twice(["d0", "d1"]), 5), "another serves their integrations now");
    }
}
