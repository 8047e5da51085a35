//! The dispatcher: takes committed deliveries to their destinations.
//!
//! **Owns** leases, the attempts in flight and what is known of destinations' health. A delivery gets here in one of two
//! ways: fresh, committed together with its event under a lease of this node ([`DispatcherHandle::send`]), or claimed
//! from the store when it falls due (`claim`). Either way one task tries it once (`attempt`) and hands in what came of
//! it, to be recorded together with others (`recording`).
//!
//! **Invariants**: nothing is sent without a committed lease; room is bounded per destination and in all; a failing
//! destination slows nobody else, and its retries never keep first tries waiting; after [`DispatcherHandle::drain`]
//! no lease of this node is left. **Must not know** webhooks, routing or HTTP's inbound side.

mod actor;
mod attempt;
mod claim;
mod destinations;
mod due_clock;
mod lanes;
mod messages;
mod recording;
mod seats;
mod shared;
mod state;
mod trial;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use actix::Arbiter;
use tokio::{runtime::Handle, time::timeout};

pub use self::lanes::Slot;
use self::{
    destinations::Target,
    lanes::Lanes,
    messages::Snapshot,
    shared::{Parts, Shared},
    state::LaneRules,
};
use crate::{
    actors::runtime::ask,
    config::DeliveryConfig,
    delivery::{
        client::{ClientUnavailable, DeliveryClient},
        sign::NotASigningSecret,
    },
    model::{
        clock::{Clock, EpochMs, Ids},
        delivery::AttemptResult,
        ids::{DeliveryId, DestinationId, OrgId},
    },
    store::{ClaimedDelivery, SharedStore, StoreResult},
    telemetry::{metrics::Metrics, traces::Traces},
    vault::Vault,
};

/// How long a snapshot is waited for.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(2);

/// From this limit of attempts in flight on, a destination has as many seats.
const SMALLEST_LIMIT_WITH_SEATS: usize = 8;

/// The share of a drain's deadline kept for giving up leases, and its most.
const RELEASE_SHARE: u32 = 4;
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// What the dispatcher needs.
pub struct DispatcherDeps {
    /// Deliveries, destinations, attempts.
    pub store: SharedStore,
    /// Opens signing secrets and headers.
    pub vault: Arc<Vault>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where attempts' spans go.
    pub traces: Traces,
    /// Due times and timestamps.
    pub clock: Arc<dyn Clock>,
    /// Attempts' ids.
    pub ids: Ids,
    /// `[delivery]`
    pub config: DeliveryConfig,
    /// This process's name in leases.
    pub node: String,
    /// Whether what was read of a destination is believed for a while.
    pub remembers_destinations: bool,
}

