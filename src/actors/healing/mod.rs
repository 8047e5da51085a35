//! Healing: what a provider sent and we never got is found in the provider's own log and asked for again.
//!
//! **Owns** the heal runs, each a row that is also its report. **Invariants**: one run of a provider at a time in the
//! whole cluster; a webhook with any success, or that is stored, is not asked for; a missing one is asked for once in a
//! run, oldest first, no faster than configured; a provider's trouble makes a run `failed`, and its gap is the next
//! run's. **Must not know** any provider's log.

mod comparison;
mod run;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use self::comparison::compared_until;
use super::{runtime::isolate, tokens::get_connector};
use crate::{
    config::HealingConfig,
    model::{
        clock::{Clock, EpochMs, Ids},
        error_kind::ErrorKind,
        heal_run::{HealRun, HealStatus},
        ids::HealRunId,
        log_entry::{Actor, LogEntry},
        provider::{ProviderDeliveryId, ProviderSlug},
    },
    providers::{Connector, Registry},
    store::{EventFilter, PageRequest, SharedStore, StoreError},
};

/// A running run whose row has not changed for so long was left by a node that is gone.
const STALE_AFTER: Duration = Duration::from_secs(90);
/// How soon a look that another node's run kept from happening is tried again.
const BUSY_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked whether a look is due.
const TICK_MAX: Duration = Duration::from_secs(15);
/// How long a run that nobody waits for watches for what it asked for.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a run on demand watches for what it asked for.
const PATIENCE_ON_DEMAND: Duration = Duration::from_secs(10);
/// How long whoever asked for a run waits for its report; after that it is told how far the run is.
const REPORT_TIME: Duration = Duration::from_secs(40);
/// Earlier runs read to find where the next begins.
const RUNS_READ: u32 = 100;
/// Webhooks whose asking is remembered at the most.
const REMEMBERED: usize = 50_000;

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// No such provider is enabled.
    #[error("no such provider is enabled")]
    UnknownProvider,
    /// A setting is missing that its API needs.
    #[error("{0}")]
    NotConfigured(String),
    /// The provider keeps no log that can be read.
    #[error("the provider keeps no delivery log")]
    NoLog,
    /// A run of this provider is under way.
    #[error("a run of this provider is under way")]
    AlreadyRunning,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl HealError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownProvider => "unknown_provider",
            Self::NotConfigured(_) => "connecting_not_configured",
            Self::NoLog => "not_supported",
            Self::AlreadyRunning => "heal_already_running",
            Self::Store(error) => error.code(),
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownProvider | Self::NotConfigured(_) | Self::NoLog => ErrorKind::BadRequest,
            Self::AlreadyRunning => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }
}

/// What healing needs of the other rooms.
pub struct HealingDeps {
    /// The rows.
    pub store: SharedStore,
    /// The providers.
    pub registry: Arc<Registry>,
    /// `[healing]`
    pub config: HealingConfig,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Ids,
    /// This node's name.
    pub node: String,
}

/// What other rooms hold of healing.
#[derive(Clone)]
pub struct HealingHandle {
    shared: Arc<Shared>,
}

struct Shared {
    deps: HealingDeps,
    /// When this process began: an event before then was an earlier life's.
    began_at: EpochMs,
    /// When each provider is looked at again.
    due: Mutex<HashMap<ProviderSlug, Instant>>,
    /// How often webhooks were asked for by runs that nobody asked for: one that we refuse each time it comes would be
    /// asked for for ever.
    asked: Mutex<HashMap<(ProviderSlug, ProviderDeliveryId), u8>>,
    /// Runs of this node that are under way.
    under_way: Mutex<HashMap<HealRunId, watch::Receiver<HealRun>>>,
}

