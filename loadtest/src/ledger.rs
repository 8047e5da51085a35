//! What was sent, acknowledged and delivered, kept outside the gateway.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use signalbox::sim::sink::Received;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::pool::number_of;

/// The ledger of one run.
#[derive(Debug)]
pub struct Ledger {
    start: Instant,
    entries: Vec<Entry>,
    webhook_ids: Mutex<Arrivals>,
    delivered: watch::Sender<u64>,
    repeated: AtomicU64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Microseconds after the start at which it was due or sent.
    sent_us: AtomicU64,
    acked: AtomicU32,
    delivered: AtomicU32,
}

#[derive(Debug)]
struct Arrivals {
    seen: HashSet<String>,
    /// Microseconds from due or sent to the arrival at the sink, first arrivals only.
    end_to_end_us: Option<Histogram<u64>>,
}

impl Ledger {
    /// A ledger with room for `at_most` events.
    pub fn new(start: Instant, at_most: usize) -> Self {
        let entries = std::iter::repeat_with(Entry::default).take(at_most).collect();
        let arrivals =
            Arrivals { seen: HashSet::new(), end_to_end_us: Histogram::new_with_bounds(1, 600_000_000, 3).ok() };
        Self {
            start,
            entries,
            webhook_ids: Mutex::new(arrivals),
            delivered: watch::Sender::new(0),
            repeated: AtomicU64::new(0),
        }
    }

    /// It is on its way.
    pub fn record_sent(&self, number: usize, due: Instant) {
        if let Some(entry) = self.entries.get(number) {
            entry.sent_us.store(micros(due.saturating_duration_since(self.start)), Ordering::Relaxed);
        }
    }

    /// It was answered with 200.
    pub fn record_acked(&self, number: usize) {
        if let Some(entry) = self.entries.get(number) {
            entry.acked.store(1, Ordering::Relaxed);
        }
    }

    /// Books what the sink receives, until it is stopped.
    pub async fn follow(self: Arc<Self>, mut arrivals: mpsc::UnboundedReceiver<Received>) {
        while let Some(received) = arrivals.recv().await {
            let number = received.envelope.as_ref().and_then(|ids| number_of(&ids.delivery_id));
            let Some(entry) = number.and_then(|number| self.entries.get(number)) else { continue };
            let mut booked = self.webhook_ids.lock().unwrap_or_else(PoisonError::into_inner);
            if !booked.seen.insert(received.webhook_id) {
                self.repeated.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let arrived = micros(received.instant.saturating_duration_since(self.start));
            if let Some(histogram) = &mut booked.end_to_end_us {
                histogram.saturating_record(arrived.saturating_sub(entry.sent_us.load(Ordering::Relaxed)));
            }
            drop(booked);
            entry.delivered.fetch_add(1, Ordering::Relaxed);
            self.delivered.send_modify(|delivered| *delivered += 1);
        }
    }

    /// Waits until that many deliveries arrived; whether they did.
    pub async fn wait_for(&self, due: u64, within: Duration) -> bool {
        let mut delivered = self.delivered.subscribe();
        tokio::time::timeout(within, delivered.wait_for(|delivered| *delivered >= due)).await.is_ok()
    }

    /// Deliveries that arrived, repeats not counted.
    pub fn delivered(&self) -> u64 {
        *self.delivered.borrow()
    }

    /// Arrivals of a `webhook-id` that had arrived before.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Deliveries that are due to acknowledged events and did not arrive.
    pub fn lost(&self, workspaces: usize) -> u64 {
        let acked = self.entries.iter().filter(|entry| entry.acked.load(Ordering::Relaxed) == 1);
        acked.map(|entry| (workspaces as u64).saturating_sub(u64::from(entry.delivered.load(Ordering::Relaxed)))).sum()
    }

    /// The end-to-end latencies.
    pub fn end_to_end(&self) -> Option<Histogram<u64>> {
        self.webhook_ids.lock().unwrap_or_else(PoisonError::into_inner).end_to_end_us.clone()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