/// Why the dispatcher did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not called within an actix system.
    #[error("there is no actix system to run in")]
    NoSystem,
    /// `[delivery] secret` is none.
    #[error("delivery.secret: {0}")]
    Secret(#[from] NotASigningSecret),
    /// TLS could not be set up.
    #[error(transparent)]
    Client(#[from] ClientUnavailable),
}

/// What other rooms hold of the dispatcher.
#[derive(Clone)]
pub struct DispatcherHandle {
    shared: Arc<Shared>,
}

/// A delivery that was committed with its lease and goes out from memory.
#[derive(Debug)]
pub struct FreshDelivery {
    /// The delivery and what its envelope needs.
    pub claimed: ClaimedDelivery,
    /// Its room.
    pub slot: Slot,
}

/// What a test envelope met.
#[derive(Debug, Clone)]
pub struct TestAnswer {
    /// The `webhook-id` it carried.
    pub webhook_id: DeliveryId,
    /// How it ended.
    pub result: AttemptResult,
    /// How long it took, milliseconds.
    pub duration_ms: u32,
    /// The first bytes of the answer; without one, what went wrong in our words.
    pub response_body: Option<String>,
}

impl DispatcherHandle {
    /// Starts it: attempts run on the current tokio runtime, the actor on the current arbiter.
    ///
    /// # Errors
    /// [`StartError`] says what is missing.
    pub fn start(deps: DispatcherDeps) -> Result<Self, StartError> {
        let arbiter = Arbiter::try_current().ok_or(StartError::NoSystem)?;
        let runtime = Handle::try_current().map_err(|_| StartError::NoSystem)?;
        let config = &deps.config;
        let default_target = Target::configured(config)?.map(Arc::new);
        let client = DeliveryClient::new(config.timeout, config.allow_private_networks)?;
        let limit = config.max_in_flight_per_destination.max(1);
        let rules = LaneRules {
            limit,
            // Whoever is sent few at a time is not queued for in memory either.
            seats: if limit >= SMALLEST_LIMIT_WITH_SEATS { limit } else { 0 },
            circuit_failures: config.circuit_failures.max(1),
            probe_wait: config.circuit_probe,
            longest_retry_wait: config.retry_schedule.iter().max().copied().unwrap_or(Duration::MAX),
        };
        let lanes = Lanes::new(rules, config.max_in_flight.max(1));
        let shared = Shared::new(Parts { deps, client, default_target, lanes, runtime, arbiter });
        shared.keep_polling();
        Ok(Self { shared })
    }

    /// The name of this node in leases.
    pub fn node(&self) -> &str {
        &self.shared.node
    }

    /// What is due now is due at this time: the time by the clock that all nodes go by.
    pub fn due_now(&self) -> EpochMs {
        self.shared.due_clock.now()
    }

    /// Until when a lease that begins now is written.
    pub fn lease_until(&self) -> EpochMs {
        self.shared.lease_until()
    }

    /// Looks at the clock that all nodes go by.
    ///
    /// # Errors
    /// `StoreError` if the store does not answer.
    pub async fn follow_server_clock(&self) -> StoreResult<()> {
        let asked_at = Instant::now();
        if let Some(server) = self.shared.store.server_time().await? {
            self.shared.due_clock.follow(server, asked_at);
        }
        Ok(())
    }

    /// Room for one attempt at this destination now or soon, if there is any: its circuit is closed, nothing older waits
    /// in the store, and neither its own limit (with its seats) nor the limit in all is reached. The delivery's body has
    /// this many bytes.
    pub fn reserve(&self, destination: &DestinationId, body_bytes: usize) -> Option<Slot> {
        if self.shared.is_draining() { None } else { self.shared.reserve_slot(destination, body_bytes) }
    }

    /// Sends deliveries committed with this node's lease.
    pub fn send(&self, fresh: Vec<FreshDelivery>) {
        // Counted before it looks: a drain that begins now waits for what is started here, so that no lease is given up
        // under an attempt.
        let _counted = self.shared.count_task();
        if self.shared.is_draining() {
            let ids: Vec<_> = fresh.into_iter().map(|fresh| fresh.claimed.delivery.id).collect();
            let shared = Arc::clone(&self.shared);
            self.shared.spawn("release", async move { shared.give_back_leases(&ids).await });
            return;
        }
        for FreshDelivery { claimed, slot } in fresh {
            self.shared.start_attempt(claimed, slot);
        }
    }

    /// Says that this destination has something due. A lost nudge is harmless: the dispatcher also polls.
    pub fn nudge(&self, destination: Option<&DestinationId>) {
        match destination {
            Some(destination) => self.shared.want(destination),
            None => self.shared.poll_soon(),
        }
    }

    /// Somebody asks that deliveries of an org (or of all) be tried: what is due is looked for, and an open circuit does not
    /// wait any longer for its probe.
    pub fn try_now(&self, org: Option<&OrgId>) {
        self.shared.probe_at_once(org);
        self.shared.poll_soon();
    }

    /// Forgets what it knows of an org's destinations (or of all), because they changed.
    pub fn forget_destinations(&self, org: Option<&OrgId>) {
        self.shared.forget_targets(org);
    }

    /// Sends a signed test envelope to a destination, at once and once. `None` if there is no such destination.
    pub async fn send_test(&self, destination: &DestinationId, correlation_id: &str) -> Option<TestAnswer> {
        self.shared.send_test(destination, correlation_id).await
    }

    /// What is thought of a destination here: `closed`, `open` or `half_open`; `None` if nothing was sent there lately.
    pub fn circuit(&self, destination: &DestinationId) -> Option<&'static str> {
        self.shared.lanes.find(destination).map(|lane| lane.state().circuit().as_str())
    }

    /// A copy of its state for people.
    pub async fn snapshot(&self) -> serde_json::Value {
        let asked = ask(&self.shared.actor(), Snapshot, SNAPSHOT_LIMIT).await;
        asked.unwrap_or_else(|_| self.shared.snapshot())
    }

    /// Stops claiming, waits for attempts in flight until `deadline` is over, records their results and gives up the
    /// leases of what was not tried.
    pub async fn drain(&self, deadline: Duration) {
        let shared = &self.shared;
        shared.draining.store(true, Ordering::Release);
        shared.dismiss_actor();
        let release_time = (deadline / RELEASE_SHARE).min(RELEASE_TIME);
        if timeout(deadline.saturating_sub(release_time), shared.all_done()).await.is_err() {
            tracing::warn!(in_flight = shared.lanes.in_flight(), "attempts are cut: the time to shut down is over");
            shared.cut.send_replace(true);
            // They only have to notice.
            drop(timeout(release_time / 2, shared.all_done()).await);
        }
        for lane in shared.lanes.all() {
            lane.seats.clear();
        }
        let releasing = shared.store.release_leases(&shared.node, None, shared.due_clock.now());
        match timeout(release_time, releasing).await {
            Ok(Ok(released)) => tracing::info!(released, "the dispatcher is done"),
            Ok(Err(error)) => tracing::warn!(code = error.code(), "leases cannot be given up; they will run out"),
            Err(_) => tracing::warn!("leases cannot be given up in time; they will run out"),
        }
    }
}
