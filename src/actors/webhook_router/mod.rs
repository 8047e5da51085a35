//! The webhook router: one actor per HTTP worker; and the mending of stored events, which goes the same way again.
//!
//! **Owns** the way from a received webhook to a committed event (`pipeline.rs`, one function per step) and back from a
//! stored event to new deliveries (`mending.rs`). **Invariants**: no receipt before the commit; exactly one outcome per
//! webhook; a panic ends one webhook. **Must not know** HTTP or SQL.

mod actor;
mod control;
mod kept_headers;
mod mending;
mod messages;
mod pipeline;
mod quarantine;
mod span;
mod turns;
mod uncommitted;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr};
use bytes::Bytes;
use serde_json::{Value, json};

pub use self::mending::MendingHandle;
use self::{
    actor::WebhookRouter,
    messages::{RouteTrusted, RouteWebhook},
    pipeline::Pipeline,
    quarantine::{QuarantineLimits, QuarantineWriter},
};
use crate::{
    actors::{AskError, directory::Directory, dispatcher::DispatcherHandle, runtime::ask},
    cache::FailureCounts,
    config::IngestConfig,
    model::{
        clock::{Clock, EpochMs, Ids},
        error_kind::ErrorKind,
        event::EventOutcome,
        ids::{DeliveryId, EventId, InstallationId, IntegrationId, OrgId, QuarantineId},
        provider::{ProviderDeliveryId, ProviderSlug},
        webhook::ReceivedWebhook,
    },
    providers::{ExtractError, Registry, VerifyError},
    store::{QuarantineBounds, SharedStore, StoreError},
    telemetry::{metrics::Metrics, traces::Traces},
};

/// How much longer than the acknowledgement deadline an asker waits for the answer that says so.
const GRACE: Duration = Duration::from_millis(100);

/// What the routers of a node share.
pub struct RouterDeps {
    /// The rows.
    pub store: SharedStore,
    /// The providers and their secrets.
    pub registry: Arc<Registry>,
    /// Whose webhook it is.
    pub directory: Directory,
    /// Who sends.
    pub dispatcher: DispatcherHandle,
    /// Who counts.
    pub metrics: Arc<Metrics>,
    /// Where webhooks' spans go.
    pub traces: Traces,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Ids,
    /// `[ingest]`
    pub ingest: IngestConfig,
}

/// Everything routers share on one node: makes the workers' handles and the mending handle.
#[derive(Clone)]
pub struct RouterPool {
    pipeline: Arc<Pipeline>,
    in_flight: Arc<AtomicUsize>,
}

impl RouterPool {
    /// Prepares the pool on the current runtime; no router runs yet.
    pub fn new(deps: RouterDeps) -> Self {
        let limits = QuarantineLimits {
            bounds: QuarantineBounds {
                max_count: deps.ingest.quarantine_max_count,
                max_bytes: deps.ingest.quarantine_max_bytes,
            },
            per_s: deps.ingest.quarantine_per_s,
        };
        let quarantine = QuarantineWriter::start(
            deps.store.clone(),
            deps.registry.clone(),
            limits,
            deps.metrics.clone(),
            deps.clock.clone(),
            deps.ids.clone(),
        );
        let pipeline = Pipeline {
            store: deps.store,
            registry: deps.registry,
            directory: deps.directory,
            dispatcher: deps.dispatcher,
            metrics: deps.metrics,
            traces: deps.traces,
            clock: deps.clock,
            ids: deps.ids,
            ingest: deps.ingest,
            failures: FailureCounts::default(),
            quarantine,
            uncommitted: Arc::default(),
        };
        Self { pipeline: Arc::new(pipeline), in_flight: Arc::new(AtomicUsize::new(0)) }
    }

