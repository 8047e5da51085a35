//! Supervisors that search for tokens: a real store in a file, a real vault, a provider that plays a script.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::Arbiter;
use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use url::Url;

use super::*;
use crate::{
    actors::{installation::tests::Acme, tokens::refresh_token_place},
    cache::RouteCache,
    model::{
        clock::{Clock, Ids, ManualClock},
        ids::OrgId,
        log_entry::LogEntry,
        provider::{ExternalId, ProviderSlug},
        secret::Secret,
        token::RefreshClaim,
    },
    providers::{
        Registry,
        connector::{
            Account, Callback, Completion, Ended, FreshToken, HeldToken, Leg, ProxyAnswer, ProxyCall, ProxyEndpoint,
            ResourcePage,
        },
    },
    store::{self, NoObserver, OpenOptions, SharedStore},
    telemetry::metrics::Metrics,
    vault::Vault,
};

const ACME: ProviderSlug = ProviderSlug("acme");
const START: EpochMs = EpochMs(1_771_980_000_000);
const HOUR: Duration = Duration::from_hours(1);

/// What the provider does with the next call for a token.
#[derive(Debug, Clone)]
enum Play {
    Give { refresh: Option<&'static str> },
    Fail(ConnectorError),
    Panic,
}

/// A provider that plays a script; without one it gives a new pair.
struct Scripted {
    clock: ManualClock,
    script: Mutex<VecDeque<Play>>,
    probe: Mutex<Result<(), ConnectorError>>,
    renewals: AtomicUsize,
    probes: AtomicUsize,
    /// Calls wait here, so that a test decides when they are answered.
    gate: Semaphore,
}

impl Scripted {
    fn play(&self, plays: impl IntoIterator<Item = Play>) {
        lock(&self.script).extend(plays);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Connector for Scripted {
    fn uses_pkce(&self, _: Option<&Value>) -> bool {
        false
    }
    fn authorize_url(&self, _: &Leg<'_>) -> Result<Url, ConnectorError> {
        Err(ConnectorError::NotSupported)
    }
    async fn complete(&self, _: &Callback<'_>) -> Result<Completion, ConnectorError> {
        Err(ConnectorError::NotSupported)
    }
    async fn renew_token(&self, _: &Grant, held: Option<&HeldToken>) -> Result<FreshToken, ConnectorError> {
        self.gate.acquire().await.expect("open").forget();
        self.gate.add_permits(1);
        assert!(held.is_some_and(|held| held.refresh.is_some()), "it is asked with the pair that is held");
        let number = self.renewals.fetch_add(1, Ordering::SeqCst) + 1;
        let play = lock(&self.script).pop_front().unwrap_or(Play::Give { refresh: Some("next-refresh") });
        match play {
            Play::Panic => panic!("the test's own"),
            Play::Fail(error) => Err(error),
            Play::Give { refresh } => Ok(FreshToken {
                access: Secret::new(format!("access-{number}")).expect("not empty"),
                refresh: refresh.and_then(Secret::new),
                token_type: None,
                scope: None,
                expires_at: Some(self.clock.now().plus(HOUR)),
                refresh_expires_at: None,
            }),
        }
    }
    async fn read_account(&self, _: &Grant, _: &Secret) -> Result<Account, ConnectorError> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        lock(&self.probe).clone().map(|()| Account::default())
    }
    async fn end_grant(&self, _: &Grant, _: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        Ok(Ended::Revoked)
    }
    async fn list_resources(&self, _: &Grant, _: &Secret, _: Option<&str>) -> Result<ResourcePage, ConnectorError> {
        Err(ConnectorError::NotSupported)
    }
    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint] {
        &[]
    }
    async fn call(&self, _: &Grant, _: &Secret, _: &ProxyCall) -> Result<ProxyAnswer, ConnectorError> {
        Err(ConnectorError::NotSupported)
    }
}

/// A connected installation, whose token lives for an hour, and what supervisors of it need.
struct Rig {
    deps: SupervisorDeps,
    provider: Arc<Scripted>,
    clock: ManualClock,
    id: InstallationId,
    arbiter: Arbiter,
    _file: tempfile::TempDir,
}

impl Rig {
    async fn build() -> Self {
        let file = tempfile::tempdir().expect("a directory");
        let options = OpenOptions {
            url: format!("sqlite://{}", file.path().join("test.db").display()),
            max_connections: 4,
            acquire_timeout: Duration::from_secs(30),
            providers: vec![ACME],
            node: "node-1".into(),
            serving: true,
        };
        let store: SharedStore = store::open(options, Arc::new(NoObserver)).await.expect("a store");
        store.migrate().await.expect("migrated");
        let clock = ManualClock::starting_at(START);
        let provider = Arc::new(Scripted {
            clock: clock.clone(),
            script: Mutex::default(),
            probe: Mutex::new(Ok(())),
            renewals: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            gate: Semaphore::new(1),
        });
        let registry = Registry::new(vec![Arc::new(Acme)], Vec::new()).expect("a registry");
        let ids = Ids::new(Arc::new(clock.clone()));
        let key = Secret::new([7; 32]).expect("not empty");
        let deps = SupervisorDeps {
            store,
            routes: RouteCache::new(true),
            fallback_destination: None,
            registry: Arc::new(registry.with_connector(ACME, Ok(provider.clone()))),
            vault: Arc::new(Vault::new(vec![("k1".into(), key)]).expect("a vault")),
            metrics: Arc::new(Metrics::default()),
            clock: Arc::new(clock.clone()),
            ids,
            node: "node-1".into(),
            backfill: None,
            crash_after: None,
        };
        let id = deps.ids.installation();
        let rig = Self { deps, provider, clock, id, arbiter: Arbiter::new(), _file: file };
        rig.connect().await;
        rig
    }

