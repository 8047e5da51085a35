//! Posts events over kept-alive connections: as fast as they are answered, or at a rate.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

use crate::{ledger::Ledger, pool::Pool};

/// Room in the ledger for a closed loop; no gateway of this kind gets near it on one machine.
pub const CLOSED_LOOP_AT_MOST_PER_SECOND: u64 = 60_000;

/// Who posts what, where, and how long.
#[derive(Debug, Clone)]
pub struct Generator {
    /// The gateway.
    pub address: SocketAddr,
    /// What is posted.
    pub pool: Arc<Pool>,
    /// Who remembers.
    pub ledger: Arc<Ledger>,
    /// When it begins.
    pub start: Instant,
    /// Events per second; `None` is a closed loop.
    pub rate: Option<u64>,
    /// When it ends.
    pub until: Instant,
}

/// What was posted and how it was answered.
#[derive(Debug)]
pub struct Posted {
    /// Acknowledged with 200 `accepted`.
    pub acked: u64,
    /// Other answers by status; 0 is no answer.
    pub refused: BTreeMap<u16, u64>,
    /// Microseconds from due (open loop) or sent (closed loop) to the last byte of the acknowledgement.
    pub latency_us: Histogram<u64>,
}

impl Posted {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { acked: 0, refused: BTreeMap::new(), latency_us: Histogram::new_with_bounds(1, 120_000_000, 3)? })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.acked += other.acked;
        for (status, count) in &other.refused {
            *self.refused.entry(*status).or_default() += count;
        }
        Ok(self.latency_us.add(&other.latency_us)?)
    }
}

impl Generator {
    /// Runs to its end, never posting more than `at_most` events.
    pub async fn run(self, connections: usize, at_most: usize) -> anyhow::Result<Posted> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..connections {
            running.spawn(self.clone().post(Arc::clone(&next), at_most));
        }
        let mut posted = Posted::new()?;
        while let Some(of_connection) = running.join_next().await {
            posted.add(&of_connection??)?;
        }
        Ok(posted)
    }

    /// One connection's share.
    async fn post(self, next: Arc<AtomicUsize>, at_most: usize) -> anyhow::Result<Posted> {
        let mut posted = Posted::new()?;
        let mut request = Vec::with_capacity(64 * 1024);
        let mut connection = None;
        tokio::time::sleep_until(self.start).await;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = match self.rate {
                Some(rate) => self.start + Duration::from_nanos(number as u64 * (1_000_000_000 / rate.max(1))),
                None => Instant::now(),
            };
            if number >= at_most || due >= self.until {
                return Ok(posted);
            }
            tokio::time::sleep_until(due).await;
            self.pool.write(number, &mut request);
            let due = if self.rate.is_some() { due } else { Instant::now() };
            self.ledger.record_sent(number, due);
            match exchange(&mut connection, self.address, &request).await {
                Ok(200) => {
                    posted.acked += 1;
                    self.ledger.record_acked(number);
                    posted.latency_us.saturating_record(u64::try_from(due.elapsed().as_micros())?);
                }
                Ok(status) => *posted.refused.entry(status).or_default() += 1,
                Err(_) => {
                    connection = None;
                    *posted.refused.entry(0).or_default() += 1;
                }
            }
        }
    }
}

/// A connection and what was read of the answer so far.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Sends a request, reads the whole answer, answers its status. A full HTTP client would cost more than the gateway's
/// own HTTP; this one understands exactly what the gateway sends: a head with `content-length`, then a body.
async fn exchange(kept: &mut Option<Connection>, address: SocketAddr, request: &[u8]) -> anyhow::Result<u16> {
    let connection = if let Some(connection) = kept {
        connection
    } else {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        kept.insert(Connection { stream, buffer: Vec::with_capacity(4096) })
    };
    connection.stream.write_all(request).await?;
    connection.buffer.clear();
    loop {
        if connection.stream.read_buf(&mut connection.buffer).await? == 0 {
            bail!("the connection ended");
        }
        let Some(end) = connection.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&connection.buffer[..end])?;
        let status = head.get(9..12).context("no status")?.parse()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let whole = end + 4 + length.context("no content-length")?;
        while connection.buffer.len() < whole {
            if connection.stream.read_buf(&mut connection.buffer).await? == 0 {
                bail!("the connection ended within an answer");
            }
        }
        return Ok(status);
    }
}
