//! Tokens: written with their installation, refreshed by one node at a time, fenced by their generation.

use std::time::Duration;

use futures_util::future::join_all;
use signalbox::{
    model::{
        clock::{Clock as _, EpochMs, SystemClock},
        ids::InstallationId,
        installation::InstallationStatus,
        token::{RefreshClaim, SealedToken, TokenEdit},
    },
    store::InstallationRecord,
};

use crate::{GITHUB, LINEAR, TestStore, on_postgres, on_sqlite};

impl TestStore {
    async fn stored_token(&self, installation: &InstallationId) -> SealedToken {
        self.find_token(installation).await.expect("read").expect("it is there")
    }

    async fn edit_token(&self, installation: &InstallationId, edit: TokenEdit) {
        let edit = Box::new(move |record: &mut InstallationRecord| {
            assert_eq!(record.token, TokenEdit::Keep, "as it is loaded");
            record.token = edit;
            true
        });
        let changed = self.change_installation(installation, edit).await.expect("changed").expect("there");
        assert_eq!(changed.token, TokenEdit::Keep, "it is done");
    }

    /// Claims for ten seconds.
    async fn claim_token(&self, token: &SealedToken, owner: &str) -> bool {
        let claiming =
            self.claim_token_refresh(&token.installation, token.generation, owner, self.now(), self.at(10_000));
        claiming.await.expect("answered")
    }

    /// Lets so much time pass for claims, by whichever clock they are judged by.
    async fn wait_for_claims(&self, time: Duration) {
        if self.server_time().await.expect("answered").is_some() {
            let earlier = format!("UPDATE gw_tokens SET refreshing_until = refreshing_until - {}", time.as_millis());
            self.meddle(earlier).await;
        } else {
            self.clock.advance(time);
        }
    }
}

/// Whether a node takes over a claim that ends in an hour, if its clock is two hours ahead of the server's.
async fn a_node_that_is_ahead_may_claim(store: &TestStore) -> bool {
    let token = store.insert_connected("4711").await;
    let now = SystemClock.now();
    let hours = |hours| now.plus(Duration::from_hours(hours));
    let claim = async |owner, now, until| {
        store.claim_token_refresh(&token.installation, 1, owner, now, until).await.expect("answered")
    };
    assert!(claim("node-a", now, hours(1)).await);
    claim("node-b", hours(2), hours(3)).await
}