    async fn connect(&self) {
        let (id, vault) = (&self.id, &self.deps.vault);
        let installation = Installation {
            id: id.clone(),
            provider: ACME,
            external_id: ExternalId::new("acme-1"),
            alternate_external_id: None,
            account_login: None,
            org: OrgId::from_raw("org"),
            connected_by: "user".into(),
            status: InstallationStatus::Active,
            status_reason: None,
            metadata: Map::new(),
            provider_account_info: None,
            control_at: None,
            last_event_at: None,
            created_at: START,
            updated_at: START,
        };
        let token = SealedToken {
            installation: id.clone(),
            access: vault.seal(access_token_place(id), b"access-0").expect("sealed"),
            refresh: Some(vault.seal(refresh_token_place(id), b"refresh-0").expect("sealed")),
            token_type: Some("bearer".into()),
            scope: Some("read".into()),
            expires_at: Some(START.plus(HOUR)),
            refresh_expires_at: None,
            generation: 1,
            claim: None,
            created_at: START,
            updated_at: START,
        };
        let entry = LogEntry {
            id: self.deps.ids.log(),
            org: None,
            installation: Some(id.clone()),
            subject: None,
            action: "installation.connected".into(),
            from_state: None,
            to_state: None,
            reason: None,
            actor: Actor::system(),
            at: START,
        };
        self.deps.store.insert_connection(&installation, Some(&token), &entry).await.expect("inserted");
    }

    fn supervisor_on(&self, node: &str) -> InstallationHandle {
        let deps = SupervisorDeps { node: node.into(), ..self.deps.clone() };
        InstallationHandle::start(self.id.clone(), deps, &self.arbiter.handle())
    }

    fn supervisor(&self) -> InstallationHandle {
        self.supervisor_on("node-1")
    }

    async fn row(&self) -> SealedToken {
        self.deps.store.find_token(&self.id).await.expect("read").expect("a token")
    }

    async fn status(&self) -> InstallationStatus {
        self.deps.store.find_installation(&self.id).await.expect("read").expect("the row").status
    }

