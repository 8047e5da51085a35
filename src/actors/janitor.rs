//! The janitor: what time and other nodes bring about. Ticks for retention, abandoned leases, deliveries without a
//! destination, idle supervisors, last-seen times, tokens near their end and teardowns that are due; and the listener for changes made elsewhere.
//!
//! **Invariants**: a tick that fails is logged and tried again at its next turn; two ticks of a kind never overlap; all
//! of it may be late without harm.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, Addr, Arbiter, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::mpsc;

use super::{
    backfill::BackfillHook,
    clock_watch::ClockWatch,
    directory::Directory,
    dispatcher::DispatcherHandle,
    healing::HealingHandle,
    runtime::{ask, isolate},
    webhook_router::MendingHandle,
};
use crate::{
    actors::AskError,
    config::{IngestConfig, LateBinding, RetentionConfig},
    model::{
        clock::Clock,
        ids::{DestinationId, InstallationId},
        log_entry,
    },
    store::{Change, EventFilter, PageRequest, RetentionCutoffs, SharedStore, StoreError},
    telemetry::metrics::Metrics,
};

const LEASES_EVERY: Duration = Duration::from_secs(2);
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// An event from this far in the future was stored before the clock was set back, while nobody was there to see it.
const FUTURE: Duration = Duration::from_mins(1);
const LAST_SEEN_EVERY: Duration = Duration::from_secs(1);
const READDRESS_EVERY: Duration = Duration::from_secs(30);
/// How long after a start providers are asked for the first time what they list.
const RELIST_DELAY: Duration = Duration::from_mins(10);
const TEARDOWNS_EVERY: Duration = Duration::from_secs(2);
const RENEWALS_EVERY: Duration = Duration::from_secs(15);
/// How long what was counted for charts is known to this node only, and lost with it.
const ACTIVITY_EVERY: Duration = Duration::from_secs(10);
/// How long the last counts may take to the store: they are worth no delay to what is.
const LAST_COUNTS_TIME: Duration = Duration::from_millis(500);
/// How long what was counted is kept: a day, and as much to look back from.
const ACTIVITY_KEPT: Duration = Duration::from_hours(48);
const RETENTION_EVERY: Duration = Duration::from_mins(1);
/// Rows of each kind deleted in one transaction.
const RETENTION_BATCH: u32 = 500;
/// Batches deleted in one tick at the most, so that a backlog does not hold the writer for long.
const RETENTION_BATCHES: u32 = 20;

/// A callback that took its state in time may still be talking to the provider when the flow's row is void.
const FLOW_GRACE: Duration = Duration::from_mins(5);