/// Whether a claim for half a minute is taken over at once from a node whose clock is a minute behind the server's.
async fn a_node_that_is_behind_may_be_overtaken(store: &TestStore) -> bool {
    let token = store.insert_connected("4711").await;
    let now = SystemClock.now();
    let claim = async |owner, now: EpochMs| {
        let until = now.plus(Duration::from_secs(30));
        store.claim_token_refresh(&token.installation, 1, owner, now, until).await.expect("answered")
    };
    assert!(claim("node-a", now.minus(Duration::from_mins(1))).await);
    claim("node-b", now).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_token_lasts_as_long_as_it_was_made_for_whatever_its_nodes_clock_says() {
    on_postgres(async |store: TestStore| assert!(!a_node_that_is_behind_may_be_overtaken(&store).await)).await;
    on_sqlite(async |store: TestStore| {
        assert!(a_node_that_is_behind_may_be_overtaken(&store).await, "there is one clock");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_token_has_not_lapsed_because_one_nodes_clock_is_ahead_of_the_servers() {
    on_postgres(async |store: TestStore| assert!(!a_node_that_is_ahead_may_claim(&store).await)).await;
    on_sqlite(async |store: TestStore| assert!(a_node_that_is_ahead_may_claim(&store).await, "there is one clock"))
        .await;
}

store_suite! {
    async fn a_token_is_inserted_with_its_installation_and_read_back_as_it_was_written(store: TestStore) {
        let token = store.insert_connected("4711").await;
        assert_eq!(store.stored_token(&token.installation).await, token);
        let without = store.insert_installation_of("4712").await;
        assert_eq!(store.find_token(&without.id).await.expect("read"), None);
    }

    async fn an_edit_writes_a_token_one_generation_above_the_one_that_was_there(store: TestStore) {
        let first = store.insert_connected("4711").await;
        assert!(store.claim_token(&first, "node-a").await);
        store.clock.advance(Duration::from_secs(1));
        let second = SealedToken { access: "other".into(), refresh: None, generation: 77, ..store.token(&first.installation) };
        store.edit_token(&first.installation, TokenEdit::Put(Box::new(second.clone()))).await;
        let expected = SealedToken { generation: 2, claim: None, created_at: first.created_at, ..second };
        assert_eq!(store.stored_token(&first.installation).await, expected, "and the claim has ended");

        store.edit_token(&first.installation, TokenEdit::Keep).await;
        assert_eq!(store.stored_token(&first.installation).await, expected);
        store.edit_token(&first.installation, TokenEdit::Delete).await;
        assert_eq!(store.find_token(&first.installation).await.expect("read"), None);
        store.edit_token(&first.installation, TokenEdit::Delete).await;
        let third = store.token(&first.installation);
        store.edit_token(&first.installation, TokenEdit::Put(Box::new(third.clone()))).await;
        assert_eq!(store.stored_token(&first.installation).await, third, "the first of its row");
    }

    async fn an_edit_that_is_not_kept_leaves_the_token_alone(store: TestStore) {
        let token = store.insert_connected("4711").await;
        let regret = Box::new(|record: &mut InstallationRecord| {
            record.token = TokenEdit::Delete;
            false
        });
        store.change_installation(&token.installation, regret).await.expect("answered");
        assert_eq!(store.stored_token(&token.installation).await, token);
    }

    async fn of_many_nodes_that_want_to_refresh_a_token_one_may(store: TestStore) {
        let token = store.insert_connected("4711").await;
        let owners: Vec<String> = (0..16).map(|number| format!("node-{number}")).collect();
        let claims = join_all(owners.iter().map(|owner| store.claim_token(&token, owner))).await;
        let winners: Vec<&String> = owners.iter().zip(&claims).filter(|(_, won)| **won).map(|(owner, _)| owner).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let Some(RefreshClaim { owner, until }) = store.stored_token(&token.installation).await.claim else {
            panic!("it is claimed")
        };
        let ends = match store.server_time().await.expect("answered") {
            Some(now) => now..now.plus(Duration::from_secs(10)).plus(Duration::from_millis(1)),
            None => store.at(10_000)..store.at(10_001),
        };
        assert!(owner == *winners[0] && ends.contains(&until), "{owner} until {until:?}");
    }

    async fn a_claim_lapses_and_is_then_anybodys(store: TestStore) {
        let token = store.insert_connected("4711").await;
        assert!(store.claim_token(&token, "node-a").await);
        assert!(!store.claim_token(&token, "node-a").await, "not even its own, while it lives");
        store.wait_for_claims(Duration::from_secs(1)).await;
        assert!(!store.claim_token(&token, "node-b").await);
        store.wait_for_claims(Duration::from_secs(9)).await;
        assert!(store.claim_token(&token, "node-b").await);
        let late = SealedToken { generation: 2, access: "late".into(), ..token.clone() };
        assert!(!store.save_refreshed_token(&late, "node-a").await.expect("answered"), "it is node-b's by now");
        assert_eq!(store.stored_token(&token.installation).await.access, token.access);
    }

    async fn a_refreshed_token_is_saved_only_by_who_claimed_that_generation(store: TestStore) {
        let token = store.insert_connected("4711").await;
        store.clock.advance(Duration::from_secs(1));
        let refreshed = SealedToken { access: "new".into(), generation: 2, ..store.token(&token.installation) };
        let save = async |token: &SealedToken, owner| store.save_refreshed_token(token, owner).await.expect("answered");
        assert!(!save(&refreshed, "node-a").await, "nobody has claimed it");
        assert!(store.claim_token(&token, "node-a").await);
        assert!(!save(&refreshed, "node-b").await, "somebody else has");
        for generation in [0, 1, 3] {
            assert!(!save(&SealedToken { generation, ..refreshed.clone() }, "node-a").await, "from generation {generation}");
        }
        assert_eq!(store.stored_token(&token.installation).await.access, token.access);
        assert!(save(&refreshed, "node-a").await);
        let expected = SealedToken { created_at: token.created_at, ..refreshed.clone() };
        assert_eq!(store.stored_token(&token.installation).await, expected);
        assert!(!save(&refreshed, "node-a").await, "once");
        assert!(!store.claim_token(&token, "node-a").await, "the old generation cannot be claimed any more");
        assert!(store.claim_token(&expected, "node-a").await);

        // A reconnection in the meantime wins over the refresh.
        let reconnected = SealedToken { access: "reconnected".into(), ..store.token(&token.installation) };
        store.edit_token(&token.installation, TokenEdit::Put(Box::new(reconnected))).await;
        assert!(!save(&SealedToken { generation: 3, ..refreshed.clone() }, "node-a").await);
        store.edit_token(&token.installation, TokenEdit::Delete).await;
        assert!(!save(&SealedToken { generation: 4, ..refreshed }, "node-a").await, "the row is gone");
        assert_eq!(store.find_token(&token.installation).await.expect("read"), None);
    }

    async fn a_claim_is_given_back_by_who_has_it(store: TestStore) {
        let token = store.insert_connected("4711").await;
        assert!(store.claim_token(&token, "node-a").await);
        store.release_token_refresh(&token.installation, "node-b").await.expect("answered");
        assert!(!store.claim_token(&token, "node-b").await);
        store.release_token_refresh(&token.installation, "node-a").await.expect("answered");
        assert_eq!(store.stored_token(&token.installation).await, token);
        assert!(store.claim_token(&token, "node-b").await);
    }

    async fn tokens_that_expire_soon_and_can_be_refreshed_are_listed_soonest_first_and_those_that_have_ended_last(store: TestStore) {
        // PostgreSQL judges claims by its own clock.
        let now = async || store.server_time().await.expect("answered").unwrap_or_else(|| store.now());
        let began = now().await;
        let at = |ms: i64| EpochMs(began.0 + ms);
        let mut expected = Vec::new();
        for (external, expires_in, refreshable, status, claimed) in [
            ("1", Some(50_000), true, InstallationStatus::Active, false),
            ("2", Some(30_000), true, InstallationStatus::Active, false),
            ("3", Some(-5_000), true, InstallationStatus::Active, false),
            ("4", Some(60_000), true, InstallationStatus::Active, false),
            ("5", None, true, InstallationStatus::Active, false),
            ("6", Some(1_000), false, InstallationStatus::Active, false),
            ("7", Some(1_000), true, InstallationStatus::NeedsReauth, false),
            ("8", Some(1_000), true, InstallationStatus::Revoked, false),
            ("9", Some(40_000), true, InstallationStatus::Active, true),
        ] {
            let mut installation = store.installation(external);
            installation.status = status;
            let mut token = store.token(&installation.id);
            token.expires_at = expires_in.map(at);
            token.refresh = token.refresh.filter(|_| refreshable);
            store.insert_connection(&installation, Some(&token), &store.entry("x")).await.expect("inserted");
            if claimed {
                assert!(store.claim_token(&token, "node-b").await);
            }
            if matches!(external, "1" | "2" | "3" | "9") {
                let has_ended = expires_in.is_some_and(|ms| ms < 0);
                expected.push((has_ended, token.expires_at, installation.id));
            }
        }
        expected.sort();
        let all: Vec<InstallationId> = expected.into_iter().map(|(_, _, id)| id).collect();
        let before = at(60_000);
        let list = async |provider, limit| {
            store.list_expiring_tokens(provider, before, now().await, limit).await.expect("read")
        };
        assert_eq!(list(GITHUB, 10).await, [&all[..1], &all[2..]].concat(), "the second is being refreshed");
        assert_eq!(list(GITHUB, 2).await, [&all[..1], &all[2..3]].concat());
        assert_eq!(list(LINEAR, 10).await, [], "it has none");
        store.wait_for_claims(Duration::from_secs(10)).await;
        assert_eq!(list(GITHUB, 10).await, all, "that claim has lapsed by then");
    }
}
