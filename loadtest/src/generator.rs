//! Posts events over kept-alive connections: as fast as they are answered, or at a rate.
//!
//! **Invariants.** Latencies of an open loop count from the moment an event was due, not from the moment somebody was
//! free to send it. An event is posted again, to another node, only if it got no answer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    ledger::{Book, Ledger, empty_histogram},
    pool::Pool,
    wire::Connection,
};

/// An answer later than this is none.
const PATIENCE: Duration = Duration::from_secs(30);
/// A timer's own lateness, which is nobody's latency.
const TIMER_SLOP: Duration = Duration::from_millis(2);
/// How long a balancer leaves a node alone that did not answer.
const NODE_PAUSE: Duration = Duration::from_millis(500);

/// The nodes behind a simple balancer.
#[derive(Debug)]
pub struct Nodes {
    addresses: Vec<SocketAddr>,
    down_until_us: Vec<AtomicU64>,
    origin: Instant,
}

impl Nodes {
    /// These nodes, all up.
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        let down_until_us = addresses.iter().map(|_| AtomicU64::new(0)).collect();
        Self { addresses, down_until_us, origin: Instant::now() }
    }

    /// The first.
    pub fn first(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    fn now_us(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    /// The preferred node, or the next that is not known to be down.
    fn choose(&self, preferred: usize) -> usize {
        let count = self.addresses.len();
        let now = self.now_us();
        let is_up = |at: &usize| self.down_until_us.get(*at).is_none_or(|until| until.load(Ordering::Relaxed) <= now);
        (0..count).map(|step| (preferred + step) % count).find(is_up).unwrap_or(preferred % count)
    }

    fn leave_alone(&self, node: usize) {
        if let Some(until) = self.down_until_us.get(node) {
            until.store(self.now_us() + NODE_PAUSE.as_micros() as u64, Ordering::Relaxed);
        }
    }
}

/// Who posts what, where, and how long.
#[derive(Debug, Clone)]
pub struct Generator {
    /// Where to.
    pub nodes: Arc<Nodes>,
    /// What is posted.
    pub pool: Arc<Pool>,
    /// Who remembers.
    pub ledger: Arc<Ledger>,
    /// Under which stream.
    pub book: Arc<Book>,
    /// When it begins.
    pub start: Instant,
    /// Requests per second; `None` is a closed loop.
    pub rate: Option<f64>,
    /// When it ends.
    pub until: Instant,
    /// Ends it sooner.
    pub stop: Arc<AtomicBool>,
    /// Times each event is posted.
    pub copies: u64,
}

/// What was posted and how it was answered.
#[derive(Debug)]
pub struct Posted {
    /// Answers 200.
    pub acked: u64,
    /// Other answers by status; 0 is no answer.
    pub refused: BTreeMap<u16, u64>,
    /// Requests that were sent again because a node did not answer.
    pub failed_over: u64,
    /// Microseconds from due (open loop) or sent (closed loop) to the last byte of any answer.
    pub latency_us: Histogram<u64>,
}

impl Posted {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { acked: 0, refused: BTreeMap::new(), failed_over: 0, latency_us: empty_histogram()? })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.acked += other.acked;
        self.failed_over += other.failed_over;
        for (status, count) in &other.refused {
            *self.refused.entry(*status).or_default() += count;
        }
        Ok(self.latency_us.add(&other.latency_us)?)
    }

    /// Requests that got no 200.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl Generator {
    /// The same, beginning now and lasting so long.
    #[must_use]
    pub fn starting_now(mut self, seconds: f64) -> Self {
        self.start = Instant::now();
        self.until = self.start + Duration::from_secs_f64(seconds);
        self
    }

    /// Runs to its end.
    pub async fn run(self, connections: usize) -> anyhow::Result<Posted> {
        let next = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for connection in 0..connections {
            running.spawn(self.clone().post(connection, Arc::clone(&next)));
        }
        let mut posted = Posted::new()?;
        while let Some(of_connection) = running.join_next().await {
            posted.add(&of_connection??)?;
        }
        Ok(posted)
    }

    /// One connection's share.
    async fn post(self, preferred: usize, next: Arc<AtomicU64>) -> anyhow::Result<Posted> {
        let mut posted = Posted::new()?;
        let mut request = Vec::with_capacity(64 * 1024);
        let mut kept = None;
        tokio::time::sleep_until(self.start).await;
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let number = place / self.copies.max(1);
            let now = Instant::now();
            let mut due = match self.rate {
                Some(rate) => self.start + Duration::from_secs_f64(place as f64 / rate.max(0.001)),
                None => now,
            };
            if due >= self.until || self.stop.load(Ordering::Relaxed) {
                return Ok(posted);
            }
            if due > now {
                tokio::time::sleep_until(due).await;
                if due.elapsed() < TIMER_SLOP {
                    due = Instant::now();
                }
            }
            if let Some(digest) = self.pool.write(number, &mut request) {
                self.ledger.record_digest(digest, self.book.stream, number);
            }
            if self.rate.is_none() {
                due = Instant::now();
            }
            self.book.record_sent(number, due);
            let status = self.send(&mut kept, preferred, &request, &mut posted).await;
            posted.latency_us.saturating_record(due.elapsed().as_micros() as u64);
            if status == 200 {
                posted.acked += 1;
                self.ledger.record_acked(&self.book, number);
            } else {
                *posted.refused.entry(status).or_default() += 1;
                self.ledger.record_refused();
            }
        }
    }

    /// Sends until a node answers, or none does; 0 is no answer.
    async fn send(
        &self,
        kept: &mut Option<(usize, Connection)>,
        preferred: usize,
        request: &[u8],
        posted: &mut Posted,
    ) -> u16 {
        // A kept connection that ended in between is no failure of the node yet.
        for again in 0..=self.nodes.addresses.len() {
            let fresh = kept.is_none();
            let answer = tokio::time::timeout(PATIENCE, self.exchange(kept, preferred, request)).await;
            match answer {
                Ok(Ok(status)) => return status,
                Ok(Err(node)) => {
                    *kept = None;
                    if self.nodes.addresses.len() == 1 && fresh {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        return 0;
                    }
                    if fresh || self.nodes.addresses.len() > 1 {
                        self.nodes.leave_alone(node);
                    }
                    posted.failed_over += u64::from(again < self.nodes.addresses.len());
                }
                Err(_) => {
                    *kept = None;
                    return 0;
                }
            }
        }
        0
    }

    /// One exchange; the error is the node that did not answer.
    async fn exchange(
        &self,
        kept: &mut Option<(usize, Connection)>,
        preferred: usize,
        request: &[u8],
    ) -> Result<u16, usize> {
        let (node, connection) = if let Some(kept) = kept {
            kept
        } else {
            let node = self.nodes.choose(preferred);
            let address = *self.nodes.addresses.get(node).ok_or(node)?;
            kept.insert((node, Connection::open(address).await.map_err(|_| node)?))
        };
        connection.exchange(request).await.map_err(|_| *node)
    }
}
