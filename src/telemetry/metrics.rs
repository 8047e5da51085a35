//! Every metric, named once.
//!
//! **Invariants**: names begin with `signalbox_`; labels have few values (providers, our own codes), never ids or text
//! from outside; counting does not block on anything but another count.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use super::{
    activity::UnwrittenActivity,
    provider_health::{Ledger, ProviderHealth, Totals},
};
use crate::model::{
    clock::{Clock, SystemClock},
    delivery::DeliveryStatus,
    event::EventOutcome,
    ids::OrgId,
    provider::ProviderSlug,
};

/// The metrics' names without `signalbox_`; counters are shown with `_total` behind.
pub mod names {
    /// Webhooks that began to arrive, by provider.
    pub const WEBHOOKS_RECEIVED: &str = "webhooks_received";
    /// Webhooks refused, by provider and error code.
    pub const WEBHOOKS_REFUSED: &str = "webhooks_refused";
    /// Refused webhooks that were not quarantined (too many, too large, or no room), by provider.
    pub const WEBHOOKS_NOT_QUARANTINED: &str = "webhooks_not_quarantined";
    /// Webhooks seen before, by provider.
    pub const WEBHOOKS_DUPLICATE: &str = "webhooks_duplicate";
    /// Webhooks committed as new events, by provider and outcome.
    pub const WEBHOOKS_STORED: &str = "webhooks_stored";
    /// From a webhook's last byte to its commit, by provider.
    pub const WEBHOOK_COMMIT_SECONDS: &str = "webhook_commit_seconds";
    /// Deliveries made of webhooks, by provider.
    pub const DELIVERIES_CREATED: &str = "deliveries_created";
    /// Deliveries at their end, by provider and status.
    pub const DELIVERIES_FINISHED: &str = "deliveries_finished";
    /// Attempts, by provider and result.
    pub const ATTEMPTS: &str = "attempts";
    /// How long attempts took, by provider.
    pub const ATTEMPT_SECONDS: &str = "attempt_seconds";
    /// Attempts in flight now.
    pub const ATTEMPTS_IN_FLIGHT: &str = "attempts_in_flight";
    /// Destinations whose circuit is open now.
    pub const OPEN_CIRCUITS: &str = "open_circuits";
    /// Batches the store's writer committed.
    pub const BATCHES: &str = "store_batches";
    /// Events those batches held.
    pub const BATCH_EVENTS: &str = "store_batch_events";
    /// Attempt records those batches held.
    pub const BATCH_ATTEMPTS: &str = "store_batch_attempts";
    /// How long a batch's transaction took, the disk's sync included.
    pub const BATCH_SECONDS: &str = "store_batch_seconds";
    /// Tokens asked of providers, by provider and result.
    pub const TOKEN_RENEWALS: &str = "token_renewals";
    /// Tries of teardown steps, by step and result.
    pub const TEARDOWN_STEPS: &str = "teardown_steps";
    /// The version that runs, as a label.
    pub const BUILD: &str = "build";
}

