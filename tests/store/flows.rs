//! OAuth flows: a state is opened by one browser and taken once.

use futures_util::future::join_all;
use serde_json::{Map, json};
use signalbox::{
    model::{
        ids::InstallationId,
        oauth_flow::{FlowOutcome, FlowStatus, OAuthFlow, TokenHash},
    },
    store::{RetentionCutoffs, StoreError},
};

use crate::{GITHUB, LINEAR, START, TestStore};

const STATE: TokenHash = [7; 32];
const BROWSER: TokenHash = [0xb0; 32];
const OTHER_BROWSER: TokenHash = [0xb1; 32];

impl TestStore {
    async fn begun(&self) -> OAuthFlow {
        let flow = self.flow(7);
        self.insert_flow(&flow, None).await.expect("inserted");
        flow
    }

    async fn opened(&self, browser: &TokenHash) -> Option<OAuthFlow> {
        self.bind_flow(&STATE, GITHUB, browser, self.now()).await.expect("answered")
    }

    async fn taken(&self, browser: &TokenHash) -> Option<OAuthFlow> {
        self.take_flow(&STATE, GITHUB, browser, self.now()).await.expect("answered")
    }

    async fn stored_flow(&self) -> Option<OAuthFlow> {
        self.find_flow(&STATE).await.expect("read")
    }
}

store_suite! {
    async fn a_flow_is_read_back_as_it_was_written(store: TestStore) {
        let root = store.begun().await;
        assert_eq!(store.stored_flow().await, Some(root.clone()));
        let leg = OAuthFlow {
            root_hash: Some(STATE),
            cookie_hash: Some(BROWSER),
            user: None,
            pkce_verifier_sealed: None,
            redirect_to: None,
            context: None,
            result: Map::from_iter([("setupAction".to_owned(), json!("request"))]),
            error: Some("provider_error".into()),
            installation: Some(InstallationId::from_raw("in_1")),
            taken_at: Some(store.now()),
            finished_at: Some(store.now()),
            status: FlowStatus::Failed,
            ..store.flow(8)
        };
        store.insert_flow(&leg, None).await.expect("inserted");
        assert_eq!(store.find_flow(&[8; 32]).await.expect("read"), Some(leg));
        assert_eq!(store.find_flow(&[9; 32]).await.expect("read"), None);
        let again = store.insert_flow(&root, None).await;
        assert!(matches!(again, Err(StoreError::NotUnique { table: "gw_oauth_states" })), "{again:?}");
    }

    async fn one_browser_opens_a_flow_as_often_as_it_likes_and_no_other_does(store: TestStore) {
        let flow = store.begun().await;
        assert_eq!(store.bind_flow(&STATE, LINEAR, &BROWSER, store.now()).await.expect("answered"), None);
        let bound = OAuthFlow { cookie_hash: Some(BROWSER), ..flow };
        assert_eq!(store.opened(&BROWSER).await, Some(bound.clone()));
        assert_eq!(store.opened(&OTHER_BROWSER).await, None);
        assert_eq!(store.opened(&BROWSER).await, Some(bound.clone()));
        assert_eq!(store.stored_flow().await, Some(bound));
    }

    async fn a_state_is_taken_by_the_browser_that_opened_it_at_that_provider(store: TestStore) {
        store.begun().await;
        assert_eq!(store.taken(&BROWSER).await, None, "no browser has opened it");
        store.opened(&BROWSER).await.expect("opened");
        assert_eq!(store.taken(&OTHER_BROWSER).await, None);
        assert_eq!(store.take_flow(&STATE, LINEAR, &BROWSER, store.now()).await.expect("answered"), None);
        assert_eq!(store.take_flow(&[9; 32], GITHUB, &BROWSER, store.now()).await.expect("answered"), None);
        let taken = store.taken(&BROWSER).await.expect("taken");
        assert_eq!(taken.taken_at, Some(store.now()));
        assert_eq!(store.stored_flow().await, Some(taken));
        assert_eq!(store.taken(&BROWSER).await, None, "once");
        assert_eq!(store.opened(&BROWSER).await, None, "and it is not opened again");
    }

    async fn of_many_callbacks_at_once_one_takes_the_state(store: TestStore) {
        store.begun().await;
        store.opened(&BROWSER).await.expect("opened");
        let takers = (0..64).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.taken(&BROWSER).await.is_some() })
        });
        let winners = join_all(takers).await.into_iter().filter(|won| *won.as_ref().expect("no panic")).count();
        assert_eq!(winners, 1);
    }

    async fn a_state_is_void_when_it_has_expired(store: TestStore) {
        store.begun().await;
        store.opened(&BROWSER).await.expect("opened");
        store.clock.advance(std::time::Duration::from_secs(10));
        assert_eq!(store.opened(&BROWSER).await, None);
        assert_eq!(store.taken(&BROWSER).await, None);
        assert!(store.stored_flow().await.is_some(), "it can be looked at all the same");
    }

    async fn how_a_flow_ended_is_kept_at_its_first_leg(store: TestStore) {
        let flow = store.begun().await;
        let waiting = FlowOutcome {
            status: FlowStatus::Pending,
            error: None,
            installation: None,
            result: Map::from_iter([("setupAction".to_owned(), json!("request"))]),
        };
        store.finish_flow(&STATE, &waiting, store.now(), store.at(20_000)).await.expect("written");
        let stored = store.stored_flow().await.expect("there");
        assert_eq!((stored.status, stored.finished_at, &stored.result), (FlowStatus::Pending, None, &waiting.result));

        let ended = FlowOutcome {
            status: FlowStatus::Completed,
            error: None,
            installation: Some(InstallationId::from_raw("in_1")),
            result: Map::from_iter([("reactivated".to_owned(), json!(true))]),
        };
        store.finish_flow(&STATE, &ended, store.now(), store.at(30_000)).await.expect("written");
        let expected = OAuthFlow {
            status: FlowStatus::Completed,
            installation: ended.installation.clone(),
            result: ended.result.clone(),
            expires_at: store.at(30_000),
            finished_at: Some(store.now()),
            ..flow
        };
        assert_eq!(store.stored_flow().await, Some(expected));
        let failed = FlowOutcome { status: FlowStatus::Failed, error: Some("access_denied".into()), ..waiting };
        store.finish_flow(&STATE, &failed, store.now(), store.at(30_000)).await.expect("written");
        let stored = store.stored_flow().await.expect("there");
        assert_eq!((stored.status, stored.error.as_deref(), stored.installation), (FlowStatus::Failed, Some("access_denied"), None));
    }

    async fn flows_that_are_void_are_deleted_and_no_others(store: TestStore) {
        store.begun().await;
        let longer = OAuthFlow { expires_at: store.at(10_001), ..store.flow(8) };
        store.insert_flow(&longer, None).await.expect("inserted");
        let cutoffs = RetentionCutoffs { events: START, dead_letters: START, quarantine: START, log: START, flows: store.at(10_001), activity: START };
        assert_eq!(store.delete_expired(&cutoffs, 10).await.expect("deleted").flows, 1);
        assert_eq!(store.stored_flow().await, None);
        assert_eq!(store.find_flow(&[8; 32]).await.expect("read"), Some(longer));
    }
}