    /// Starts a router on the calling thread's arbiter: call it once in every HTTP worker.
    pub fn start_router(&self) -> RouterHandle {
        let address = RouterHandle::start_actor(&self.pipeline);
        RouterHandle {
            pool: self.clone(),
            address: Arc::new(Mutex::new(address)),
            in_flight: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// The handle that replays, reroutes and releases.
    pub fn mending(&self) -> MendingHandle {
        MendingHandle::new(self.pipeline.clone())
    }

    /// A copy of the routers' state, for people.
    pub fn snapshot(&self) -> Value {
        json!({ "webhooksInFlight": self.in_flight.load(Ordering::Relaxed) })
    }

    /// Waits until no webhook is under way, at the most `limit`. Intake must have stopped.
    pub async fn drain(&self, limit: Duration) {
        let emptied = async {
            while self.in_flight.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(limit, emptied).await.is_err() {
            tracing::warn!("webhooks were still under way at the deadline; their providers will retry");
        }
    }
}

/// What other rooms hold of a router.
#[derive(Clone)]
pub struct RouterHandle {
    pool: RouterPool,
    address: Arc<Mutex<Addr<WebhookRouter>>>,
    in_flight: Arc<AtomicUsize>,
}

/// Room taken by one webhook; given back when dropped.
struct InFlight([Arc<AtomicUsize>; 2]);

impl Drop for InFlight {
    fn drop(&mut self) {
        for counter in &self.0 {
            counter.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What the provider is told.
#[derive(Debug, Clone)]
pub enum Receipt {
    /// Committed.
    Accepted {
        /// The provider's id of it.
        delivery_id: ProviderDeliveryId,
        /// Ours.
        event: EventId,
        /// What became of it.
        outcome: EventOutcome,
        /// Whether it waits for its release.
        held: bool,
        /// Whose it is, if that is known.
        org: Option<OrgId>,
        /// How many deliveries were committed with it.
        deliveries: usize,
        /// How long after its last byte it was committed.
        took: Duration,
    },
    /// Committed before.
    Duplicate {
        /// The provider's id of it.
        delivery_id: ProviderDeliveryId,
        /// The event stored then.
        event: EventId,
    },
    /// Its handling failed three times: kept in quarantine, until somebody has it verified again or discards it.
    SetAside {
        /// Where it is kept.
        quarantine: QuarantineId,
    },
}

impl Receipt {
    /// The event it is, if it is one.
    pub fn event(&self) -> Option<&EventId> {
        match self {
            Self::Accepted { event, .. } | Self::Duplicate { event, .. } => Some(event),
            Self::SetAside { .. } => None,
        }
    }

    /// Counts what became of its webhook. Whoever is given the receipt does, not who writes it: after the acknowledgement
    /// deadline it reaches nobody, and the webhook was counted as refused.
    pub fn count(&self, provider: ProviderSlug, metrics: &Metrics) {
        match self {
            Self::Accepted { org, outcome, deliveries, took, .. } => {
                metrics.webhook_stored(provider, org.as_ref(), *outcome, *deliveries, *took);
            }
            Self::Duplicate { .. } => metrics.webhook_duplicate(provider),
            Self::SetAside { .. } => metrics.webhook_refused(provider, self.outcome()),
        }
    }

    /// One word for logs and traces.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Accepted { outcome, .. } => outcome.as_str(),
            Self::Duplicate { .. } => "duplicate",
            Self::SetAside { .. } => "set_aside",
        }
    }
}

/// A webhook of the service path: trusted, not signed.
#[derive(Debug, Clone)]
pub struct TrustedWebhook {
    /// At which provider.
    pub provider: ProviderSlug,
    /// The installation.
    pub installation: InstallationId,
    /// The org the writer acts for; must be the installation's.
    pub org: OrgId,
    /// The provider's id of it.
    pub delivery_id: ProviderDeliveryId,
    /// The provider's name of it.
    pub event_type: String,
    /// The JSON text of the payload, as sent.
    pub payload: Bytes,
    /// When the provider sent it.
    pub received_at: EpochMs,
    /// Whether it waits for its release.
    pub hold: bool,
    /// For logs, answers and the destination.
    pub correlation_id: String,
}

/// Why a webhook was not stored.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Not genuine.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Genuine but not understood.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The service path named no installation we have.
    #[error("no such connection")]
    UnknownInstallation,
    /// The service path named an installation of another org.
    #[error("the connection belongs to another organisation")]
    ForeignInstallation,
    /// The store could not commit in time; nothing was promised.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its handling panicked; it is kept in quarantine.
    #[error("its handling failed")]
    Panicked,
}

impl RouteError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.code(),
            Self::Extract(error) => error.code(),
            Self::UnknownInstallation => "not_found",
            Self::ForeignInstallation => "forbidden",
            Self::Store(error) => error.code(),
            Self::Panicked => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Verify(error) => error.kind(),
            Self::Extract(error) => error.kind(),
            Self::UnknownInstallation => ErrorKind::NotFound,
            Self::ForeignInstallation => ErrorKind::Forbidden,
            Self::Store(error) => error.kind(),
            Self::Panicked => ErrorKind::Internal,
        }
    }
}

