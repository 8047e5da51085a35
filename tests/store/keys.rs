//! API keys.

use signalbox::{
    model::{clock::EpochMs, ids::KeyId},
    store::{ApiKey, StoreError},
};

use crate::{START, TestStore, fixtures::org};

fn key(store: &TestStore, hash: u8) -> ApiKey {
    ApiKey {
        id: store.ids.key(),
        name: "deploy".into(),
        hash: [hash; 32],
        prefix: "sbx_1234".into(),
        org: Some(org()),
        can_write: true,
        created_at: START,
        last_used_at: None,
        revoked_at: None,
    }
}

store_suite! {
    async fn a_key_is_found_by_its_hash_revoked_or_not(store: TestStore) {
        let (deploy, mut service) = (key(&store, 1), key(&store, 2));
        service.org = None;
        service.can_write = false;
        for key in [&deploy, &service] {
            store.insert_key(key, &store.entry("key.created")).await.expect("inserted");
        }
        assert_eq!(store.find_key(&[1; 32]).await.expect("read").as_ref(), Some(&deploy));
        assert_eq!(store.find_key(&[2; 32]).await.expect("read").as_ref(), Some(&service));
        assert_eq!(store.find_key(&[3; 32]).await.expect("read"), None);
        assert_eq!(store.list_keys().await.expect("read").len(), 2);
        let again = store.insert_key(&key(&store, 1), &store.entry("key.created")).await;
        assert!(matches!(again, Err(StoreError::NotUnique { table: "gw_api_keys" })), "{again:?}");

        let revoke = async |id: &KeyId| {
            store.revoke_key(id, EpochMs(5), &store.entry("key.revoked")).await.expect("answered")
        };
        assert!(revoke(&deploy.id).await);
        assert!(!revoke(&deploy.id).await, "revoked already");
        assert!(!revoke(&KeyId::from_raw("key_none")).await);
        let found = store.find_key(&[1; 32]).await.expect("read").expect("there");
        assert_eq!(found.revoked_at, Some(EpochMs(5)));
    }

    async fn the_last_use_of_a_key_moves_forward_only(store: TestStore) {
        let key = key(&store, 1);
        store.insert_key(&key, &store.entry("key.created")).await.expect("inserted");
        for (at, expected) in [(5, 5), (3, 5), (8, 8)] {
            store.touch_keys(vec![(key.id.clone(), EpochMs(at))]).await.expect("touched");
            assert_eq!(store.list_keys().await.expect("read")[0].last_used_at, Some(EpochMs(expected)));
        }
    }
}
