//! Destinations.

use signalbox::{
    model::{
        clock::EpochMs,
        destination::{Destination, DestinationScope},
        ids::{DestinationId, OrgId},
    },
    store::DestinationHealth,
};

use crate::fixtures::{org, page};

store_suite! {
    async fn a_destination_is_saved_replaced_and_deleted(store: TestStore) {
        let first = store.destination_for(DestinationScope::Workspace, "ws_1");
        assert!(store.save_destination(&first, None, &store.entry("destination.saved")).await.expect("saved"));
        assert_eq!(store.find_destination(&first.id).await.expect("read").as_ref(), Some(&first));

        let mut second = store.destination_for(DestinationScope::Workspace, "ws_1");
        second.url = "https://other.example/".into();
        second.created_at = EpochMs(9);
        second.previous_secret_sealed = Some("the old one".into());
        second.previous_until = Some(EpochMs(10));
        second.disabled_reason = Some("gone".into());
        second.failing_since = Some(EpochMs(11));
        let entry = store.entry("destination.saved");
        assert!(!store.save_destination(&second, None, &entry).await.expect("answered"), "there is one of this scope");
        second.id = first.id.clone();
        assert!(store.save_destination(&second, Some(&first), &entry).await.expect("saved"));
        let found = store.find_destination_of(&org(), DestinationScope::Workspace, "ws_1").await.expect("read");
        let kept = Destination { created_at: first.created_at, ..second.clone() };
        assert_eq!(found, Some(kept.clone()), "the time of creation stays");
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

    async fn a_destination_is_not_written_over_by_who_read_it_before_another_wrote_it(store: TestStore) {
        let seen = store.destination_for(DestinationScope::Workspace, "ws_1");
        store.save_destination(&seen, None, &store.entry("destination.created")).await.expect("saved");
        let save = async |row: &Destination, seen: &Destination| {
            store.save_destination(row, Some(seen), &store.entry("destination.saved")).await.expect("answered")
        };
        // Both may fall into the same millisecond.
        let rotated = Destination { secret_sealed: "the new one".into(), ..seen.clone() };
        assert!(save(&rotated, &seen).await);
        let put = Destination { url: "https://other.example/".into(), ..seen.clone() };
        assert!(!save(&put, &seen).await, "its secret was shown and would never sign");
        assert_eq!(store.find_destination(&seen.id).await.expect("read"), Some(rotated.clone()));

        let disabled = DestinationHealth::Disabled("gone");
        let entry = store.entry("destination.disabled");
        assert!(store.note_destination_health(&seen.id, &seen.url, disabled, EpochMs(20), &entry).await.expect("noted"));
        let again = Destination { secret_sealed: "a newer one".into(), ..rotated.clone() };
        assert!(!save(&again, &rotated).await, "it was disabled meanwhile");
        assert!(store.delete_destination(&seen.id, &store.entry("destination.deleted")).await.expect("deleted"));
        assert!(!save(&again, &rotated).await, "it was deleted meanwhile");
        assert_eq!(store.find_destination(&seen.id).await.expect("read"), None);
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 4, "only what happened");
    }

    async fn what_is_noted_of_a_destination_leaves_the_rest_of_its_row_alone(store: TestStore) {
        let mut row = store.destination_for(DestinationScope::Org, "org_1");
        store.save_destination(&row, None, &store.entry("destination.saved")).await.expect("saved");
        let note = async |health| {
            let entry = store.entry("destination.noted");
            store.note_destination_health(&row.id, &row.url, health, EpochMs(20), &entry).await.expect("answered")
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

        let entry = store.entry("destination.noted");
        for health in [DestinationHealth::FailingSince(EpochMs(9)), DestinationHealth::Disabled("failing")] {
            let of_another = store.note_destination_health(&row.id, "https://old.example/", health, EpochMs(21), &entry);
            assert!(!of_another.await.expect("answered"), "what was found out under a URL that was replaced");
        }
        row.id = DestinationId::from_raw("dst_none");
        let gone = DestinationHealth::Disabled("gone");
        let nobody = store.note_destination_health(&row.id, &row.url, gone, EpochMs(1), &entry);
        assert!(!nobody.await.expect("answered"));
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items.len(), 4, "only what happened");
    }
}
