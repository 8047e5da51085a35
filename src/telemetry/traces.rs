//! Traces: one for each webhook, from its last byte to every attempt of its deliveries.
//!
//! A webhook's trace id is stored with its event, so that attempts made later, after a restart or on another node, join
//! the trace of the webhook that caused them. **Owns** the spans' names and attributes. **Invariants**: nobody ever waits
//! for a span to be taken; what is full or broken loses spans, counts them and says so once a minute; spans hold our ids
//! and our codes, never payloads, headers, secrets, URLs or text of an answer; a caller's `traceparent` is not believed.
//! **Must not know** what is done with them.

mod collector;
mod exporter;
mod otlp;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use url::Url;

pub use self::collector::CollectorUnavailable;
use self::{
    collector::Collector,
    exporter::Exporter,
    otlp::{Span, SpanId, SpanKind, TraceId, Value},
};
use crate::model::{
    clock::EpochMs,
    event::EventKey,
    ids::{DeliveryId, DestinationId, EventId},
    provider::ProviderSlug,
};

/// Spans that may wait for the exporter. At some 500 bytes each this bounds their memory to a few megabytes.
const QUEUE: usize = 8192;

/// What other rooms hold: where spans go. Off by default, and then every call returns at once.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Outbox>>);

#[derive(Debug)]
struct Outbox {
    spans: mpsc::Sender<Span>,
    lost: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

impl Traces {
    /// Exports to an OTLP/HTTP endpoint (`http://collector:4318`) from a task on the current runtime. `node` is this
    /// process's name.
    ///
    /// # Errors
    /// [`CollectorUnavailable`] if TLS cannot be set up. Whether somebody listens there is not asked.
    pub fn export_to(endpoint: &Url, node: String) -> Result<Self, CollectorUnavailable> {
        let collector = Collector::new(endpoint)?;
        let (spans, queue) = mpsc::channel(QUEUE);
        let (stop, stopping) = watch::channel(false);
        let lost = Arc::new(AtomicU64::new(0));
        let exporter = tokio::spawn(Exporter::new(collector, node, queue, stopping, Arc::clone(&lost)).run());
        Ok(Self(Some(Arc::new(Outbox { spans, lost, stop, exporter: Mutex::new(Some(exporter)) }))))
    }

    /// Begins the span of a webhook, in a trace of its own.
    pub fn begin_webhook(&self, provider: ProviderSlug) -> WebhookSpan {
        let begun = self.0.as_ref().map(|outbox| {
            let trace = TraceId::random();
            Begun { outbox: Arc::clone(outbox), trace, provider, key: None, deliveries: 0, commit: None }
        });
        WebhookSpan(begun.map(Box::new))
    }

    /// Records an attempt in the trace of its webhook, if that was traced.
    pub fn record_attempt(&self, attempt: &AttemptSpan<'_>) {
        let Some(outbox) = &self.0 else { return };
        let Some(trace) = attempt.trace_id.and_then(TraceId::parse) else { return };
        let mut attributes = vec![
            ("event.id", Value::text(attempt.event.as_str())),
            ("delivery.id", Value::text(attempt.delivery.as_str())),
            ("delivery.attempt", Value::Int(i64::from(attempt.number))),
            ("delivery.status", Value::text(attempt.delivery_status)),
            ("destination.id", Value::text(attempt.destination.as_str())),
            ("provider", Value::text(attempt.provider.as_str())),
            ("result", Value::text(attempt.result)),
        ];
        if let Some(status) = attempt.status_code {
            attributes.push(("http.response.status_code", Value::Int(i64::from(status))));
        }
        let start_ns = nanos(attempt.started_at);
        outbox.take(Span {
            trace,
            id: SpanId::random(),
            parent: Some(trace.root()),
            name: "attempt",
            kind: SpanKind::Client,
            start_ns,
            end_ns: start_ns.saturating_add(nanos_of(attempt.took)),
            attributes,
            failed: !attempt.succeeded,
        });
    }

