//! The janitor: what time and other nodes bring about. Ticks for retention, abandoned leases, deliveries without a
//! destination, idle supervisors, last-seen times, tokens near their end, connections that wait to be confirmed, teardowns
//! that are due, counts for charts, gaps to heal, resources to list again, late binding and a clock that was set back; and
//! the listeners for changes made elsewhere and for new links.
//!
//! **Invariants**: a tick that fails is logged and tried again at its next turn; two ticks of a kind never overlap; all
//! of it may be late without harm.

use std::{
    cell::Cell,
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
        clock::{Clock, EpochMs, Ids},
        ids::{DestinationId, EventId, InstallationId},
        log_entry,
    },
    store::{Change, EventFilter, PageRequest, RetentionCutoffs, Setback, SharedStore, Store, StoreError, ToReaddress},
    telemetry::metrics::Metrics,
};

const LEASES_EVERY: Duration = Duration::from_secs(2);
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// An event from this far in the future was stored before the clock was set back, while nobody was there to see it.
const FUTURE: Duration = Duration::from_mins(1);
const LAST_SEEN_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at what has no destination and came within [`READDRESS_AGE`]. Whoever sets a destination has its
/// deliveries readdressed at once; what was planned before and committed after that is found here.
const READDRESS_EVERY: Duration = Duration::from_secs(30);
const READDRESS_AGE: Duration = Duration::from_mins(10);
/// Between two looks at all that has no destination, however long it has waited: for what a node left that died in between.
const READDRESS_ALL_EVERY: Duration = Duration::from_hours(1);
/// How long after a start providers are asked for the first time what they list.
const RELIST_DELAY: Duration = Duration::from_mins(10);
const TEARDOWNS_EVERY: Duration = Duration::from_secs(2);
const RENEWALS_EVERY: Duration = Duration::from_secs(15);
const CONFIRMATIONS_EVERY: Duration = Duration::from_secs(15);
/// How long what was counted for charts is known to this node only, and lost with it.
const ACTIVITY_EVERY: Duration = Duration::from_secs(10);
/// How long the last counts may take to the store: they are worth no delay to what is.
const LAST_COUNTS_TIME: Duration = Duration::from_millis(500);
/// How long what was counted is kept: a day, and as much to look back from.
const ACTIVITY_KEPT: Duration = Duration::from_hours(48);
/// How long after a link events are looked for that were on their way when it was made: what was planned without it is
/// committed by then, on whichever node.
const LATE_LOOK_AFTER: Duration = Duration::from_secs(3);
/// How often everything that waits for a link is looked at, whoever heard of the link: what was heard is in memory only.
const BINDINGS_EVERY: Duration = Duration::from_hours(1);
/// The jobs' first turns are so far apart: all at once, each would open a connection to the database of its own.
const FIRST_TURNS_APART: Duration = Duration::from_millis(10);
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
    /// The longest wait before a retry.
    pub longest_wait: Duration,
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
    /// Jobs begun so far.
    jobs: Cell<u32>,
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
            jobs: Cell::new(0),
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
        let watched = Arc::clone(&watch);
        self.every(ctx, CLOCK_EVERY, "clock", move |deps| {
            let watch = Arc::clone(&watch);
            async move {
                deps.dispatcher.follow_server_clock().await?;
                watch_clock(&*deps.store, deps.dispatcher.due_now(), deps.longest_wait, &watch).await
            }
        });
        // Apart from the clock, which a long backlog must not keep from being watched.
        self.every(ctx, CLOCK_EVERY, "backlog", move |deps| {
            let watch = Arc::clone(&watched);
            async move {
                if hasten_backlog(&*deps.store, || deps.dispatcher.due_now(), &watch).await? > 0 {
                    deps.dispatcher.nudge(None);
                }
                Ok(())
            }
        });
        self.every(ctx, LAST_SEEN_EVERY, "last seen", |deps| async move {
            deps.directory.forget_the_stopped();
            deps.directory.flush_seen().await
        });
        self.every(ctx, READDRESS_ALL_EVERY, "readdress all", |deps| async move { readdress(&deps, None).await });
        self.later(ctx, READDRESS_EVERY, READDRESS_EVERY, "readdress", |deps| async move {
            let since = deps.dispatcher.due_now().minus(READDRESS_AGE);
            readdress(&deps, Some(since)).await
        });
        self.every(ctx, TEARDOWNS_EVERY, "teardowns", |deps| async move { deps.directory.resume_teardowns().await });
        let enabled = self.deps.directory.registry().iter().filter(|(_, settings)| settings.is_some());
        for provider in enabled.map(|(provider, _)| provider.slug()) {
            self.every(ctx, RENEWALS_EVERY, "tokens", move |deps| async move {
                deps.directory.renew_expiring_tokens(provider).await
            });
        }
        self.every(ctx, CONFIRMATIONS_EVERY, "confirmations", |deps| async move {
            deps.directory.confirm_pending(CONFIRMATIONS_EVERY).await
        });
        self.every(
            ctx,
            ACTIVITY_EVERY,
            "activity",
            |deps| async move { write_activity(&deps.store, &deps.metrics).await },
        );
        let looked_up_to = Arc::new(Mutex::new(None));
        self.every(ctx, RETENTION_EVERY, "retention", move |deps| {
            let looked_up_to = Arc::clone(&looked_up_to);
            async move { retain(&*deps.store, &deps.retention, deps.clock.now(), &looked_up_to).await }
        });
        if let Some(pause) = self.deps.healing.pause() {
            self.every(ctx, pause, "healing", |deps| async move { deps.healing.look().await });
        }
        if !self.deps.relist.is_zero() {
            // Not at once: a start has better things to do, and one that starts again and again would ask each time.
            self.later(ctx, self.deps.relist.min(RELIST_DELAY), self.deps.relist, "relist", |deps| async move {
                deps.directory.look_at_all().await
            });
        }
        let (store, deps) = (self.deps.store.clone(), self.deps.clone());
        let changes = async move || Some(store.next_change().await);
        ctx.spawn(follow("changes", changes, async move |change| follow_change(&deps, change).await).into_actor(self));
        if let Some(mut linked) = self.linked.take() {
            let deps = self.deps.clone();
            let (again, mut made) = mpsc::unbounded_channel();
            let links = async move || linked.recv().await;
            let follow_link = async move |linked| follow_link(&deps, linked, &again).await;
            ctx.spawn(follow("links", links, follow_link).into_actor(self));
            let deps = self.deps.clone();
            let earlier_links = async move || {
                let (installation, at): (InstallationId, tokio::time::Instant) = made.recv().await?;
                tokio::time::sleep_until(at + LATE_LOOK_AFTER).await;
                Some(installation)
            };
            let bind_late = async move |installation| bind_late(&deps, &installation).await;
            ctx.spawn(follow("earlier links", earlier_links, bind_late).into_actor(self));
        }
        if self.deps.ingest.late_binding == LateBinding::Auto {
            self.every(ctx, BINDINGS_EVERY, "late binding", |deps| async move { bind_everything_late(&deps).await });
        }
    }
}

