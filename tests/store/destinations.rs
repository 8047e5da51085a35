//! Destinations.

use signalbox::model::{
    clock::EpochMs,
    destination::DestinationScope,
    ids::{DestinationId, OrgId},
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
}
