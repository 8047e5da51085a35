//! Destinations.

use signalbox::{
    model::{
        clock::EpochMs,
        destination::DestinationScope,
        ids::{DestinationId, OrgId},
    },
    store::DestinationHealth,
};

use crate::fixtures::{org, page};

store_suite! {
    async fn a_destination_is_saved_replaced_and_deleted(store: TestStore) {
        let first = store.destination_for(DestinationScope::Workspace, "ws_1");
        store.save_destination(&first, &store.entry("destination.saved")).await.expect("saved");
        assert_eq!(store.find_destination(&first.id).await.expect("read").as_ref(), Some(&first));

        let mut second = store.destination_for(DestinationScope::Workspace, "ws_1");
        second.url = "https://other.example/".into();
        second.created_at = EpochMs(9);
        second.previous_secret_sealed = Some("the old one".into());
        second.previous_until = Some(EpochMs(10));
        second.disabled_reason = Some("gone".into());
        second.failing_since = Some(EpochMs(11));
        store.save_destination(&second, &store.entry("destination.saved")).await.expect("saved");
        let found = store.find_destination_of(&org(), DestinationScope::Workspace, "ws_1").await.expect("read");
        let mut kept = second.clone();
        (kept.id, kept.created_at) = (first.id.clone(), first.created_at);
        assert_eq!(found, Some(kept.clone()), "the id and the time of creation stay");
        assert_eq!(store.list_destinations(&org()).await.expect("read"), [kept]);
        assert_eq!(store.list_destinations(&OrgId::from_raw("org_2")).await.expect("read"), []);
        let other_scope = store.find_destination_of(&org(), DestinationScope::Org, "ws_1").await.expect("read");
        assert_eq!(other_scope, None);

        assert!(store.delete_destination(&first.id, &store.entry("destination.deleted")).await.expect("deleted"));
        assert!(!store.delete_destination(&first.id, &store.entry("destination.deleted")).await.expect("answered"));
        assert_eq!(store.find_destination(&first.id).await.expect("read"), None);
        assert_eq!(store.find_destination(&DestinationId::from_raw("\u{0}")).await.expect("read"), None);
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 3, "only what happened");
    }

    async fn what_is_noted_of_a_destination_leaves_the_rest_of_its_row_alone(store: TestStore) {
        let mut row = store.destination_for(DestinationScope::Org, "org_1");
        store.save_destination(&row, &store.entry("destination.saved")).await.expect("saved");
        let note = async |health| {
            let entry = store.entry("destination.noted");
            store.note_destination_health(&row.id, health, EpochMs(20), &entry).await.expect("answered")
        };
        assert!(note(DestinationHealth::FailingSince(EpochMs(7))).await);
        assert!(!note(DestinationHealth::FailingSince(EpochMs(8))).await, "it is noted already");
        assert!(note(DestinationHealth::Disabled("gone")).await);
        assert!(!note(DestinationHealth::Disabled("failing")).await);
        let found = async || store.find_destination(&row.id).await.expect("read").expect("there");
        let noted = found().await;
        assert_eq!((noted.failing_since, noted.disabled_reason.as_deref()), (Some(EpochMs(7)), Some("gone")));
        assert_eq!((&noted.url, &noted.secret_sealed), (&row.url, &row.secret_sealed));
        assert!(note(DestinationHealth::Recovered).await);
        assert!(!note(DestinationHealth::Recovered).await);
        assert_eq!(found().await.failing_since, None);

        row.id = DestinationId::from_raw("dst_none");
        let entry = store.entry("destination.noted");
        let nobody = store.note_destination_health(&row.id, DestinationHealth::Disabled("gone"), EpochMs(1), &entry);
        assert!(!nobody.await.expect("answered"));
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 4, "only what happened");
    }
}