impl Janitor {
    /// Runs a job again and again: soon, and `pause` after it ended.
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
        let turn = self.jobs.replace(self.jobs.get() + 1);
        let turns = async move {
            tokio::time::sleep(first + FIRST_TURNS_APART * turn).await;
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
    let released = deps.store.release_leases_of_the_gone(&deps.node, deps.dispatcher.due_now()).await?;
    if released > 0 {
        tracing::info!(deliveries = released, "took over the deliveries of a node that is gone");
        deps.dispatcher.nudge(None);
    }
    Ok(())
}

/// Notices that the clock was set back: while nobody looked, at the first look, and since the last one.
async fn watch_clock(
    store: &dyn Store,
    now: EpochMs,
    longest_wait: Duration,
    watch: &Mutex<Option<ClockWatch>>,
) -> Result<(), StoreError> {
    let lock = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let behind_at_start = if lock().is_none() { behind_what_is_stored(store, now).await? } else { Duration::ZERO };
    let mut watch = lock();
    let watch = watch.get_or_insert_with(ClockWatch::default);
    // Made good at a start before this one, perhaps. A retry that waits no longer than any may was, or need not be.
    let at_start = watch.owe(Setback { by: behind_at_start, retries_within: longest_wait });
    if let Some(by) = at_start.or(watch.look(now, Instant::now())) {
        tracing::warn!(seconds = by.as_secs(), "the clock was set back; what waits will be due that much earlier");
    }
    Ok(())
}

/// After a clock that was set back, what waits is due when it would have been. Answers how many deliveries are due earlier.
async fn hasten_backlog(
    store: &dyn Store,
    now: impl Fn() -> EpochMs,
    watch: &Mutex<Option<ClockWatch>>,
) -> Result<u64, StoreError> {
    let lock = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let owed = || lock().as_ref().and_then(ClockWatch::owed);
    let mut deliveries = 0;
    while let Some((setback, after)) = owed() {
        let portion = store.hasten_deliveries(&setback, after.as_ref(), now()).await?;
        deliveries += portion.deliveries;
        let is_end = portion.looked_up_to.is_none();
        if let Some(watch) = lock().as_mut() {
            watch.settle(portion.looked_up_to);
        }
        if is_end {
            tracing::warn!(
                seconds = setback.by.as_secs(),
                deliveries,
                "what waited for a clock that was set back is due"
            );
        }
    }
    Ok(deliveries)
}

/// How far the clock is behind the newest event, if that is too far to be another node's. By the event's id: the service
/// path names what `received_at` it likes.
async fn behind_what_is_stored(store: &dyn Store, now: EpochMs) -> Result<Duration, StoreError> {
    let newest = store.list_events(&EventFilter::default(), PageRequest { limit: 1, cursor: None }).await?;
    let made_at = newest.items.first().and_then(|event| Ids::event_made_at(&event.id));
    let ahead = made_at.map(|made_at| made_at.since(now));
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

/// Deletes what is old. What fails keeps nothing else from being deleted.
async fn retain(
    store: &dyn Store,
    retention: &RetentionConfig,
    now: EpochMs,
    looked_up_to: &Mutex<Option<EventId>>,
) -> Result<(), StoreError> {
    let cutoffs = RetentionCutoffs {
        events: now.minus(retention.events),
        dead_letters: now.minus(retention.dead_letters),
        quarantine: now.minus(retention.quarantine),
        log: now.minus(retention.log),
        flows: now.minus(FLOW_GRACE),
        activity: now.minus(ACTIVITY_KEPT),
    };
    let events = delete_events(store, &cutoffs, looked_up_to).await;
    let others = delete_others(store, &cutoffs).await;
    let sessions = delete_sessions(store, now).await;
    events.and(others).and(sessions)
}

/// Goes on where the last batch, of this tick or the one before, stopped looking. At the end of the old events it rests.
async fn delete_events(
    store: &dyn Store,
    cutoffs: &RetentionCutoffs,
    looked_up_to: &Mutex<Option<EventId>>,
) -> Result<(), StoreError> {
    let lock = || looked_up_to.lock().unwrap_or_else(PoisonError::into_inner);
    for _batch in 0..RETENTION_BATCHES {
        let after = lock().clone();
        let events = store.delete_expired_events(cutoffs, after.as_ref(), RETENTION_BATCH).await?;
        let is_end = events.looked_up_to.is_none();
        *lock() = events.looked_up_to;
        if is_end {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn delete_others(store: &dyn Store, cutoffs: &RetentionCutoffs) -> Result<(), StoreError> {
    for _batch in 0..RETENTION_BATCHES {
        let deleted = store.delete_expired(cutoffs, RETENTION_BATCH).await?;
        let kinds = [deleted.quarantined, deleted.log_entries, deleted.flows, deleted.runs];
        if kinds.iter().all(|deleted| *deleted < u64::from(RETENTION_BATCH)) {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn delete_sessions(store: &dyn Store, now: EpochMs) -> Result<(), StoreError> {
    while store.delete_expired_sessions(now, RETENTION_BATCH).await? == u64::from(RETENTION_BATCH) {}
    Ok(())
}

/// Does what follows from each thing that comes, one after the other, to the last. A panic ends that one.
async fn follow<T>(name: &'static str, mut next: impl AsyncFnMut() -> Option<T>, what_follows: impl AsyncFn(T)) {
    while let Some(came) = next().await {
        if isolate(what_follows(came)).await.is_err() {
            tracing::error!(job = name, "a job of the janitor panicked");
        }
    }
}

/// Gives what waits without a destination the one that serves it now, of what falls due at `since` or later.
async fn readdress(deps: &JanitorDeps, since: Option<EpochMs>) -> Result<(), StoreError> {
    let fallback = deps.fallback_destination.as_ref();
    if deps.store.readdress_deliveries(ToReaddress::Undirected { since }, fallback, deps.dispatcher.due_now()).await?
        > 0
    {
        deps.dispatcher.nudge(None);
    }
    Ok(())
}

/// Changes made on other nodes reach this one's caches.
async fn follow_change(deps: &JanitorDeps, change: Change) {
    match change {
        Change::Installation(id) => deps.directory.refresh_installation(&id).await,
        Change::Destinations(org) => {
            deps.directory.refresh_org(&org).await;
            deps.dispatcher.nudge(None);
        }
        // API keys are remembered for less than a second.
        Change::Keys => {}
        Change::Unknown => deps.directory.forget_everything().await,
    }
}

/// What follows from a new connection or link: the backfill service is told, and events that waited for it go out, those
/// included that are `again` looked for a little later.
async fn follow_link(
    deps: &JanitorDeps,
    installation: InstallationId,
    again: &mpsc::UnboundedSender<(InstallationId, tokio::time::Instant)>,
) {
    if let Some(backfill) = &deps.backfill {
        backfill.trigger(installation.clone());
    }
    if deps.ingest.late_binding == LateBinding::Auto {
        bind_late(deps, &installation).await;
        if again.send((installation, tokio::time::Instant::now())).is_err() {
            tracing::debug!("nobody looks at links again any more");
        }
    }
}

/// Events that waited for a link go out, whether or not this process heard of the link: the one that did may have died.
async fn bind_everything_late(deps: &JanitorDeps) -> Result<(), StoreError> {
    for installation in deps.store.list_routing_installations().await? {
        bind_late(deps, &installation).await;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sqlx::Connection as _;

    use super::*;
    use crate::{
        model::{
            clock::ManualClock,
            event::Event,
            provider::{ProviderDeliveryId, ProviderSlug},
        },
        store::{self, NewEvent, NoObserver, OpenOptions},
    };

    const GITHUB: ProviderSlug = ProviderSlug("github");
    const DAY: Duration = Duration::from_hours(24);
    const NOW: EpochMs = EpochMs(1_771_980_000_000);
    const RETENTION: RetentionConfig = RetentionConfig { events: DAY, dead_letters: DAY, quarantine: DAY, log: DAY };

    struct Rig {
        store: SharedStore,
        url: String,
        clock: ManualClock,
        _folder: tempfile::TempDir,
    }

    impl Rig {
        async fn start() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let url = format!("sqlite://{}", folder.path().join("test.db").display());
            let options = OpenOptions {
                url: url.clone(),
                max_connections: 2,
                acquire_timeout: Duration::from_secs(5),
                providers: vec![GITHUB],
                node: "node-test".to_owned(),
                serving: true,
            };
            let store = store::open(options, Arc::new(NoObserver)).await.expect("a store");
            store.migrate().await.expect("migrated");
            Self { store, url, clock: ManualClock::starting_at(NOW), _folder: folder }
        }

        /// Stores an event that arrives now and names that time.
        async fn accept(&self, received_at: EpochMs) {
            let ids = Ids::new(Arc::new(self.clock.clone()));
            let event = Event {
                provider_delivery_id: ProviderDeliveryId::new(ids.event().to_string()),
                received_at,
                ..Event::ignored(ids.event(), GITHUB)
            };
            let new = NewEvent {
                event,
                headers: "{}".to_owned(),
                content_type: None,
                body: Bytes::from_static(b"{}"),
                body_digest: None,
                decision: "{}".to_owned(),
                deliveries: Vec::new(),
                drop_possible_replay: false,
            };
            self.store.accept_event(new).await.expect("stored");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn how_far_the_clock_is_behind_is_not_for_a_caller_to_say() {
        let rig = Rig::start().await;
        let behind = async |now: EpochMs| behind_what_is_stored(&*rig.store, now).await.expect("read");
        assert_eq!(behind(NOW).await, Duration::ZERO, "nothing is stored");
        rig.accept(NOW.plus(DAY)).await;
        assert_eq!(behind(NOW).await, Duration::ZERO, "a time to come was named");
        rig.accept(NOW.minus(DAY)).await;
        assert_eq!(behind(NOW.minus(DAY)).await, DAY, "a time gone by was named");
        assert_eq!(behind(NOW.minus(Duration::from_secs(59))).await, Duration::ZERO, "another node's may be ahead");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn starts_with_a_clock_that_is_behind_bring_a_retry_forward_once() {
        const HOUR: Duration = Duration::from_hours(1);
        let rig = Rig::start().await;
        let (ahead, later) = (NOW.plus(DAY), NOW.plus(DAY + HOUR));
        rig.clock.set(ahead);
        rig.accept(ahead).await;
        let mut beside = sqlx::SqliteConnection::connect(&rig.url).await.expect("the file opens");
        let retry = "INSERT INTO gw_deliveries SELECT 'dlv_1', id, 'int_1', 'res_1', 'ws', 'org', 'dst_1', 'pending', NULL, 1, 1, \
                     $1, NULL, 0, received_at, NULL, 0 FROM gw_events";
        sqlx::query(retry).bind(later.0).execute(&mut beside).await.expect("inserted");
        let mut due_at = async || {
            let due_at = sqlx::query_scalar("SELECT due_at FROM gw_deliveries").fetch_one(&mut beside);
            EpochMs(due_at.await.expect("read"))
        };
        let look = async |watch: &Mutex<Option<ClockWatch>>, now| {
            rig.clock.set(now);
            watch_clock(&*rig.store, now, 2 * HOUR, watch).await.expect("watched");
            hasten_backlog(&*rig.store, || rig.clock.now(), watch).await.expect("hastened")
        };
        for hastened in [1, 0, 0] {
            assert_eq!(look(&Mutex::new(None), NOW).await, hastened);
            assert_eq!(due_at().await, NOW.plus(HOUR));
        }
        let running = Mutex::new(None);
        assert_eq!(look(&running, ahead).await, 0, "it is due");
        assert_eq!(look(&running, NOW).await, 1, "set back while it runs, whatever waits is due that much earlier");
        assert_eq!(due_at().await, NOW);
    }

    #[tokio::test]
    async fn what_panics_keeps_nothing_that_comes_later_from_being_followed() {
        let mut coming = 1..=3;
        let followed = Mutex::new(Vec::new());
        let what_follows = async |came| {
            assert_ne!(came, 2, "the test's own");
            followed.lock().expect("not poisoned").push(came);
        };
        follow("test", async || coming.next(), what_follows).await;
        assert_eq!(*followed.lock().expect("not poisoned"), [1, 3]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn retention_goes_on_where_it_stopped_looking_and_begins_anew_at_the_end() {
        let rig = Rig::start().await;
        rig.accept(NOW).await;
        let page = PageRequest { limit: 10, cursor: None };
        let events = async || rig.store.list_events(&EventFilter::default(), page).await.expect("read").items;
        let looked_up_to = Mutex::new(events().await.first().map(|event| event.id.clone()));
        for left in [1, 0] {
            retain(&*rig.store, &RETENTION, NOW.plus(2 * DAY), &looked_up_to).await.expect("deleted");
            assert_eq!(events().await.len(), left);
            assert_eq!(*looked_up_to.lock().expect("not poisoned"), None);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_else_is_old_is_deleted_even_if_old_events_cannot_be_looked_at() {
        let rig = Rig::start().await;
        let ids = Ids::new(Arc::new(rig.clock.clone()));
        let entry = log_entry::LogEntry::new(ids.log(), "x", log_entry::Actor::system(), NOW);
        rig.store.append_log(&[entry]).await.expect("appended");
        rig.accept(NOW).await;
        let mut beside = sqlx::SqliteConnection::connect(&rig.url).await.expect("the file opens");
        sqlx::query("ALTER TABLE gw_deliveries RENAME TO elsewhere").execute(&mut beside).await.expect("renamed");

        let looked_up_to = Mutex::new(None);
        let later = NOW.plus(2 * DAY);
        assert!(retain(&*rig.store, &RETENTION, later, &looked_up_to).await.is_err(), "it is said, and tried again");
        let page = PageRequest { limit: 10, cursor: None };
        assert_eq!(rig.store.list_log(None, None, page).await.expect("read").items, []);

        sqlx::query("ALTER TABLE elsewhere RENAME TO gw_deliveries").execute(&mut beside).await.expect("renamed");
        retain(&*rig.store, &RETENTION, later, &looked_up_to).await.expect("deleted");
        assert_eq!(rig.store.list_events(&EventFilter::default(), page).await.expect("read").items, []);
    }
}