    /// Spans lost so far.
    #[cfg(test)]
    fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |outbox| outbox.lost.load(Ordering::Relaxed))
    }

    /// Exports what waits, at the most for `limit`; what is recorded afterwards is lost.
    pub async fn drain(&self, limit: Duration) {
        let Some(outbox) = &self.0 else { return };
        let exporter = outbox.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut exporter) = exporter else { return };
        outbox.stop.send_replace(true);
        match tokio::time::timeout(limit, &mut exporter).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the exporter of traces failed"),
            Err(_elapsed) => {
                exporter.abort();
                tracing::debug!("spans were still waiting when the time to shut down was over");
            }
        }
    }
}

impl Outbox {
    fn take(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A webhook on its way. Dropped without [`WebhookSpan::end`], it leaves nothing.
#[derive(Debug)]
pub struct WebhookSpan(Option<Box<Begun>>);

#[derive(Debug)]
struct Begun {
    outbox: Arc<Outbox>,
    trace: TraceId,
    provider: ProviderSlug,
    key: Option<EventKey>,
    deliveries: usize,
    commit: Option<Commit>,
}

/// The store's part: since the webhook's arrival, and how long.
#[derive(Debug, Clone, Copy)]
struct Commit {
    after: Duration,
    took: Duration,
}

/// How a webhook ended.
#[derive(Debug, Clone, Copy)]
pub struct WebhookEnd<'a> {
    /// The event it became, or was before.
    pub event: Option<&'a EventId>,
    /// `routed`, `duplicate`, … or the code of what went wrong.
    pub outcome: &'a str,
    /// Whether something went wrong.
    pub failed: bool,
    /// When it ended.
    pub at: EpochMs,
    /// Since its last byte arrived.
    pub took: Duration,
}

impl WebhookSpan {
    /// What to store with the event: the trace's 32 hexadecimal digits, or nothing if traces are off.
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|begun| begun.trace.to_string())
    }

    /// What it turned out to be, and how many deliveries are made of it.
    pub fn planned(&mut self, key: Option<&EventKey>, deliveries: usize) {
        if let Some(begun) = &mut self.0 {
            begun.key = key.cloned();
            begun.deliveries = deliveries;
        }
    }

    /// The commit was asked for this long `after` the webhook's arrival, and took so long.
    pub fn committed(&mut self, after: Duration, took: Duration) {
        if let Some(begun) = &mut self.0 {
            begun.commit = Some(Commit { after, took });
        }
    }

    /// Ends it.
    pub fn end(self, end: &WebhookEnd<'_>) {
        let Some(begun) = self.0 else { return };
        let end_ns = nanos(end.at);
        let start_ns = end_ns.saturating_sub(nanos_of(end.took));
        let mut attributes = vec![
            ("provider", Value::text(begun.provider.as_str())),
            ("outcome", Value::text(end.outcome)),
            ("deliveries", Value::Int(i64::try_from(begun.deliveries).unwrap_or(i64::MAX))),
        ];
        if let Some(event) = end.event {
            attributes.push(("event.id", Value::text(event.as_str())));
        }
        if let Some(key) = &begun.key {
            attributes.push(("event.key", Value::text(key.as_str())));
        }
        let root = begun.trace.root();
        if let Some(commit) = begun.commit {
            let commit_ns = start_ns.saturating_add(nanos_of(commit.after));
            begun.outbox.take(Span {
                trace: begun.trace,
                id: SpanId::random(),
                parent: Some(root),
                name: "commit",
                kind: SpanKind::Internal,
                start_ns: commit_ns,
                end_ns: commit_ns.saturating_add(nanos_of(commit.took)),
                attributes: Vec::new(),
                failed: false,
            });
        }
        begun.outbox.take(Span {
            trace: begun.trace,
            id: root,
            parent: None,
            name: "webhook",
            kind: SpanKind::Server,
            start_ns,
            end_ns,
            attributes,
            failed: end.failed,
        });
    }
}

