//! Supervisors that search for tokens, and others who use what they found: a real store in a file, a real vault, a
//! provider that plays a script.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::Arbiter;
use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde_json::{Map, Value};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio::sync::{Semaphore, mpsc};
use url::Url;

use super::*;
use crate::{
    actors::{
        directory::{Directory, DirectoryDeps},
        dispatcher::{DispatcherDeps, DispatcherHandle},
        installation::{
            binding::{ProvedGrant, reconnect},
            teardown::{self, Tried},
            teardown_run::TeardownRun,
            tests::Acme,
        },
        provider_calls::ProviderCallError,
        tokens::refresh_token_place,
    },
    cache::RouteCache,
    config::DeliveryConfig,
    model::{
        clock::{Clock, Ids, ManualClock},
        ids::OrgId,
        log_entry::LogEntry,
        provider::{ExternalId, ProviderSlug},
        secret::Secret,
        teardown::TeardownStep,
        token::{RefreshClaim, TokenEdit},
    },
    providers::{
        Registry,
        connector::{
            Account, Callback, Completion, EndOf, Ended, FreshToken, HeldToken, Leg, ProxyAnswer, ProxyCall,
            ProxyEndpoint, ResourcePage,
        },
    },
    store::{self, InstallationRecord, NoObserver, OpenOptions, SharedStore},
    telemetry::{metrics::Metrics, traces::Traces},
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
    /// What it says to confirmations, one after the other; then it takes them.
    confirming: Mutex<VecDeque<ConnectorError>>,
    /// The tokens it was asked with to confirm.
    confirmed_with: Mutex<Vec<String>>,
    renewals: AtomicUsize,
    probes: AtomicUsize,
    ends: AtomicUsize,
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
    async fn confirm_arrival(&self, _: &Grant, access: &Secret) -> Result<(), ConnectorError> {
        lock(&self.confirmed_with).push(access.expose_str().expect("text").to_owned());
        lock(&self.confirming).pop_front().map_or(Ok(()), Err)
    }
    fn end_of(&self, grant: &Grant) -> EndOf {
        EndOf::Installation(grant.alternate_external_id.as_ref().unwrap_or(&grant.external_id).clone())
    }
    async fn end_grant(&self, _: &Grant, _: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        self.ends.fetch_add(1, Ordering::SeqCst);
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
    deps: Arc<SupervisorDeps>,
    provider: Arc<Scripted>,
    clock: ManualClock,
    id: InstallationId,
    arbiter: Arbiter,
    url: String,
    _file: tempfile::TempDir,
}

impl Rig {
    async fn build() -> Self {
        Self::build_with_patience(Duration::from_secs(30)).await
    }

    /// With a store that waits so long for its lock.
    async fn build_with_patience(acquire_timeout: Duration) -> Self {
        let file = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", file.path().join("test.db").display());
        let options = OpenOptions {
            url: url.clone(),
            max_connections: 4,
            acquire_timeout,
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
            confirming: Mutex::default(),
            confirmed_with: Mutex::default(),
            renewals: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            ends: AtomicUsize::new(0),
            gate: Semaphore::new(1),
        });
        let registry = Registry::new(vec![Arc::new(Acme)], Vec::new()).expect("a registry");
        let ids = Ids::new(Arc::new(clock.clone()));
        let key = Secret::new([7; 32]).expect("not empty");
        let deps = Arc::new(SupervisorDeps {
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
            linked: mpsc::unbounded_channel().0,
            crash_after: None,
        });
        let id = deps.ids.installation();
        let rig = Self { deps, provider, clock, id, arbiter: Arbiter::new(), url, _file: file };
        rig.connect().await;
        rig
    }

    async fn connect(&self) {
        self.insert(self.id.clone(), "org", None, Some(self.token("access-0"))).await;
    }

    /// A row of the account, with the second id of its grant.
    async fn insert(&self, id: InstallationId, org: &str, alternate: Option<&str>, token: Option<SealedToken>) {
        let installation = Installation {
            id: id.clone(),
            provider: ACME,
            external_id: ExternalId::new("acme-1"),
            alternate_external_id: alternate.map(ExternalId::new),
            account_login: None,
            org: OrgId::from_raw(org),
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
        let entry = LogEntry {
            installation: Some(id),
            ..LogEntry::new(self.deps.ids.log(), "installation.connected", Actor::system(), START)
        };
        self.deps.store.insert_connection(&installation, token.as_ref(), &entry).await.expect("inserted");
    }

    /// A token that lives for an hour from now.
    fn token(&self, access: &str) -> SealedToken {
        let (id, vault, now) = (&self.id, &self.deps.vault, self.clock.now());
        SealedToken {
            installation: id.clone(),
            access: vault.seal(access_token_place(id), access.as_bytes()).expect("sealed"),
            refresh: Some(vault.seal(refresh_token_place(id), b"refresh-0").expect("sealed")),
            token_type: Some("bearer".into()),
            scope: Some("read".into()),
            expires_at: Some(now.plus(HOUR)),
            refresh_expires_at: None,
            generation: 1,
            claim: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// As it is when its provider could not be told that it arrived.
    async fn is_pending(&self) {
        let decide = self.deps.decision(Actor::system(), |record, _| {
            record.installation.status = InstallationStatus::Pending;
            Ok(())
        });
        self.supervisor().edit(decide).await.expect("edited");
    }

    /// The tokens that the provider was asked with to confirm.
    fn confirmed_with(&self) -> Vec<String> {
        lock(&self.provider.confirmed_with).clone()
    }

    /// Connects it again, a moment later.
    async fn reconnect(&self) {
        self.reconnect_through(&self.supervisor()).await;
    }

    async fn reconnect_through(&self, supervisor: &InstallationHandle) {
        self.clock.advance(Duration::from_millis(1));
        let grant = ProvedGrant {
            org: OrgId::from_raw("org"),
            alternate_external_id: None,
            account: Account { login: Some("harborworks".into()), ..Account::default() },
            status: InstallationStatus::Active,
            token: Some(self.token("access-again")),
            connected_by: "user".into(),
            is_update: false,
            action: "installation.reconnected",
            shares_id: true,
        };
        let decide = self.deps.decision(Actor::system(), |record, edit| reconnect(record, grant, edit));
        supervisor.edit(decide).await.expect("reconnected");
    }

    /// What calls of a provider go through.
    fn directory(&self) -> Directory {
        let deps = SupervisorDeps::clone(&self.deps);
        let dispatcher = DispatcherHandle::start(DispatcherDeps {
            store: deps.store.clone(),
            vault: deps.vault.clone(),
            metrics: deps.metrics.clone(),
            traces: Traces::default(),
            clock: deps.clock.clone(),
            ids: deps.ids.clone(),
            config: DeliveryConfig {
                url: None,
                secret: None,
                timeout: Duration::from_secs(1),
                retry_schedule: Vec::new(),
                allow_private_networks: true,
                max_in_flight: 1,
                max_in_flight_per_destination: 1,
                circuit_failures: 1,
                circuit_probe: HOUR,
                disable_after: HOUR,
            },
            node: deps.node.clone(),
            remembers_destinations: true,
        });
        Directory::start(DirectoryDeps {
            store: deps.store,
            routes: deps.routes,
            registry: deps.registry,
            dispatcher: dispatcher.expect("started"),
            fallback_destination: None,
            config_files: Vec::new(),
            clock: deps.clock,
            ids: deps.ids,
            vault: deps.vault,
            metrics: deps.metrics,
            node: deps.node,
            backfill: None,
            crash_after: None,
            linked: deps.linked,
        })
    }

    /// Until somebody is about to ask the provider for another token.
    async fn until_claimed(&self) {
        while self.row().await.claim.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn supervisor_on(&self, node: &str) -> InstallationHandle {
        let deps = SupervisorDeps { node: node.into(), ..SupervisorDeps::clone(&self.deps) };
        InstallationHandle::start(self.id.clone(), Arc::new(deps), &self.arbiter.handle())
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
async fn a_verdict_of_the_provider_is_told_at_once_as_it_is_told_from_then_on() {
    for (verdict, status, code) in [
        (ConnectorError::Rejected, InstallationStatus::NeedsReauth, "token_expired"),
        (ConnectorError::Gone, InstallationStatus::Revoked, "installation_not_active"),
        (ConnectorError::Suspended, InstallationStatus::Suspended, "installation_not_active"),
    ] {
        let rig = Rig::build().await;
        rig.clock.advance(HOUR);
        rig.provider.play([Play::Fail(verdict)]);
        let supervisor = rig.supervisor();
        for _again in 0..2 {
            let Err(AskError::Reply(refused)) = supervisor.token(None).await else { panic!("{status}") };
            assert_eq!(refused.code(), code, "{status}");
            assert!(!matches!(refused, TokenError::NotActive(told) if told != status), "{refused:?}");
        }
        assert_eq!((rig.status().await, rig.renewals()), (status, 1));
        let row = rig.deps.store.find_token(&rig.id).await.expect("read");
        assert!(row.is_none_or(|row| row.claim.is_none()), "nobody waits for a claim that is over");
    }
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

#[actix::test]
async fn a_token_that_the_provider_gave_is_written_when_the_database_is_back_after_seconds() {
    let rig = Rig::build_with_patience(Duration::from_millis(100)).await;
    rig.clock.advance(HOUR);
    rig.provider.gate.forget_permits(1);
    let supervisor = rig.supervisor();
    let asking = actix::spawn(async move { supervisor.token(None).await });
    rig.until_claimed().await;
    // Somebody else has the write lock: no commit is possible.
    let mut obstacle = SqliteConnection::connect(&rig.url).await.expect("the file is there");
    obstacle.execute("BEGIN IMMEDIATE").await.expect("locked");
    rig.provider.gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(7)).await;
    obstacle.execute("ROLLBACK").await.expect("unlocked");
    let token = asking.await.expect("no panic").expect("a token");
    assert_eq!((text(&token), rig.renewals()), ("access-1", 1));
    assert_eq!((rig.row().await.generation, rig.row().await.claim), (2, None));
}

#[actix::test]
async fn a_refusal_is_no_verdict_about_a_token_that_is_another_one_by_now() {
    let rig = Rig::build().await;
    rig.clock.advance(HOUR);
    rig.provider.gate.forget_permits(1);
    rig.provider.play([Play::Fail(ConnectorError::Rejected)]);
    let supervisor = rig.supervisor();
    let asking = actix::spawn(async move { supervisor.token(None).await });
    rig.until_claimed().await;
    // A node that thinks the claim over has used the refresh token, and writes what it got.
    let others = rig.token("access-of-another-node");
    let put = Box::new(|record: &mut InstallationRecord| {
        record.token = TokenEdit::Put(Box::new(others));
        true
    });
    rig.deps.store.change_installation(&rig.id, put).await.expect("written");
    rig.provider.gate.add_permits(1);
    let token = asking.await.expect("no panic").expect("a token");
    assert_eq!((text(&token), rig.status().await), ("access-of-another-node", InstallationStatus::Active));
}

// Calls of the provider for other purposes.

#[actix::test]
async fn a_verdict_about_a_grant_that_was_replaced_meanwhile_changes_nothing() {
    for (error, verdict) in [
        (ConnectorError::Gone, InstallationStatus::Revoked),
        (ConnectorError::Suspended, InstallationStatus::Suspended),
        (ConnectorError::Rejected, InstallationStatus::NeedsReauth),
    ] {
        let rig = Arc::new(Rig::build().await);
        let directory = rig.directory();
        let fail = |reconnects: bool| {
            let (rig, error) = (rig.clone(), error.clone());
            move |_: Arc<dyn Connector>, _: Grant, _: AccessToken| {
                let (rig, error) = (rig.clone(), error.clone());
                let calling = async move {
                    if reconnects {
                        rig.reconnect().await;
                    }
                    Err::<(), _>(error)
                };
                calling.boxed()
            }
        };
        let refused = directory.ask_provider(&rig.id, fail(true)).await;
        assert!(
            matches!(refused, Err(AskError::Reply(ProviderCallError::ProviderUnavailable(_)))),
            "{error:?}: {refused:?}"
        );
        assert_eq!(rig.status().await, InstallationStatus::Active, "{error:?}");
        assert!(directory.ask_provider(&rig.id, fail(false)).await.is_err());
        assert_eq!(rig.status().await, verdict, "{error:?} about the grant that is there");
    }
}

#[actix::test]
async fn the_second_try_of_a_call_is_made_with_the_grant_and_the_token_that_are_there_by_then() {
    let rig = Arc::new(Rig::build().await);
    let directory = rig.directory();
    let asked = directory.ask_provider(&rig.id, |_, grant, token| {
        let rig = rig.clone();
        let calling = async move {
            if text(&token) == "access-0" {
                rig.reconnect().await;
                return Err(ConnectorError::Unauthorized);
            }
            Ok((text(&token).to_owned(), grant.account_login))
        };
        calling.boxed()
    });
    assert_eq!(asked.await.expect("answered"), ("access-again".to_owned(), Some("harborworks".to_owned())));
    assert_eq!(rig.renewals(), 0, "the new grant brought a token");
}

// Teardowns.

#[actix::test]
async fn a_teardown_that_overlaps_a_new_connection_does_not_end_the_new_grant() {
    let rig = Rig::build().await;
    rig.clock.advance(HOUR);
    rig.provider.gate.forget_permits(1);
    let supervisor = rig.supervisor();
    let begin =
        rig.deps.decision(Actor::system(), |record, edit| Ok(teardown::begin(record, teardown::DISCONNECTED, edit)));
    supervisor.edit(begin).await.expect("begun");
    // Its token has ended: the step that revokes it has to renew it first, and waits for the provider.
    rig.until_claimed().await;
    rig.reconnect_through(&supervisor).await;
    rig.provider.gate.add_permits(1);
    while supervisor.snapshot().await.expect("a snapshot").tearing_down {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((rig.renewals(), rig.provider.ends.load(Ordering::SeqCst)), (1, 0));
    assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-again");

    let run = TeardownRun { deps: rig.deps.clone(), id: rig.id.clone(), supervisor };
    assert_eq!(run.end_grant().await.expect("tried"), Tried::Skipped("reconnected"));
    assert_eq!(rig.provider.ends.load(Ordering::SeqCst), 0);
}

#[actix::test]
async fn a_teardown_ends_nothing_that_is_the_grant_of_another_org_by_then_or_may_be() {
    for (own, theirs, expected) in [
        (None, None, "connected_elsewhere"),
        (Some("cfg-1"), Some("cfg-1"), "connected_elsewhere"),
        (Some("cfg-1"), None, "connected_elsewhere"),
        (Some("cfg-1"), Some("cfg-2"), "revoked"),
    ] {
        let rig = Rig::build().await;
        rig.clock.advance(HOUR);
        rig.provider.gate.forget_permits(1);
        let supervisor = rig.supervisor();
        let begin = rig.deps.decision(Actor::system(), move |record, edit| {
            record.installation.alternate_external_id = own.map(ExternalId::new);
            Ok(teardown::begin(record, teardown::DISCONNECTED, edit))
        });
        supervisor.edit(begin).await.expect("begun");
        // It was looked before whether the grant is another's, and is looked again once there is a token to end it with.
        rig.until_claimed().await;
        rig.insert(rig.deps.ids.installation(), "another", theirs, None).await;
        rig.provider.gate.add_permits(1);
        while supervisor.snapshot().await.expect("a snapshot").tearing_down {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let record = rig.deps.store.load_installation(&rig.id).await.expect("read").expect("the row");
        let receipt = record.teardown.expect("the receipt");
        let revoke = receipt.steps.iter().find(|step| step.step == TeardownStep::RevokeToken).expect("the step");
        assert_eq!(revoke.detail.as_deref(), Some(expected), "{own:?} {theirs:?}");
        assert_eq!(rig.provider.ends.load(Ordering::SeqCst), usize::from(expected == "revoked"), "{own:?} {theirs:?}");
    }
}

#[actix::test]
async fn a_pending_installations_token_confirms_it_and_is_handed_out_only_then() {
    let rig = Rig::build().await;
    rig.is_pending().await;
    lock(&rig.provider.confirming).push_back(ConnectorError::unavailable("answered 503"));
    let supervisor = rig.supervisor();
    let refused = supervisor.token(None).await;
    assert!(matches!(refused, Err(AskError::Reply(TokenError::NotActive(InstallationStatus::Pending)))), "{refused:?}");
    assert_eq!(rig.status().await, InstallationStatus::Pending, "an outage is no verdict");
    assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-0");
    assert_eq!(rig.status().await, InstallationStatus::Active);
    assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-0");
    assert_eq!(rig.confirmed_with(), ["access-0", "access-0"], "what is confirmed is not confirmed again");
}

#[actix::test]
async fn a_pending_installation_is_confirmed_with_a_token_that_lives() {
    let rig = Rig::build().await;
    rig.is_pending().await;
    rig.clock.advance(HOUR);
    rig.provider.play([Play::Fail(ConnectorError::unavailable("answered 503"))]);
    let supervisor = rig.supervisor();
    let refused = supervisor.token(None).await;
    assert!(matches!(refused, Err(AskError::Reply(TokenError::NotActive(InstallationStatus::Pending)))), "{refused:?}");
    assert!(rig.confirmed_with().is_empty(), "with a token that has ended there is nothing to confirm with");
    lock(&rig.provider.confirming).push_back(ConnectorError::Unauthorized);
    assert_eq!(text(&supervisor.token(None).await.expect("a token")), "access-3");
    assert_eq!(rig.confirmed_with(), ["access-2", "access-3"], "one that is refused is renewed");
    assert_eq!(rig.status().await, InstallationStatus::Active);
}

#[actix::test]
async fn a_verdict_on_the_grant_ends_the_waiting_for_a_confirmation() {
    for (said, expected) in [
        (vec![ConnectorError::Unauthorized, ConnectorError::Unauthorized], InstallationStatus::NeedsReauth),
        (vec![ConnectorError::Rejected], InstallationStatus::NeedsReauth),
        (vec![ConnectorError::Gone], InstallationStatus::Revoked),
        (vec![ConnectorError::Suspended], InstallationStatus::Suspended),
    ] {
        let rig = Rig::build().await;
        rig.is_pending().await;
        lock(&rig.provider.confirming).extend(said);
        assert!(rig.supervisor().token(None).await.is_err());
        assert_eq!(rig.status().await, expected);
    }
}

#[actix::test]
async fn the_janitor_has_a_pending_installation_confirmed_until_the_provider_refuses_and_people_may_ask_again() {
    let rig = Rig::build().await;
    rig.is_pending().await;
    let refused = ConnectorError::Refused("confirmation_refused");
    lock(&rig.provider.confirming).extend([ConnectorError::unavailable("answered 503"), refused]);
    let directory = rig.directory();
    for looks in [1, 2, 2] {
        directory.confirm_pending(Duration::from_secs(15)).await.expect("looked");
        assert_eq!((rig.status().await, rig.confirmed_with().len()), (InstallationStatus::Pending, looks));
    }
    let row = rig.deps.store.find_installation(&rig.id).await.expect("read").expect("the row");
    assert_eq!(row.status_reason.as_deref(), Some("confirmation_refused"));
    assert_eq!(text(&directory.token(&rig.id).await.expect("a token")), "access-0");
    assert_eq!((rig.status().await, rig.confirmed_with().len()), (InstallationStatus::Active, 3));
}