/// A run's why: who waits for it and how long it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    OnDemand,
    Start,
    Periodic,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Start => "start",
            Self::Periodic => "periodic",
        }
    }

    fn patience(self) -> Duration {
        if self == Self::OnDemand { PATIENCE_ON_DEMAND } else { PATIENCE }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in these maps can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HealingHandle {
    /// Healing that has not begun to look.
    pub fn new(deps: HealingDeps) -> Self {
        let began_at = deps.clock.now();
        let shared =
            Shared { deps, began_at, due: Mutex::default(), asked: Mutex::default(), under_way: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// How often [`Self::look`] is to be called; `None` if nothing is looked for by itself.
    pub fn pause(&self) -> Option<Duration> {
        let config = &self.shared.deps.config;
        config.enabled.then(|| config.interval.clamp(Duration::from_millis(100), TICK_MAX))
    }

    /// A provider's asking half, if it keeps a log.
    fn get_log(&self, provider: ProviderSlug) -> Result<Arc<dyn Connector>, HealError> {
        let connector = get_connector(&self.shared.deps.registry, provider)
            .map_err(|error| HealError::NotConfigured(error.to_string()))?;
        if connector.delivery_log().is_some() { Ok(connector) } else { Err(HealError::NoLog) }
    }

    /// Compares a provider's log with what was received since then (or as far back as the provider can deliver again)
    /// and asks for what is missing. Answers the report when what was asked for has arrived, or had its time.
    ///
    /// # Errors
    /// [`HealError`] if the run cannot begin; what goes wrong in it is in its report.
    pub async fn heal(&self, provider: &str, since: Option<EpochMs>, actor: &Actor) -> Result<HealRun, HealError> {
        let deps = &self.shared.deps;
        let (provider, _) = deps.registry.find_enabled(provider).ok_or(HealError::UnknownProvider)?;
        let slug = provider.slug();
        let connector = self.get_log(slug)?;
        let run = self.new_run(slug, &connector, since.unwrap_or(EpochMs(0)), Cause::OnDemand);
        if !self.begin(&run).await? {
            return Err(HealError::AlreadyRunning);
        }
        self.note_demand(&run, actor).await?;
        let (progress, mut report) = watch::channel(run.clone());
        let healing = self.clone();
        // On its own: whoever asked may hang up, the run goes on.
        tokio::spawn(async move {
            healing.carry_out(connector, run, Cause::OnDemand, progress).await;
        });
        let ended = report.wait_for(|run| run.status != HealStatus::Running);
        if let Ok(Err(_closed)) = tokio::time::timeout(REPORT_TIME, ended).await {
            tracing::debug!("a heal run ended without saying so");
        }
        Ok(report.borrow().clone())
    }

    /// Looks at every provider that is due. For the janitor.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn look(&self) -> Result<(), StoreError> {
        let slugs: Vec<_> = self.shared.deps.registry.iter().map(|(provider, _)| provider.slug()).collect();
        for slug in slugs {
            let due = lock(&self.shared.due).get(&slug).copied();
            if due.is_some_and(|due| Instant::now() < due) {
                continue;
            }
            let Ok(connector) = self.get_log(slug) else { continue };
            let cause = if due.is_none() { Cause::Start } else { Cause::Periodic };
            let looked = self.look_at(slug, connector, cause).await;
            let interval = self.shared.deps.config.interval;
            let pause = match &looked {
                Ok(true) => interval,
                Ok(false) | Err(_) => interval.min(BUSY_PAUSE),
            };
            lock(&self.shared.due).insert(slug, Instant::now() + pause);
            looked?;
        }
        Ok(())
    }

    /// False if another run was in the way.
    async fn look_at(
        &self,
        slug: ProviderSlug,
        connector: Arc<dyn Connector>,
        cause: Cause,
    ) -> Result<bool, StoreError> {
        let deps = &self.shared.deps;
        let now = deps.clock.now();
        let page = PageRequest { limit: RUNS_READ, cursor: None };
        let runs = deps.store.list_heal_runs(Some(slug.as_str()), page).await?.items;
        let newest = runs.iter().map(|run| run.until).max();
        if cause == Cause::Periodic && newest.is_some_and(|newest| now.since(newest) < deps.config.interval / 2) {
            // Another node looked, or somebody did by hand.
            return Ok(true);
        }
        let known_until = match compared_until(&runs) {
            Some(until) => Some(until),
            None => self.newest_event_of_earlier_life(slug).await?,
        };
        let since = known_until.map_or(now, |until| until.minus(deps.config.lag));
        let mut run = self.new_run(slug, &connector, since, cause);
        if !self.begin(&run).await? {
            return Ok(false);
        }
        if known_until.is_none() {
            // The very first start has no gap behind it; the next one knows where it begins.
            run.status = HealStatus::Completed;
            run.finished_at = Some(now);
            deps.store.save_heal_run(&run).await?;
            return Ok(true);
        }
        let (progress, _) = watch::channel(run.clone());
        self.carry_out(connector, run, cause, progress).await;
        Ok(true)
    }

    /// When the newest event arrived that another process stored: up to then somebody listened.
    async fn newest_event_of_earlier_life(&self, slug: ProviderSlug) -> Result<Option<EpochMs>, StoreError> {
        let filter = EventFilter {
            provider: Some(slug.as_str().to_owned()),
            until: Some(self.shared.began_at),
            ..EventFilter::default()
        };
        let mut cursor: Option<String> = None;
        loop {
            let request = PageRequest { limit: 1, cursor: cursor.as_deref() };
            let found = self.shared.deps.store.list_events(&filter, request).await?;
            if let Some(newest) = found.items.first() {
                return Ok(Some(newest.received_at));
            }
            if found.next_cursor.is_none() {
                return Ok(None);
            }
            cursor = found.next_cursor;
        }
    }

    /// A run of the gap from `since` to now, as far as the provider can deliver it again.
    fn new_run(&self, slug: ProviderSlug, connector: &Arc<dyn Connector>, since: EpochMs, cause: Cause) -> HealRun {
        let deps = &self.shared.deps;
        let now = deps.clock.now();
        let reach = connector.delivery_log().map_or(Duration::ZERO, crate::providers::connector::DeliveryLog::reach);
        HealRun {
            id: deps.ids.heal_run(),
            provider: slug,
            since: since.max(now.minus(reach)).min(now),
            until: now,
            status: HealStatus::Running,
            cause: cause.as_str().to_owned(),
            examined: 0,
            missing: 0,
            requested: 0,
            healed: 0,
            refused: 0,
            error: None,
            owner: deps.node.clone(),
            finished_at: None,
            updated_at: now,
        }
    }

    async fn begin(&self, run: &HealRun) -> Result<bool, StoreError> {
        self.shared.deps.store.begin_heal_run(run, run.updated_at.minus(STALE_AFTER)).await
    }

    async fn note_demand(&self, run: &HealRun, actor: &Actor) -> Result<(), StoreError> {
        let deps = &self.shared.deps;
        let entry = LogEntry {
            subject: Some(run.id.to_string()),
            reason: Some(run.provider.to_string()),
            ..LogEntry::new(deps.ids.log(), "heal.asked_for", actor.clone(), run.until)
        };
        deps.store.append_log(&[entry]).await
    }

    /// Carries a run out to its end, whatever that is, and writes it down.
    async fn carry_out(
        &self,
        connector: Arc<dyn Connector>,
        run: HealRun,
        cause: Cause,
        progress: watch::Sender<HealRun>,
    ) {
        let id = run.id.clone();
        lock(&self.shared.under_way).insert(id.clone(), progress.subscribe());
        let mut running = run::Running { healing: self, connector, run, cause, progress: &progress };
        let outcome = isolate(running.run_out()).await;
        let mut run = progress.borrow().clone();
        run.finished_at = Some(self.shared.deps.clock.now());
        run.status = HealStatus::Completed;
        if let Some(error) = outcome.unwrap_or_else(|_panicked| Some("the run panicked".into())) {
            run.status = HealStatus::Failed;
            run.error = Some(error);
        }
        lock(&self.shared.under_way).remove(&id);
        if let Err(error) = self.save(&run).await {
            tracing::warn!(heal.run = %id, %error, "a heal run's report could not be written");
        }
        if run.missing > 0 || run.status == HealStatus::Failed {
            tracing::info!(
                heal.run = %id, provider = %run.provider, status = %run.status, run.examined, run.missing, run.requested,
                run.healed, run.refused, "compared a provider's log with what was received"
            );
        }
        progress.send_replace(run);
    }

    async fn save(&self, run: &HealRun) -> Result<(), StoreError> {
        let run = HealRun { updated_at: self.shared.deps.clock.now(), ..run.clone() };
        self.shared.deps.store.save_heal_run(&run).await
    }

    /// Writes down that this node's runs end here, so that the next process need not wait for them.
    pub async fn drain(&self) {
        let under_way: Vec<_> = lock(&self.shared.under_way).values().map(|run| run.borrow().clone()).collect();
        for mut run in under_way {
            run.status = HealStatus::Failed;
            run.error = Some("the gateway was stopped".into());
            run.finished_at = Some(self.shared.deps.clock.now());
            if let Err(error) = self.save(&run).await {
                tracing::debug!(heal.run = %run.id, %error, "a heal run's end could not be written");
            }
        }
    }

    /// Whether a run that nobody asked for may ask for this webhook; counts that it does.
    fn may_ask(&self, slug: ProviderSlug, id: &ProviderDeliveryId, at_most: u8) -> bool {
        let mut asked = lock(&self.shared.asked);
        if asked.len() >= REMEMBERED {
            asked.clear();
        }
        let count = asked.entry((slug, id.clone())).or_default();
        let may = *count < at_most;
        *count = count.saturating_add(1);
        may
    }
}