    fn renewals(&self) -> usize {
        self.provider.renewals.load(Ordering::SeqCst)
    }
}

fn text(token: &AccessToken) -> &str {
    token.access.expose_str().expect("text")
}

#[actix::test]
async fn two_nodes_and_a_hundred_askers_are_one_call_and_everybody_has_its_token() {
    let rig = Rig::build().await;
    let nodes = [rig.supervisor_on("node-1"), rig.supervisor_on("node-2")];
    assert_eq!(text(&nodes[0].token(None).await.expect("a token")), "access-0");
    rig.clock.advance(HOUR);
    rig.provider.gate.forget_permits(1);
    let asking: Vec<_> = (0..100)
        .map(|asker: usize| {
            let node = nodes[asker % 2].clone();
            tokio::spawn(async move { node.token(None).await })
        })
        .collect();
    let released = async {
        // Until both nodes have somebody waiting.
        while nodes[1].snapshot().await.expect("a snapshot").token.waiting < 50 {
            tokio::task::yield_now().await;
        }
        rig.provider.gate.add_permits(1);
    };
    released.await;
    for asked in asking {
        let token = asked.await.expect("no panic").expect("a token");
        assert_eq!((text(&token), token.generation), ("access-1", 2));
    }
    assert_eq!(rig.renewals(), 1);
    assert_eq!(rig.row().await.claim, None);
}

#[actix::test]
async fn a_panic_of_the_provider_is_an_error_of_those_who_wait_and_of_nobody_after_them() {
    let rig = Rig::build().await;
    rig.clock.advance(HOUR);
    rig.provider.play([Play::Panic]);
    let supervisor = rig.supervisor();
    let (first, second) = futures_util::future::join(supervisor.token(None), supervisor.token(None)).await;
    for asked in [first, second] {
        assert!(matches!(asked, Err(AskError::Reply(TokenError::Crashed))), "{asked:?}");
    }
    assert!(supervisor.is_alive());
    assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-2");
}

#[actix::test]
async fn what_a_renewal_does_not_give_again_stays_as_it_was() {
    let rig = Rig::build().await;
    let before = rig.row().await;
    rig.clock.advance(HOUR);
    rig.provider.play([Play::Give { refresh: None }]);
    rig.supervisor().token(None).await.expect("a token");
    let after = rig.row().await;
    assert_eq!((&after.refresh, &after.scope, &after.token_type), (&before.refresh, &before.scope, &before.token_type));
    assert_eq!((after.generation, after.expires_at), (2, Some(START.plus(HOUR * 2))));
    assert_ne!(after.access, before.access);
}

#[actix::test]
async fn whoever_refuses_a_token_gets_another_and_whoever_refuses_an_older_one_gets_that() {
    let rig = Rig::build().await;
    let supervisor = rig.supervisor();
    let first = supervisor.token(None).await.expect("a token");
    let second = supervisor.token(Some(first.generation)).await.expect("a token");
    assert_eq!(text(&second), "access-1");
    let third = supervisor.token(Some(first.generation)).await.expect("a token");
    assert_eq!((text(&third), rig.renewals()), ("access-1", 1), "somebody renewed it already");
}

#[actix::test]
async fn an_outage_hands_out_what_lives_and_changes_nothing() {
    let rig = Rig::build().await;
    let supervisor = rig.supervisor();
    rig.clock.advance(Duration::from_mins(58));
    rig.provider.play([Play::Fail(ConnectorError::unavailable("answered 503"))]);
    for _again in 0..3 {
        assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-0");
    }
    assert_eq!(rig.renewals(), 1, "it is left alone for a while");
    rig.clock.advance(HOUR);
    rig.provider.play([Play::Fail(ConnectorError::unavailable("answered 503"))]);
    let refused = supervisor.token(None).await;
    assert!(matches!(refused, Err(AskError::Reply(TokenError::ProviderUnavailable(_)))), "{refused:?}");
    assert_eq!(rig.status().await, InstallationStatus::Active);
    assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-3");
}

#[actix::test]
async fn only_the_providers_verdict_makes_a_connection_needs_reauth() {
    let rig = Rig::build().await;
    rig.clock.advance(HOUR);
    rig.provider.play([Play::Fail(ConnectorError::Rejected)]);
    let supervisor = rig.supervisor();
    for _again in 0..2 {
        let refused = supervisor.token(None).await;
        assert!(matches!(refused, Err(AskError::Reply(TokenError::Expired))), "{refused:?}");
    }
    assert_eq!((rig.status().await, rig.renewals()), (InstallationStatus::NeedsReauth, 1));
    assert_eq!(rig.row().await.claim, None, "nobody waits for a claim that is over");
}

#[actix::test]
async fn after_a_lost_answer_the_old_token_is_tried_before_anything_is_asked_again() {
    for (probe, then, is_given) in [
        (Ok(()), Play::Give { refresh: Some("r") }, true),
        (Err(ConnectorError::Unauthorized), Play::Give { refresh: Some("r") }, true),
        (Err(ConnectorError::Unauthorized), Play::Fail(ConnectorError::Rejected), false),
    ] {
        let rig = Rig::build().await;
        rig.clock.advance(HOUR);
        *lock(&rig.provider.probe) = probe;
        rig.provider.play([Play::Fail(ConnectorError::AnswerLost), then]);
        assert_eq!(rig.supervisor().token(None).await.is_ok(), is_given);
        assert_eq!((rig.renewals(), rig.provider.probes.load(Ordering::SeqCst)), (2, 1));
        let expected = if is_given { InstallationStatus::Active } else { InstallationStatus::NeedsReauth };
        assert_eq!(rig.status().await, expected);
    }
}

#[actix::test]
async fn a_claim_of_a_node_that_died_lapses_and_its_token_is_suspect() {
    let rig = Rig::build().await;
    let until = START.plus(Duration::from_secs(30));
    let claimed = rig.deps.store.claim_token_refresh(&rig.id, 1, "node-dead", START, until).await;
    assert!(claimed.expect("claimed"));
    assert_eq!(rig.row().await.claim, Some(RefreshClaim { owner: "node-dead".into(), until }));
    rig.clock.set(until);
    // By its own end it would live on; whether it was replaced, nobody has written.
    let token = rig.supervisor().token(None).await.expect("a token");
    assert_eq!((text(&token), rig.provider.probes.load(Ordering::SeqCst)), ("access-1", 1));
}
