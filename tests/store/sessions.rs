//! Sessions of the console.

use signalbox::{
    model::{clock::EpochMs, ids::KeyId, session::ConsoleSession},
    store::{ApiKey, StoreError},
};

use crate::{START, TestStore, fixtures::org};

fn session(hash: u8, key: &str) -> ConsoleSession {
    ConsoleSession {
        hash: [hash; 32],
        key: KeyId::from_raw(key),
        masked_key_hash: [hash.wrapping_add(1); 32],
        user: Some("ada".into()),
        created_at: START,
        last_seen_at: START,
        expires_at: EpochMs(START.0 + 1_000),
    }
}

impl TestStore {
    async fn begun_session(&self, hash: u8, key: &str) -> ConsoleSession {
        let session = session(hash, key);
        self.insert_session(&session, &self.entry("session.began")).await.expect("inserted");
        session
    }
}

store_suite! {
    async fn a_session_is_found_by_its_hash_until_it_is_ended(store: TestStore) {
        let one = store.begun_session(1, "key_1").await;
        let other = ConsoleSession { user: None, ..session(2, "key_1") };
        store.insert_session(&other, &store.entry("session.began")).await.expect("inserted");
        assert_eq!(store.find_session(&[1; 32]).await.expect("read"), Some(one.clone()));
        assert_eq!(store.find_session(&[2; 32]).await.expect("read"), Some(other));
        assert_eq!(store.find_session(&[3; 32]).await.expect("read"), None);
        let again = store.insert_session(&one, &store.entry("session.began")).await;
        assert!(matches!(again, Err(StoreError::NotUnique { table: "gw_sessions" })), "{again:?}");

        assert!(store.end_session(&[1; 32], &store.entry("session.ended")).await.expect("answered"));
        assert!(!store.end_session(&[1; 32], &store.entry("session.ended")).await.expect("answered"), "once");
        assert_eq!(store.find_session(&[1; 32]).await.expect("read"), None);
        assert!(store.find_session(&[2; 32]).await.expect("read").is_some());
        store.touch_session(&[1; 32], EpochMs(START.0 + 5), EpochMs(START.0 + 9_000)).await.expect("answered");
        assert_eq!(store.find_session(&[1; 32]).await.expect("read"), None, "an ended one stays ended");
    }

    async fn the_use_of_a_session_moves_forward_only(store: TestStore) {
        store.begun_session(1, "key_1").await;
        for (seen, expires, expected) in [(5, 2_005, (5, 2_005)), (3, 1_003, (5, 2_005)), (8, 2_008, (8, 2_008))] {
            let at = |ms: i64| EpochMs(START.0 + ms);
            store.touch_session(&[1; 32], at(seen), at(expires)).await.expect("touched");
            let found = store.find_session(&[1; 32]).await.expect("read").expect("there");
            assert_eq!((found.last_seen_at, found.expires_at), (at(expected.0), at(expected.1)));
        }
    }

    async fn a_revoked_key_takes_its_sessions_and_no_others(store: TestStore) {
        let key = ApiKey {
            id: KeyId::from_raw("key_1"),
            name: "desk".into(),
            hash: [7; 32],
            prefix: "sbx_1234".into(),
            org: Some(org()),
            can_write: true,
            created_at: START,
            last_used_at: None,
            revoked_at: None,
        };
        store.insert_key(&key, &store.entry("key.created")).await.expect("inserted");
        for (hash, of) in [(1, "key_1"), (2, "key_2"), (3, "key_1")] {
            store.begun_session(hash, of).await;
        }
        assert!(store.revoke_key(&key.id, START, &store.entry("key.revoked")).await.expect("answered"));
        for (hash, is_left) in [(1, false), (2, true), (3, false)] {
            assert_eq!(store.find_session(&[hash; 32]).await.expect("read").is_some(), is_left, "{hash}");
        }
    }

    async fn expired_sessions_are_deleted_a_few_at_a_time(store: TestStore) {
        for hash in 1..=5 {
            store.begun_session(hash, "key_1").await;
        }
        let later = ConsoleSession { expires_at: EpochMs(START.0 + 2_000), ..session(6, "key_1") };
        store.insert_session(&later, &store.entry("session.began")).await.expect("inserted");
        let now = EpochMs(START.0 + 1_001);
        for left in [2, 2, 1, 0] {
            assert_eq!(store.delete_expired_sessions(now, 2).await.expect("deleted"), left);
        }
        assert_eq!(store.find_session(&[6; 32]).await.expect("read"), Some(later));
    }
}
