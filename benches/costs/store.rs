//! What a database adds: committing events that arrive together, and claiming deliveries. SQLite in a folder of its own;
//! PostgreSQL too, where `SIGNALBOX_TEST_POSTGRES_URL` names a server.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use divan::Bencher;
use futures_util::future::join_all;
use signalbox::{
    model::{
        clock::{EpochMs, Ids, SystemClock},
        delivery::{Delivery, DeliveryStatus},
        event::{Event, EventKey, EventOutcome},
        ids::{DestinationId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        provider::{ProviderDeliveryId, ProviderResourceId, ProviderSlug},
    },
    sim,
    store::{self, ClaimRequest, NewDelivery, NewEvent, NoObserver, OpenOptions, SharedStore},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::postgres_server::Database;

const GITHUB: ProviderSlug = ProviderSlug("github");
const NOW: EpochMs = EpochMs(1_786_701_234_567);
/// How many events arrive together, each with one delivery: as 64 connections make them.
const BATCH: usize = 64;
const BODY_BYTES: usize = 8 * 1024;

/// A database with what it lives in.
struct Bench {
    runtime: Runtime,
    store: SharedStore,
    ids: Ids,
    body: Bytes,
    next: AtomicU64,
    _home: Home,
}

#[expect(dead_code, reason = "kept alive for the store's sake")]
enum Home {
    Folder(TempDir),
    Server(Database),
}

impl Bench {
    fn of(backend: &str) -> Option<&'static Self> {
        static SQLITE: OnceLock<Option<Bench>> = OnceLock::new();
        static POSTGRES: OnceLock<Option<Bench>> = OnceLock::new();
        let (slot, open): (_, fn(Runtime) -> Option<Self>) = match backend {
            "sqlite" => (&SQLITE, |runtime| {
                let folder = tempfile::tempdir().expect("a folder");
                let url = format!("sqlite://{}", folder.path().join("bench.db").display());
                Some(Self::open(runtime, &url, Home::Folder(folder)))
            }),
            _ => (&POSTGRES, |runtime| {
                let database = runtime.block_on(Database::create(true))?;
                let url = database.url.clone();
                Some(Self::open(runtime, &url, Home::Server(database)))
            }),
        };
        slot.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            open(runtime.expect("a runtime"))
        })
        .as_ref()
    }

    fn open(runtime: Runtime, url: &str, home: Home) -> Self {
        let options = OpenOptions {
            url: url.to_owned(),
            max_connections: 6,
            acquire_timeout: std::time::Duration::from_secs(20),
            providers: vec![GITHUB],
            node: "bench".into(),
            serving: true,
        };
        let store = runtime.block_on(async {
            let store = store::open(options, Arc::new(NoObserver)).await.expect("it opens");
            store.migrate().await.expect("the migrations apply");
            store
        });
        let provider = sim::find("github").expect("simulated");
        let facts = sim::Facts { body_bytes: BODY_BYTES, ..provider.facts(1, 7, NOW) };
        let request = provider.event("github:pull-request.opened", &facts, b"secret").expect("it sends such events");
        let ids = Ids::new(Arc::new(SystemClock));
        Self { runtime, store, ids, body: request.body, next: AtomicU64::new(0), _home: home }
    }

    fn batch(&self) -> Vec<NewEvent> {
        (0..BATCH).map(|_| self.event()).collect()
    }

    fn event(&self) -> NewEvent {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let event = Event {
            id: self.ids.event(),
            provider: GITHUB,
            provider_delivery_id: ProviderDeliveryId::new(format!("delivery-{number}")),
            wire_type: "pull_request".into(),
            key: Some(EventKey::new("github:pull-request.opened")),
            installation: Some(InstallationId::from_raw("in_1")),
            org: Some(OrgId::from_raw("org_1")),
            external_id: None,
            resources: vec![ProviderResourceId::new("repo-1")],
            outcome: EventOutcome::Routed,
            reason: None,
            possible_replay: false,
            held: false,
            received_at: NOW,
            correlation_id: "req_1".into(),
            trace_id: None,
        };
        let delivery = Delivery {
            id: self.ids.delivery(),
            event: event.id.clone(),
            integration: IntegrationId::from_raw("int_1"),
            resource: ResourceId::from_raw("res_1"),
            workspace: WorkspaceId::from_raw("ws_1"),
            org: OrgId::from_raw("org_1"),
            destination: Some(DestinationId::from_raw("dst_1")),
            status: DeliveryStatus::Pending,
            reason: None,
            attempts: 0,
            attempts_before_retry: 0,
            due_at: NOW,
            lease_until: None,
            replay: false,
            created_at: NOW,
            finished_at: None,
        };
        NewEvent {
            event,
            headers: r#"{"x-github-event":"pull_request"}"#.into(),
            content_type: Some("application/json".into()),
            body: self.body.clone(),
            body_digest: Some(u128::from(number).to_be_bytes()),
            decision: r#"{"considered":[]}"#.into(),
            deliveries: vec![NewDelivery { delivery, lease_owner: None }],
            drop_possible_replay: false,
        }
    }

    fn accept(&self, events: Vec<NewEvent>) {
        let accepting = events.into_iter().map(|event| self.store.accept_event(event));
        self.runtime.block_on(async {
            join_all(accepting).await.into_iter().for_each(|accepted| drop(accepted.expect("it is stored")));
        });
    }
}

/// 64 events with a delivery each arrive at once and are answered when all are committed.
#[divan::bench(args = ["sqlite", "postgres"], sample_count = 50, sample_size = 1)]
fn insert_64(bencher: Bencher, backend: &str) {
    let Some(bench) = Bench::of(backend) else { return skip(bencher) };
    bencher.with_inputs(|| bench.batch()).bench_local_values(|events| bench.accept(events));
}

/// 64 due deliveries are leased in one claim, their events and bodies with them.
#[divan::bench(args = ["sqlite", "postgres"], sample_count = 50, sample_size = 1)]
fn claim_64(bencher: Bencher, backend: &str) {
    let Some(bench) = Bench::of(backend) else { return skip(bencher) };
    let limit = u32::try_from(BATCH).expect("small");
    let request = ClaimRequest {
        destination: DestinationId::from_raw("dst_1"),
        owner: "bench".into(),
        now: NOW,
        lease_until: EpochMs(NOW.0 + 3_600_000),
        first_tries: limit,
        retries: limit,
        in_all: limit,
        bytes: usize::MAX,
    };
    bencher.with_inputs(|| bench.accept(bench.batch())).bench_local_values(|()| {
        let claimed =
            bench.runtime.block_on(bench.store.claim_deliveries(&request)).expect("claiming works").deliveries;
        assert_eq!(claimed.len(), BATCH);
        claimed
    });
}

fn skip(bencher: Bencher) {
    println!("(no server: SIGNALBOX_TEST_POSTGRES_URL is not set)");
    bencher.bench(|| ());
}