/// An attempt that ended.
#[derive(Debug, Clone, Copy)]
pub struct AttemptSpan<'a> {
    /// What is stored with the event.
    pub trace_id: Option<&'a str>,
    /// The event.
    pub event: &'a EventId,
    /// Whose it is.
    pub provider: ProviderSlug,
    /// The delivery.
    pub delivery: &'a DeliveryId,
    /// Which attempt of it, from 1.
    pub number: u32,
    /// Where it went.
    pub destination: &'a DestinationId,
    /// How it ended, our code.
    pub result: &'a str,
    /// The answer's status.
    pub status_code: Option<u16>,
    /// What the delivery is now.
    pub delivery_status: &'a str,
    /// Whether the delivery is done with it.
    pub succeeded: bool,
    /// When it began.
    pub started_at: EpochMs,
    /// How long it took.
    pub took: Duration,
}

fn nanos(at: EpochMs) -> u64 {
    u64::try_from(at.0).unwrap_or(0).saturating_mul(1_000_000)
}

fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: ProviderSlug = ProviderSlug("acme");
    const END: WebhookEnd<'static> = WebhookEnd {
        event: None,
        outcome: "routed",
        failed: false,
        at: EpochMs(1_771_980_000_000),
        took: Duration::from_millis(5),
    };

    /// Traces whose spans end in the test's hands.
    fn caught(room: usize) -> (Traces, mpsc::Receiver<Span>) {
        let (spans, caught) = mpsc::channel(room);
        let (stop, lost) = (watch::Sender::new(false), Arc::default());
        (Traces(Some(Arc::new(Outbox { spans, lost, stop, exporter: Mutex::new(None) }))), caught)
    }

    fn attempt<'a>(trace_id: Option<&'a str>, ids: &'a (EventId, DeliveryId, DestinationId)) -> AttemptSpan<'a> {
        AttemptSpan {
            trace_id,
            event: &ids.0,
            provider: ACME,
            delivery: &ids.1,
            number: 2,
            destination: &ids.2,
            result: "answered",
            status_code: Some(500),
            delivery_status: "pending",
            succeeded: false,
            started_at: EpochMs(1_771_980_001_000),
            took: Duration::from_micros(1500),
        }
    }

    fn ids() -> (EventId, DeliveryId, DestinationId) {
        (EventId::from_raw("evt_1"), DeliveryId::from_raw("dlv_1"), DestinationId::from_raw("dst_1"))
    }

    #[test]
    fn commit_and_attempts_are_children_of_the_webhook_by_its_stored_trace_id_alone() {
        let (traces, mut caught) = caught(8);
        let mut span = traces.begin_webhook(ACME);
        let stored = span.trace_id().expect("traced");
        assert_eq!(stored.len(), 32);
        span.committed(Duration::from_millis(1), Duration::from_millis(3));
        span.end(&END);
        let ids = ids();
        traces.record_attempt(&attempt(Some(&stored), &ids));

        let (commit, webhook) = (caught.try_recv().expect("commit"), caught.try_recv().expect("webhook"));
        let attempt = caught.try_recv().expect("attempt");
        assert_eq!((commit.name, webhook.name, attempt.name), ("commit", "webhook", "attempt"));
        assert_eq!((webhook.parent, commit.parent, attempt.parent), (None, Some(webhook.id), Some(webhook.id)));
        assert!([commit.trace, attempt.trace].iter().all(|trace| *trace == webhook.trace));
        assert_eq!((webhook.end_ns - webhook.start_ns, commit.start_ns - webhook.start_ns), (5_000_000, 1_000_000));
        assert_eq!((commit.end_ns - commit.start_ns, attempt.end_ns - attempt.start_ns), (3_000_000, 1_500_000));
        assert!(attempt.failed && !webhook.failed);
    }

    #[test]
    fn traces_that_are_off_and_events_that_were_not_traced_cost_and_leave_nothing() {
        let off = Traces::default();
        let span = off.begin_webhook(ACME);
        assert_eq!(span.trace_id(), None);
        span.end(&END);
        let (traces, mut caught) = caught(8);
        let ids = ids();
        for untraced in [None, Some(""), Some("00000000000000000000000000000000"), Some("no trace id")] {
            traces.record_attempt(&attempt(untraced, &ids));
        }
        assert!(caught.try_recv().is_err());
    }

    #[test]
    fn a_full_queue_loses_spans_and_counts_them() {
        let (traces, _caught) = caught(1);
        for _ in 0..3 {
            traces.begin_webhook(ACME).end(&END);
        }
        assert_eq!(traces.lost(), 2);
    }
}