impl RouterHandle {
    fn start_actor(pipeline: &Arc<Pipeline>) -> Addr<WebhookRouter> {
        WebhookRouter { pipeline: pipeline.clone(), mailbox: pipeline.ingest.max_in_flight }.start()
    }

    /// The router, alive: one that died of a panic is replaced.
    fn address(&self) -> Addr<WebhookRouter> {
        let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        if !address.connected() {
            *address = Self::start_actor(&self.pool.pipeline);
        }
        address.clone()
    }

    /// Takes room for a webhook, or `None` when this worker has enough to do. Bytes are bounded where bodies are read.
    fn enter(&self) -> Option<InFlight> {
        let room = InFlight([self.in_flight.clone(), self.pool.in_flight.clone()]);
        self.pool.in_flight.fetch_add(1, Ordering::AcqRel);
        let others = self.in_flight.fetch_add(1, Ordering::AcqRel);
        (others < self.pool.pipeline.ingest.max_in_flight).then_some(room)
    }

    fn ask_limit(&self) -> Duration {
        self.pool.pipeline.ingest.ack_deadline + GRACE
    }

    /// Routes a provider's webhook: answers after the commit.
    pub async fn route(&self, webhook: ReceivedWebhook) -> Result<Receipt, AskError<RouteError>> {
        let _room = self.enter().ok_or(AskError::Busy)?;
        ask(&self.address(), RouteWebhook { webhook }, self.ask_limit()).await
    }

    /// Routes a trusted writer's webhook.
    pub async fn route_trusted(&self, webhook: TrustedWebhook) -> Result<Receipt, AskError<RouteError>> {
        let _room = self.enter().ok_or(AskError::Busy)?;
        ask(&self.address(), RouteTrusted { webhook }, self.ask_limit()).await
    }
}

/// What replaying an event did.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The new deliveries.
    pub deliveries: Vec<(DeliveryId, IntegrationId)>,
}

/// What rerouting did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rerouted {
    /// Events looked at.
    pub considered: u64,
    /// Events that have deliveries now.
    pub routed: u64,
    /// Events that now match an integration that does not want them.
    pub filtered: u64,
}

/// What checking the quarantine again did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reverified {
    /// Webhooks looked at.
    pub considered: u64,
    /// Those that verify now and are events.
    pub accepted: u64,
    /// Those that verify now and were events already.
    pub duplicates: u64,
    /// Those that still do not.
    pub rejected: u64,
}

/// What `POST /admin/replay/catchup` did.
#[derive(Debug, Clone, Default)]
pub struct CaughtUp {
    /// The events replayed, with the provider's ids.
    pub replayed: Vec<(EventId, ProviderDeliveryId)>,
    /// How many events are left.
    pub remaining: u64,
}

/// `POST /admin/replay/catchup`.
#[derive(Debug, Clone)]
pub struct CatchUp {
    /// Whose events.
    pub installation: InstallationId,
    /// How many events in this call.
    pub batch_size: u32,
    /// Received at or after.
    pub since: Option<EpochMs>,
    /// Received before.
    pub until: Option<EpochMs>,
}
