//! What the dispatcher's handle, its actor and its tasks share, and what outlives a dead actor.
//!
//! **Owns** the tasks, the queue of destinations to claim for and the poll. **Invariants**: every task runs isolated
//! and is counted, so that draining knows when all is done; a dead actor is replaced at the next poll or call; while
//! draining nothing is claimed or reserved. **Must not know** how a delivery is sent.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, ArbiterHandle};
use dashmap::DashSet;
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use super::{
    actor::Dispatcher,
    claim::Claim,
    destinations::Target,
    due_clock::DueClock,
    lanes::{ClaimStart, Lanes},
    messages::Wake,
    recording::RecordQueue,
    state::{ClaimQueue, RetryTimes},
};
use crate::{
    actors::runtime::isolate,
    config::DeliveryConfig,
    delivery::client::DeliveryClient,
    model::{
        clock::{Clock, EpochMs, Ids},
        ids::{DeliveryId, DestinationId},
    },
    store::SharedStore,
    telemetry::{metrics::Metrics, traces::Traces},
    vault::Vault,
};

/// How often the store is asked for what is due, whatever else is known.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Destinations in one page of the poll, and pages in one poll.
const POLL_PAGE: u32 = 200;
const POLL_PAGES: usize = 20;

/// Lanes shown in a snapshot.
const SNAPSHOT_LANES: usize = 200;

/// What a lease has beyond an attempt's longest time: to wait for a slot, and to record the result, retries included.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// The part of it that is for the record.
const RECORDING_TIME: Duration = Duration::from_secs(5);

/// Everything the dispatcher's parts share.
pub(super) struct Shared {
    pub store: SharedStore,
    pub vault: Arc<Vault>,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub clock: Arc<dyn Clock>,
    pub ids: Ids,
    pub config: DeliveryConfig,
    pub node: String,
    pub remembers_destinations: bool,
    pub client: DeliveryClient,
    /// `[delivery] url`, ready to send to.
    pub default_target: Option<Arc<Target>>,
    pub lanes: Lanes,
    pub retry_times: Mutex<RetryTimes>,
    /// Deliveries this process has in its hands: a row is never tried twice at once, even after a clock jumped and its
    /// lease looked expired.
    pub held: DashSet<DeliveryId>,
    /// Results that are not recorded yet.
    pub record_queue: Mutex<RecordQueue>,
    /// By which deliveries are due and leased.
    pub due_clock: DueClock,
    pub draining: AtomicBool,
    /// Told true when attempts in flight must be cut.
    pub cut: watch::Sender<bool>,
    /// False when other nodes may take this one's leases over.
    pub is_present: watch::Receiver<bool>,
    queue: Mutex<ClaimQueue>,
    tasks: watch::Sender<usize>,
    runtime: Handle,
    arbiter: ArbiterHandle,
    actor: Mutex<Option<Addr<Dispatcher>>>,
    actors_started: AtomicU64,
    wake_waits: AtomicBool,
    poll_wanted: Arc<Notify>,
    /// Where the next poll goes on, if the last one had to stop: else those at the end would never have their turn.
    polled_up_to: Mutex<Option<DestinationId>>,
}