/// Upper bounds of the time histograms, seconds: from a commit on a fast disk to an attempt's time limit. 0.9 is where a
/// webhook is refused.
const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.9, 2.5, 5.0, 10.0, 15.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByProvider {
    provider: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    provider: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    provider: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    provider: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    provider: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStep {
    step: &'static str,
    result: &'static str,
}

type Seconds = Family<ByProvider, Histogram, fn() -> Histogram>;

fn seconds_histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// The gateway's counters. Cheap to call from the hot path; shared in an `Arc`.
pub struct Metrics {
    registry: Registry,
    started: Instant,
    /// Which minute it is: everything else is counted by how long the process runs.
    clock: Arc<dyn Clock>,
    totals: Mutex<Totals>,
    activity: UnwrittenActivity,
    received: Family<ByProvider, Counter>,
    refused: Family<ByCode, Counter>,
    not_quarantined: Family<ByProvider, Counter>,
    duplicate: Family<ByProvider, Counter>,
    stored: Family<ByOutcome, Counter>,
    commit_seconds: Seconds,
    deliveries_created: Family<ByProvider, Counter>,
    deliveries_finished: Family<ByStatus, Counter>,
    attempts: Family<ByResult, Counter>,
    attempt_seconds: Seconds,
    in_flight: Gauge,
    open_circuits: Gauge,
    batches: Counter,
    batch_events: Counter<u64, AtomicU64>,
    batch_attempts: Counter<u64, AtomicU64>,
    batch_seconds: Histogram,
    token_renewals: Family<ByResult, Counter>,
    teardown_steps: Family<ByStep, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("ledger", &self.ledger()).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("signalbox"),
            started: Instant::now(),
            clock: Arc::new(SystemClock),
            totals: Mutex::default(),
            activity: UnwrittenActivity::default(),
            received: Family::default(),
            refused: Family::default(),
            not_quarantined: Family::default(),
            duplicate: Family::default(),
            stored: Family::default(),
            commit_seconds: Family::new_with_constructor(seconds_histogram),
            deliveries_created: Family::default(),
            deliveries_finished: Family::default(),
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(seconds_histogram),
            in_flight: Gauge::default(),
            open_circuits: Gauge::default(),
            batches: Counter::default(),
            batch_events: Counter::default(),
            batch_attempts: Counter::default(),
            batch_seconds: seconds_histogram(),
            token_renewals: Family::default(),
            teardown_steps: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    #[rustfmt::skip] // a table
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(names::WEBHOOKS_RECEIVED, "Webhooks that began to arrive", self.received.clone());
        registry.register(names::WEBHOOKS_REFUSED, "Webhooks refused, by error code", self.refused.clone());
        registry.register(names::WEBHOOKS_NOT_QUARANTINED, "Refused webhooks that were not quarantined: too many, too large, or no room", self.not_quarantined.clone());
        registry.register(names::WEBHOOKS_DUPLICATE, "Webhooks seen before", self.duplicate.clone());
        registry.register(names::WEBHOOKS_STORED, "Webhooks committed as new events, by outcome", self.stored.clone());
        registry.register(names::WEBHOOK_COMMIT_SECONDS, "From a webhook's last byte to its commit", self.commit_seconds.clone());
        registry.register(names::DELIVERIES_CREATED, "Deliveries made of webhooks", self.deliveries_created.clone());
        registry.register(names::DELIVERIES_FINISHED, "Deliveries at their end, by status", self.deliveries_finished.clone());
        registry.register(names::ATTEMPTS, "Attempts, by result", self.attempts.clone());
        registry.register(names::ATTEMPT_SECONDS, "How long attempts took", self.attempt_seconds.clone());
        registry.register(names::ATTEMPTS_IN_FLIGHT, "Attempts in flight now", self.in_flight.clone());
        registry.register(names::OPEN_CIRCUITS, "Destinations whose circuit is open now", self.open_circuits.clone());
        registry.register(names::BATCHES, "Batches the store's writer committed", self.batches.clone());
        registry.register(names::BATCH_EVENTS, "Events in those batches", self.batch_events.clone());
        registry.register(names::BATCH_ATTEMPTS, "Attempt records in those batches", self.batch_attempts.clone());
        registry.register(names::BATCH_SECONDS, "How long a batch's transaction took", self.batch_seconds.clone());
        registry.register(names::TOKEN_RENEWALS, "Tokens asked of providers, by result", self.token_renewals.clone());
        registry.register(names::TEARDOWN_STEPS, "Tries of teardown steps, by result", self.teardown_steps.clone());
        registry.register(names::BUILD, "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    }

    /// A webhook's last byte arrived (either path), or it was refused before that. Call it exactly once, before the
    /// webhook's end is counted.
    pub fn webhook_received(&self, provider: ProviderSlug) {
        self.received.get_or_create(&ByProvider { provider: provider.as_str() }).inc();
        self.totals().received();
    }

    /// It was refused with this error code. Every received webhook ends in exactly one of refused, duplicate, stored.
    pub fn webhook_refused(&self, provider: ProviderSlug, code: &'static str) {
        self.refused.get_or_create(&ByCode { provider: provider.as_str(), code }).inc();
        self.totals().refused(provider.as_str(), code == "invalid_signature", self.started.elapsed());
        self.activity.count(provider, None, self.clock.now(), |counts| counts.refused += 1);
    }

    /// It was wrongly signed, as too many others were at that time, and is not kept.
    pub fn webhook_not_quarantined(&self, provider: ProviderSlug) {
        self.not_quarantined.get_or_create(&ByProvider { provider: provider.as_str() }).inc();
    }

    /// It was a duplicate.
    pub fn webhook_duplicate(&self, provider: ProviderSlug) {
        self.duplicate.get_or_create(&ByProvider { provider: provider.as_str() }).inc();
        self.totals().duplicate(provider.as_str(), self.started.elapsed());
        self.activity.count(provider, None, self.clock.now(), |counts| counts.duplicates += 1);
    }

    /// It was committed with this outcome and this many deliveries, this long after its last byte.
    pub fn webhook_stored(
        &self,
        provider: ProviderSlug,
        org: Option<&OrgId>,
        outcome: EventOutcome,
        deliveries: usize,
        took: Duration,
    ) {
        self.activity.count(provider, org, self.clock.now(), |counts| counts.count_event(outcome));
        let provider = provider.as_str();
        self.stored.get_or_create(&ByOutcome { provider, outcome: outcome.as_str() }).inc();
        self.commit_seconds.get_or_create(&ByProvider { provider }).observe(took.as_secs_f64());
        self.deliveries_created.get_or_create(&ByProvider { provider }).inc_by(deliveries as u64);
        self.totals().stored(provider, outcome, self.started.elapsed());
    }

    /// An attempt ended with this result code.
    pub fn attempt_ended(&self, provider: ProviderSlug, result: &'static str, took: Duration) {
        let provider = provider.as_str();
        self.attempts.get_or_create(&ByResult { provider, result }).inc();
        self.attempt_seconds.get_or_create(&ByProvider { provider }).observe(took.as_secs_f64());
    }

    /// A delivery of that org's is delivered or dead.
    pub fn delivery_finished(&self, provider: ProviderSlug, org: &OrgId, status: DeliveryStatus) {
        self.activity.count(provider, Some(org), self.clock.now(), |counts| match status {
            DeliveryStatus::Delivered => counts.delivered += 1,
            DeliveryStatus::Dead => counts.dead += 1,
            DeliveryStatus::Pending | DeliveryStatus::Held => {}
        });
        let provider = provider.as_str();
        self.deliveries_finished.get_or_create(&ByStatus { provider, status: status.as_str() }).inc();
        let now = self.started.elapsed();
        match status {
            DeliveryStatus::Delivered => self.totals().recent(provider, now).delivered += 1,
            DeliveryStatus::Dead => self.totals().recent(provider, now).dead += 1,
            DeliveryStatus::Pending | DeliveryStatus::Held => {}
        }
    }

    /// Attempts in flight now.
    pub fn set_in_flight(&self, attempts: usize) {
        self.in_flight.set(i64::try_from(attempts).unwrap_or(i64::MAX));
    }

    /// Destinations whose circuit is open now.
    pub fn set_open_circuits(&self, destinations: usize) {
        self.open_circuits.set(i64::try_from(destinations).unwrap_or(i64::MAX));
    }

    /// The store committed a batch of this many events and attempt records.
    pub fn batch_committed(&self, events: usize, attempts: usize, took: Duration) {
        self.batches.inc();
        self.batch_events.inc_by(events as u64);
        self.batch_attempts.inc_by(attempts as u64);
        self.batch_seconds.observe(took.as_secs_f64());
    }

    /// A provider was asked for a token; how that ended.
    pub fn token_renewed(&self, provider: ProviderSlug, result: &'static str) {
        self.token_renewals.get_or_create(&ByResult { provider: provider.as_str(), result }).inc();
    }

    /// A step of a teardown was tried; how that ended.
    pub fn teardown_step_tried(&self, step: &'static str, result: &'static str) {
        self.teardown_steps.get_or_create(&ByStep { step, result }).inc();
    }

    /// How a provider fared in the last five minutes; zeros for one nothing was heard of.
    pub fn provider_health(&self, provider: ProviderSlug) -> ProviderHealth {
        self.totals().health(provider.as_str(), self.started.elapsed())
    }

    /// What was counted for charts and is not in the store yet.
    pub fn activity(&self) -> &UnwrittenActivity {
        &self.activity
    }

    /// Every webhook since the process began, all counts of one moment.
    pub fn ledger(&self) -> Ledger {
        self.totals().ledger()
    }

    /// How long the process has been counting.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The media type of [`Metrics::render`] for whoever accepts it.
    pub const OPENMETRICS: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    /// Its media type for everybody else: Prometheus' own format reads the same lines.
    pub const PROMETHEUS: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// All of it, in lines that both formats have.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing into a String does not fail; should it ever, half a page would be read as zeros.
            Err(_) => String::new(),
        }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        // Counting does not panic half-way; whatever poisoned the lock, the counts are still counts.
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: ProviderSlug = ProviderSlug("acme");

    #[test]
    fn what_is_counted_is_shown_under_its_documented_name() {
        let metrics = Metrics::default();
        metrics.webhook_received(ACME);
        metrics.webhook_stored(ACME, None, EventOutcome::Routed, 3, Duration::from_millis(4));
        metrics.attempt_ended(ACME, "timeout", Duration::from_secs(15));
        metrics.batch_committed(7, 2, Duration::from_millis(1));
        metrics.set_in_flight(5);
        metrics.token_renewed(ACME, "renewed");
        metrics.teardown_step_tried("revoke_token", "done");
        let text = metrics.render();
        for line in [
            "signalbox_webhooks_received_total{provider=\"acme\"} 1",
            "signalbox_webhooks_stored_total{provider=\"acme\",outcome=\"routed\"} 1",
            "signalbox_deliveries_created_total{provider=\"acme\"} 3",
            "signalbox_attempts_total{provider=\"acme\",result=\"timeout\"} 1",
            "signalbox_webhook_commit_seconds_bucket{le=\"0.005\",provider=\"acme\"} 1",
            "signalbox_store_batch_events_total 7",
            "signalbox_attempts_in_flight 5",
            "signalbox_token_renewals_total{provider=\"acme\",result=\"renewed\"} 1",
            "signalbox_teardown_steps_total{step=\"revoke_token\",result=\"done\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn health_and_ledger_follow_the_counters() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.webhook_received(ACME);
        }
        metrics.webhook_refused(ACME, "invalid_signature");
        metrics.webhook_duplicate(ACME);
        metrics.webhook_stored(ACME, None, EventOutcome::Filtered, 0, Duration::ZERO);
        metrics.delivery_finished(ACME, &OrgId::from_raw("org_1"), DeliveryStatus::Dead);
        let health = metrics.provider_health(ACME);
        assert_eq!(health, ProviderHealth { accepted: 1, bad_signature: 1, duplicate: 1, delivered: 0, dead: 1 });
        assert!(metrics.ledger().adds_up());
        assert_eq!(metrics.ledger().in_progress, 0);
        assert_eq!(metrics.provider_health(ProviderSlug("other")), ProviderHealth::default());
    }
}
