//! What every handler is given: the handles of the other rooms and the state of the process.
//!
//! **Must not know** how any of it is built; `app` does that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{auth::KeyRing, brake::Brake, request_body::BodyBudget, session::Sessions, stream::Followers};
use crate::{
    actors::{
        connecting::ConnectingHandle,
        destinations::DestinationsHandle,
        directory::Directory,
        dispatcher::DispatcherHandle,
        healing::HealingHandle,
        webhook_router::{MendingHandle, RouterPool},
    },
    config::Config,
    model::clock::{Clock, Ids},
    providers::Registry,
    store::SharedStore,
    telemetry::metrics::Metrics,
};

/// The handles, shared by every worker. The router's is not among them: each worker has its own.
pub struct Gateway {
    /// For reads.
    pub store: SharedStore,
    /// Which providers there are.
    pub registry: Arc<Registry>,
    /// For changes to an installation's rows.
    pub directory: Directory,
    /// For replays, reroutes and releases.
    pub mending: MendingHandle,
    /// For snapshots of the routers.
    pub routers: RouterPool,
    /// For nudges and snapshots.
    pub dispatcher: DispatcherHandle,
    /// For comparing providers' logs with what was received.
    pub healing: HealingHandle,
    /// For destinations and their secrets.
    pub destinations: DestinationsHandle,
    /// For connecting, and for adopting.
    pub connecting: ConnectingHandle,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Fresh ids.
    pub ids: Ids,
    /// The settings.
    pub config: Arc<Config>,
    /// API keys.
    pub keys: KeyRing,
    /// Sessions of the console.
    pub sessions: Sessions,
    /// Slows down whoever is refused again and again.
    pub brake: Brake,
    /// Who follows event streams.
    pub followers: Arc<Followers>,
    /// Whether the process is stopping.
    pub readiness: Readiness,
    /// Bytes of webhook bodies in hand; its size is `ingest.max_in_flight_bytes`.
    pub bodies: Arc<BodyBudget>,
}

/// Whether this process wants more work, and since when it runs.
#[derive(Debug, Clone)]
pub struct Readiness {
    draining: Arc<watch::Sender<bool>>,
    started: Instant,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// A process that starts now.
    pub fn new() -> Self {
        Self { draining: Arc::new(watch::Sender::new(false)), started: Instant::now() }
    }

    /// Says that the process is stopping: `/readyz` refuses, webhooks are answered 503, event streams end.
    pub fn begin_drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until it is stopping.
    pub async fn draining(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        if self.draining.subscribe().wait_for(|draining| *draining).await.is_err() {
            tracing::debug!("the readiness flag is gone");
        }
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