/// What [`Shared`] is made of; see `DispatcherDeps`.
pub(super) struct Parts {
    pub deps: super::DispatcherDeps,
    pub client: DeliveryClient,
    pub default_target: Option<Arc<Target>>,
    pub lanes: Lanes,
    pub runtime: Handle,
    pub arbiter: ArbiterHandle,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { deps, client, default_target, lanes, runtime, arbiter } = parts;
        Arc::new(Self {
            is_present: deps.store.is_present(),
            store: deps.store,
            vault: deps.vault,
            metrics: deps.metrics,
            traces: deps.traces,
            due_clock: DueClock::new(Arc::clone(&deps.clock)),
            clock: deps.clock,
            ids: deps.ids,
            config: deps.config,
            node: deps.node,
            remembers_destinations: deps.remembers_destinations,
            client,
            default_target,
            lanes,
            retry_times: Mutex::default(),
            held: DashSet::new(),
            record_queue: Mutex::default(),
            draining: AtomicBool::new(false),
            cut: watch::Sender::new(false),
            queue: Mutex::default(),
            tasks: watch::Sender::new(0),
            runtime,
            arbiter,
            actor: Mutex::new(None),
            actors_started: AtomicU64::new(0),
            wake_waits: AtomicBool::new(false),
            poll_wanted: Arc::new(Notify::new()),
            polled_up_to: Mutex::new(None),
        })
    }

    /// How long a lease lasts.
    pub(super) fn lease(&self) -> Duration {
        self.config.timeout + LEASE_MARGIN
    }

    /// How much of a lease is left that began then, and ends in its row at `until`: by whichever clock less is. One that
    /// only moves forward does not jump, but stands still while the machine is suspended.
    pub(super) fn lease_left(&self, leased_at: Instant, until: Option<EpochMs>) -> Duration {
        let by_monotonic = self.lease().saturating_sub(leased_at.elapsed());
        until.map_or(by_monotonic, |until| by_monotonic.min(until.since(self.due_clock.now_at_the_latest())))
    }

    /// How much of a lease an attempt needs: all of its time, and some to record the result before the row is claimed
    /// again.
    pub(super) fn lease_needed(&self) -> Duration {
        self.client.timeout() + RECORDING_TIME
    }

    /// Until when a lease that begins now is written.
    pub(super) fn lease_until(&self) -> EpochMs {
        self.due_clock.now().plus(self.lease())
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    // --- tasks ------------------------------------------------------------------------------------------------------

    /// Runs a future on the runtime the dispatcher was started on, isolated and counted.
    pub(super) fn spawn(self: &Arc<Self>, what: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let counted = CountedTask::new(Arc::clone(self));
        drop(self.runtime.spawn(async move {
            let counted = counted;
            if isolate(future).await.is_err() {
                tracing::error!(task = what, "a task of the dispatcher panicked; its lease will run out");
            }
            drop(counted);
        }));
    }

    /// Counts the caller as a task for as long as it holds this.
    pub(super) fn count_task(self: &Arc<Self>) -> CountedTask {
        CountedTask::new(Arc::clone(self))
    }

    /// Ends when no task runs.
    pub(super) async fn all_done(&self) {
        // The sender lives in `self`, so this cannot fail.
        drop(self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await);
    }

    /// Ends when the time to shut down is over.
    pub(super) async fn is_cut(&self) {
        drop(self.cut.subscribe().wait_for(|cut| *cut).await);
    }

    /// Ends when another node may take this one's leases over; never where there is none.
    pub(super) async fn is_absent(&self) {
        if self.is_present.clone().wait_for(|present| !present).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    // --- the actor --------------------------------------------------------------------------------------------------

    /// The actor, started if it is not there or dead.
    pub(super) fn actor(self: &Arc<Self>) -> Addr<Dispatcher> {
        let mut actor = lock(&self.actor);
        if let Some(living) = actor.as_ref().filter(|actor| actor.connected()) {
            return living.clone();
        }
        let started_before = self.actors_started.fetch_add(1, Ordering::Relaxed);
        if started_before > 0 {
            tracing::error!(restarts = started_before, "the dispatcher's actor died and is replaced");
        }
        self.wake_waits.store(false, Ordering::Release);
        let shared = Arc::downgrade(self);
        let started = Dispatcher::start_in_arbiter(&self.arbiter, move |_| Dispatcher::new(shared));
        *actor = Some(started.clone());
        started
    }

    /// Ends the actor: its last address is dropped.
    pub(super) fn dismiss_actor(&self) {
        *lock(&self.actor) = None;
    }

    /// Tells the actor to look. A wake that already waits does for this one too.
    pub(super) fn wake(self: &Arc<Self>) {
        if self.is_draining() || self.wake_waits.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.actor().try_send(Wake).is_err() {
            self.wake_waits.store(false, Ordering::Release);
        }
    }

    // --- claiming ---------------------------------------------------------------------------------------------------

    /// Something is due for this destination.
    pub(super) fn want(self: &Arc<Self>, destination: &DestinationId) {
        if self.lanes.lane(destination).state().nudge() {
            lock(&self.queue).push(destination);
            self.wake();
        }
    }

    /// A slot was dropped; its destination may want more.
    pub(super) fn room_was_freed(self: &Arc<Self>, wants_claim: Option<&DestinationId>) {
        let mut queue = lock(&self.queue);
        if let Some(destination) = wants_claim {
            queue.push(destination);
        }
        let queued = queue.len() > 0;
        drop(queue);
        if queued && self.lanes.has_room_in_all() {
            self.wake();
        }
    }

    /// Starts claims for destinations in turn while there is room. Called by the actor only.
    pub(super) fn serve(self: &Arc<Self>) {
        // First, so that whatever comes from here on wakes again.
        self.wake_waits.store(false, Ordering::Release);
        if self.is_draining() {
            return;
        }
        for destination in lock(&self.retry_times).take_due(self.due_clock.now()) {
            lock(&self.queue).push(&destination);
        }
        let turns = lock(&self.queue).len();
        for turn in 0..turns {
            let Some(destination) = lock(&self.queue).pop() else { return };
            let lane = self.lanes.lane(&destination);
            let share = self.lanes.free_in_all().div_ceil(turns - turn);
            match self.start_claim(&lane, share) {
                ClaimStart::Started(room, slots, for_bodies) => {
                    self.spawn("claim", Claim::new(Arc::clone(self), lane, room, slots, for_bodies).run());
                }
                ClaimStart::NoRoomInAll => {
                    lock(&self.queue).push_front(destination);
                    return;
                }
                ClaimStart::NotNow => {}
            }
        }
    }

    /// How long until the next retry this process knows of.
    pub(super) fn until_next_retry(&self) -> Option<Duration> {
        lock(&self.retry_times).next().map(|at| at.since(self.due_clock.now()))
    }

    // --- polling ----------------------------------------------------------------------------------------------------

    /// Polls now rather than in a second.
    pub(super) fn poll_soon(&self) {
        self.poll_wanted.notify_one();
    }

    /// Polls until everybody who held the dispatcher is gone or it drains.
    pub(super) fn keep_polling(self: &Arc<Self>) {
        let (shared, wanted) = (Arc::downgrade(self), Arc::clone(&self.poll_wanted));
        drop(self.runtime.spawn(async move {
            while let Some((shared, counted)) = polling(&shared) {
                if isolate(shared.poll()).await.is_err() {
                    tracing::error!("a poll of the dispatcher panicked");
                }
                drop((shared, counted));
                // Either is a reason to look again.
                drop(tokio::time::timeout(POLL_INTERVAL, wanted.notified()).await);
            }
        }));
    }

    pub(super) async fn poll(self: &Arc<Self>) {
        drop(self.actor());
        let mut after = lock(&self.polled_up_to).take();
        for _ in 0..POLL_PAGES {
            match self.store.list_due_destinations(self.due_clock.now(), after.as_ref(), POLL_PAGE).await {
                Ok(due) => {
                    for destination in &due {
                        self.want(&destination.destination);
                    }
                    if due.len() < POLL_PAGE as usize {
                        after = None;
                        break;
                    }
                    after = due.last().map(|last| last.destination.clone());
                }
                Err(error) => {
                    tracing::warn!(code = error.code(), "what is due cannot be read; the next poll tries again");
                    break;
                }
            }
        }
        *lock(&self.polled_up_to) = after;
        for lane in self.lanes.all() {
            if lane.state().waits() {
                self.want(&lane.id);
            }
        }
        self.lanes.forget_idle(Instant::now());
        self.metrics.set_in_flight(self.lanes.in_flight());
        self.metrics.set_open_circuits(self.lanes.open_circuits());
    }

    // --- looking ----------------------------------------------------------------------------------------------------

    /// The state, without secrets.
    pub(super) fn snapshot(&self) -> Value {
        let mut lanes = self.lanes.all();
        lanes.sort_by(|a, b| a.id.cmp(&b.id));
        let shown: Vec<_> = lanes
            .iter()
            .take(SNAPSHOT_LANES)
            .map(|lane| {
                let state = lane.state();
                json!({
                    "destination": lane.id,
                    "circuit": state.circuit().as_str(),
                    "inFlight": state.in_flight(),
                    "seated": state.seated(),
                    "allowed": state.allowed(),
                    "waits": state.waits(),
                    "failingSince": state.failing_since().map(EpochMs::to_rfc3339),
                })
            })
            .collect();
        json!({
            "actor": "dispatcher",
            "node": self.node,
            "draining": self.is_draining(),
            "inFlight": self.lanes.in_flight(),
            "tasks": *self.tasks.borrow(),
            "queued": lock(&self.queue).len(),
            "actorsStarted": self.actors_started.load(Ordering::Relaxed),
            "destinations": lanes.len(),
            "lanes": shown,
        })
    }
}

/// The dispatcher, while it is to be polled for. The poll is counted before it looks whether it may: a drain that begins
/// now waits for it.
fn polling(shared: &Weak<Shared>) -> Option<(Arc<Shared>, CountedTask)> {
    let shared = shared.upgrade()?;
    let counted = shared.count_task();
    (!shared.is_draining()).then_some((shared, counted))
}

/// Locks, panics of earlier holders notwithstanding: what these locks guard is valid after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a task for as long as it lives.
pub(super) struct CountedTask(Arc<Shared>);

impl CountedTask {
    fn new(shared: Arc<Shared>) -> Self {
        shared.tasks.send_modify(|tasks| *tasks += 1);
        Self(shared)
    }
}

impl Drop for CountedTask {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|tasks| *tasks = tasks.saturating_sub(1));
    }
}