/// What the janitor needs of the other rooms.
#[derive(Clone)]
pub struct JanitorDeps {
    /// The rows.
    pub store: SharedStore,
    /// The supervisors.
    pub directory: Directory,
    /// Who sends.
    pub dispatcher: DispatcherHandle,
    /// Who routes late.
    pub mending: MendingHandle,
    /// Who compares providers' logs.
    pub healing: HealingHandle,
    /// How long between two looks at what providers list; zero never looks.
    pub relist: Duration,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[ingest]`
    pub ingest: IngestConfig,
    /// The configured default destination, if there is one.
    pub fallback_destination: Option<DestinationId>,
    /// The backfill service, where one is configured.
    pub backfill: Option<BackfillHook>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This node's name in leases.
    pub node: String,
}

struct Janitor {
    deps: JanitorDeps,
    linked: Option<mpsc::UnboundedReceiver<InstallationId>>,
}

/// What other rooms hold of the janitor.
#[derive(Clone)]
pub struct JanitorHandle {
    address: Addr<Janitor>,
    store: SharedStore,
    metrics: Arc<Metrics>,
}

/// Stop ticking.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
struct Drain;

impl JanitorHandle {
    /// Starts the janitor on an arbiter of its own; `linked` brings the installations that gained a link.
    pub fn start(deps: JanitorDeps, linked: mpsc::UnboundedReceiver<InstallationId>) -> Self {
        let (store, metrics) = (deps.store.clone(), deps.metrics.clone());
        let arbiter = Arbiter::new();
        let address = Janitor::start_in_arbiter(&arbiter.handle(), move |_ctx: &mut Context<Janitor>| Janitor {
            deps,
            linked: Some(linked),
        });
        Self { address, store, metrics }
    }

    /// Stops ticking, and writes down what was counted since the last tick.
    pub async fn drain(&self) -> Result<(), AskError<StoreError>> {
        ask(&self.address, Drain, Duration::from_secs(2)).await?;
        let writing = write_activity(&self.store, &self.metrics);
        tokio::time::timeout(LAST_COUNTS_TIME, writing)
            .await
            .map_or(Err(AskError::TimedOut), |written| written.map_err(AskError::Reply))
    }
}

impl Actor for Janitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.every(ctx, LEASES_EVERY, "leases", |deps| async move { take_over_leases(&deps).await });
        let watch = Arc::new(Mutex::new(None));
        self.every(ctx, CLOCK_EVERY, "clock", move |deps| {
            let watch = Arc::clone(&watch);
            async move { follow_clock(&deps, &watch).await }
        });
        self.every(ctx, LAST_SEEN_EVERY, "last seen", |deps| async move {
            deps.directory.forget_the_stopped();
            deps.directory.flush_seen().await
        });
        self.every(ctx, READDRESS_EVERY, "readdress", |deps| async move {
            let fallback = deps.fallback_destination.as_ref();
            let readdressed = deps.store.readdress_deliveries(None, fallback, deps.clock.now()).await?;
            if readdressed > 0 {
                deps.dispatcher.nudge(None);
            }
            Ok(())
        });
        self.every(ctx, TEARDOWNS_EVERY, "teardowns", |deps| async move { deps.directory.resume_teardowns().await });
        self.every(ctx, RENEWALS_EVERY, "tokens", |deps| async move { deps.directory.renew_expiring_tokens().await });
        self.every(
            ctx,
            ACTIVITY_EVERY,
            "activity",
            |deps| async move { write_activity(&deps.store, &deps.metrics).await },
        );
        self.every(ctx, RETENTION_EVERY, "retention", |deps| async move { retain(&deps).await });
        if let Some(pause) = self.deps.healing.pause() {
            self.every(ctx, pause, "healing", |deps| async move { deps.healing.look().await });
        }
        if !self.deps.relist.is_zero() {
            // Not at once: a start has better things to do, and one that starts again and again would ask each time.
            self.later(ctx, self.deps.relist.min(RELIST_DELAY), self.deps.relist, "relist", |deps| async move {
                deps.directory.look_at_all().await
            });
        }
        let deps = self.deps.clone();
        ctx.spawn(async move { follow_changes(deps).await }.into_actor(self));
        if let Some(linked) = self.linked.take() {
            let deps = self.deps.clone();
            ctx.spawn(async move { follow_links(deps, linked).await }.into_actor(self));
        }
    }
}

impl Janitor {
    /// Runs a job again and again: now, and `pause` after it ended.
    fn every<F, W>(&self, ctx: &mut Context<Self>, pause: Duration, name: &'static str, work: W)
    where
        W: Fn(JanitorDeps) -> F + 'static,
        F: Future<Output = Result<(), StoreError>> + 'static,
    {
        self.later(ctx, Duration::ZERO, pause, name, work);
    }

    /// Runs a job again and again: after `first`, and `pause` after it ended.
    fn later<F, W>(&self, ctx: &mut Context<Self>, first: Duration, pause: Duration, name: &'static str, work: W)
    where
        W: Fn(JanitorDeps) -> F + 'static,
        F: Future<Output = Result<(), StoreError>> + 'static,
    {
        let deps = self.deps.clone();
        let turns = async move {
            tokio::time::sleep(first).await;
            loop {
                match isolate(work(deps.clone())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(job = name, %error, "the janitor will try again"),
                    Err(_panicked) => tracing::error!(job = name, "a job of the janitor panicked"),
                }
                tokio::time::sleep(pause).await;
            }
        };
        ctx.spawn(turns.into_actor(self));
    }
}

impl Handler<Drain> for Janitor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _message: Drain, ctx: &mut Self::Context) -> Self::Result {
        ctx.stop();
        Ok(())
    }
}

/// Deliveries leased by nodes that are gone fall due at once.
async fn take_over_leases(deps: &JanitorDeps) -> Result<(), StoreError> {
    let released = deps.store.release_leases_of_the_gone(&deps.node, deps.clock.now()).await?;
    if released > 0 {
        tracing::info!(deliveries = released, "took over the deliveries of a node that is gone");
        deps.dispatcher.nudge(None);
    }
    Ok(())
}

/// Leases last as long by the store's clock as by this one's; and after a clock that was set back, what waits is due when
/// it would have been.
async fn follow_clock(deps: &JanitorDeps, watch: &Mutex<Option<ClockWatch>>) -> Result<(), StoreError> {
    deps.dispatcher.follow_server_clock().await?;
    let lock = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let is_first = lock().is_none();
    let behind_at_start = if is_first { behind_what_is_stored(deps).await? } else { Duration::ZERO };
    let now = deps.clock.now();
    let owed = {
        let mut watch = lock();
        let watch = watch.get_or_insert_with(ClockWatch::default);
        watch.owe(behind_at_start);
        watch.look(now, Instant::now())
    };
    let Some(owed) = owed else { return Ok(()) };
    let deliveries = deps.store.hasten_deliveries(owed, now).await?;
    if let Some(watch) = lock().as_mut() {
        watch.settle();
    }
    tracing::warn!(seconds = owed.as_secs(), deliveries, "the clock was set back; what waits is due that much earlier");
    deps.dispatcher.nudge(None);
    Ok(())
}

/// How far the clock is behind the newest event, if that is too far to be another node's.
async fn behind_what_is_stored(deps: &JanitorDeps) -> Result<Duration, StoreError> {
    let newest = deps.store.list_events(&EventFilter::default(), PageRequest { limit: 1, cursor: None }).await?;
    let now = deps.clock.now();
    let ahead = newest.items.first().map(|event| event.received_at.since(now));
    Ok(ahead.filter(|ahead| *ahead >= FUTURE).unwrap_or_default())
}

/// What was counted for charts goes to the store, where the other nodes see it.
async fn write_activity(store: &SharedStore, metrics: &Metrics) -> Result<(), StoreError> {
    let counted = metrics.activity().take();
    if !counted.is_empty() {
        store.add_activity(&counted).await?;
        metrics.activity().written();
    }
    Ok(())
}

async fn retain(deps: &JanitorDeps) -> Result<(), StoreError> {
    let now = deps.clock.now();
    let cutoffs = RetentionCutoffs {
        events: now.minus(deps.retention.events),
        dead_letters: now.minus(deps.retention.dead_letters),
        quarantine: now.minus(deps.retention.quarantine),
        log: now.minus(deps.retention.log),
        flows: now.minus(FLOW_GRACE),
        activity: now.minus(ACTIVITY_KEPT),
    };
    for _batch in 0..RETENTION_BATCHES {
        let deleted = deps.store.delete_expired(&cutoffs, RETENTION_BATCH).await?;
        let full = u64::from(RETENTION_BATCH);
        let kinds = [deleted.events, deleted.quarantined, deleted.log_entries, deleted.flows, deleted.runs];
        if kinds.iter().all(|deleted| *deleted < full) {
            break;
        }
        tokio::task::yield_now().await;
    }
    while deps.store.delete_expired_sessions(now, RETENTION_BATCH).await? == u64::from(RETENTION_BATCH) {}
    Ok(())
}

/// Changes made on other nodes reach this one's caches.
async fn follow_changes(deps: JanitorDeps) {
    loop {
        match deps.store.next_change().await {
            Change::Installation(id) => deps.directory.refresh_installation(&id).await,
            Change::Destinations(org) => {
                deps.directory.refresh_org(&org).await;
                deps.dispatcher.nudge(None);
            }
            // API keys are remembered for less than a second.
            Change::Keys => {}
            Change::Unknown => deps.directory.refresh_everything().await,
        }
    }
}

/// What follows from a new connection or link: the backfill service is told, and events that waited for it go out.
async fn follow_links(deps: JanitorDeps, mut linked: mpsc::UnboundedReceiver<InstallationId>) {
    while let Some(installation) = linked.recv().await {
        if let Some(backfill) = &deps.backfill {
            backfill.trigger(installation.clone());
        }
        if deps.ingest.late_binding == LateBinding::Auto {
            bind_late(&deps, &installation).await;
        }
    }
}

/// With `late_binding = "auto"`, unrouted events go out when their link appears.
async fn bind_late(deps: &JanitorDeps, installation: &InstallationId) {
    let since = deps.clock.now().minus(deps.ingest.late_binding_max_age);
    let actor = log_entry::Actor::system();
    match deps.mending.reroute(installation, Some(since), &actor).await {
        Ok(done) if done.routed > 0 => {
            tracing::info!(installation.id = %installation, events = done.routed, "routed events that waited for their link");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(installation.id = %installation, %error, "late binding failed"),
    }
}
