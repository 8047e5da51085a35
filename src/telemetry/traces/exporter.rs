//! The task that takes spans to the collector, batch by batch.
//!
//! **Invariants**: one batch is under way at a time, and while the collector cannot be reached it is kept and tried
//! again while the queue in front fills up and then loses; at most one line a minute is logged; once told to stop it
//! takes what is in the queue, tries each batch once, and ends. **Must not know** what the spans mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    collector::{Collector, PostError},
    otlp::{self, Span},
};
use crate::model::pauses::Pauses;

/// Spans in one POST.
const MAX_BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Between tries of a batch.
const PAUSES: Pauses = Pauses::doubling(Duration::from_secs(1), Duration::from_secs(30));
/// The shortest time between two lines about a collector that does not take spans.
const QUIET_TIME: Duration = Duration::from_mins(1);

/// The exporter's state.
pub(super) struct Exporter {
    collector: Collector,
    node: String,
    spans: mpsc::Receiver<Span>,
    stop: watch::Receiver<bool>,
    lost: Arc<AtomicU64>,
    complained_at: Option<Instant>,
}

impl Exporter {
    pub fn new(
        collector: Collector,
        node: String,
        spans: mpsc::Receiver<Span>,
        stop: watch::Receiver<bool>,
        lost: Arc<AtomicU64>,
    ) -> Self {
        Self { collector, node, spans, stop, lost, complained_at: None }
    }

    /// Runs until it is told to stop, or nobody can record spans any more.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.collect(&mut batch).await {
            self.export(&batch).await;
            batch.clear();
        }
    }

    /// Waits for spans, and a little longer for company; false when there will be none.
    async fn collect(&mut self, batch: &mut Vec<Span>) -> bool {
        tokio::select! {
            taken = self.spans.recv_many(batch, MAX_BATCH) => if taken == 0 { return false },
            () = stopped(&mut self.stop) => {
                self.spans.close();
                return self.spans.recv_many(batch, MAX_BATCH).await > 0;
            }
        }
        let leaves_at = Instant::now() + BATCH_TIME;
        while batch.len() < MAX_BATCH {
            let room = MAX_BATCH - batch.len();
            tokio::select! {
                taken = self.spans.recv_many(batch, room) => if taken == 0 { break },
                () = sleep_until(leaves_at) => break,
                () = stopped(&mut self.stop) => break,
            }
        }
        true
    }

    /// Posts a batch until it is taken, refused for good, or the time to stop has come.
    async fn export(&mut self, batch: &[Span]) {
        let body = Bytes::from(otlp::request(&self.node, batch));
        let mut pauses = PAUSES;
        while let Err(error) = self.collector.post(body.clone()).await {
            let is_lost = !error.passes() || *self.stop.borrow();
            if is_lost {
                self.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            self.complain(&error);
            if is_lost {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next_pause()) => {}
                // Once more, at once.
                () = stopped(&mut self.stop) => {}
            }
        }
    }

    fn complain(&mut self, error: &PostError) {
        if self.complained_at.is_some_and(|at| at.elapsed() < QUIET_TIME) {
            return;
        }
        self.complained_at = Some(Instant::now());
        let spans_lost = self.lost.load(Ordering::Relaxed);
        tracing::warn!(%error, spans_lost, "traces do not get to telemetry.otlp_endpoint");
    }
}

/// Ends when the exporter is told to stop, or nobody is left to tell it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that everybody who could record spans is gone, which is a reason to stop too.
    drop(stop.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{clock::EpochMs, provider::ProviderSlug},
        telemetry::traces::{Traces, WebhookEnd},
    };

    fn record(traces: &Traces, count: usize) {
        for _ in 0..count {
            traces.begin_webhook(ProviderSlug("acme")).end(&WebhookEnd {
                event: None,
                outcome: "routed",
                failed: false,
                at: EpochMs(1),
                took: Duration::ZERO,
            });
        }
    }

    #[tokio::test]
    async fn what_waits_is_exported_when_draining_in_batches_of_bounded_size() {
        let mut server = Listener::answering(200).await;
        let traces = Traces::export_to(&server.endpoint, "node-1".into()).expect("set up");
        record(&traces, MAX_BATCH + 1);
        traces.drain(Duration::from_mins(1)).await;
        let mut sizes = Vec::new();
        while let Ok(body) = server.bodies.try_recv() {
            sizes.push(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").len());
        }
        assert!(sizes.iter().all(|size| *size <= MAX_BATCH));
        assert_eq!(sizes.iter().sum::<usize>(), MAX_BATCH + 1);
        record(&traces, 1);
        traces.drain(Duration::from_mins(1)).await;
        assert!(server.bodies.try_recv().is_err(), "nothing is exported after the end");
    }

    #[tokio::test]
    async fn spans_that_are_refused_are_counted_as_lost_and_keep_nobody_waiting() {
        let server = Listener::answering(400).await;
        let traces = Traces::export_to(&server.endpoint, "node-1".into()).expect("set up");
        record(&traces, 3);
        traces.drain(Duration::from_mins(1)).await;
        assert_eq!(traces.lost(), 3);
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_ends_a_drain_at_its_limit() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
        let traces = Traces::export_to(&endpoint, "node-1".into()).expect("set up");
        record(&traces, 3);
        let drained = tokio::time::timeout(Duration::from_secs(4), traces.drain(Duration::from_millis(50)));
        drained.await.expect("before the time of one POST is over");
    }

    /// A server that answers every request alike and hands its body on.
    struct Listener {
        endpoint: url::Url,
        bodies: mpsc::UnboundedReceiver<serde_json::Value>,
    }

    impl Listener {
        async fn answering(status: u16) -> Self {
            use http_body_util::{BodyExt as _, Empty};
            use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};

            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let endpoint = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
            let (sender, bodies) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let sender = sender.clone();
                    let service = service_fn(move |request: Request<Incoming>| {
                        let sender = sender.clone();
                        async move {
                            assert_eq!(request.uri().path(), "/v1/traces");
                            assert_eq!(request.headers()["content-type"], "application/json");
                            let body = request.into_body().collect().await.expect("a body").to_bytes();
                            sender.send(serde_json::from_slice(&body).expect("JSON")).expect("the test listens");
                            Response::builder().status(status).body(Empty::<Bytes>::new())
                        }
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    drop(tokio::spawn(http1::Builder::new().serve_connection(io, service)));
                }
            });
            Self { endpoint, bodies }
        }
    }
}
