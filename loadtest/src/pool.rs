//! Requests made and signed before the clock starts, so that the generator's cost is a write and a read.
//!
//! **Invariants.** Every request has its own delivery id. Bodies are distinct until the pool's memory is used up; then
//! they come again under new ids, which GitHub's signature does not cover, and the report says how many did.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{Facts, github::PROVIDER},
};

/// The kinds in the mix, all of them subscribed to by default.
const KINDS: [&str; 4] =
    ["github:push", "github:pull-request.opened", "github:pull-request.merged", "github:issue.opened"];

/// Ready requests.
#[derive(Debug)]
pub struct Pool {
    requests: Vec<Prepared>,
    reused: AtomicU64,
}

#[derive(Debug)]
struct Prepared {
    /// Everything before the delivery id.
    head: Bytes,
    /// The rest of the head, and the body.
    tail: Bytes,
}

/// The delivery id of the event with that number.
pub fn delivery_id(number: usize) -> String {
    format!("10adface-0000-4000-8000-{number:012x}")
}

/// The number in a delivery id; `None` if it is none of ours.
pub fn number_of(delivery_id: &str) -> Option<usize> {
    usize::from_str_radix(delivery_id.strip_prefix("10adface-0000-4000-8000-")?, 16).ok()
}

impl Pool {
    /// Prepares `count` requests, or as many as fit into `memory_bytes`.
    pub fn prepare(address: SocketAddr, count: usize, body_bytes: usize, memory_bytes: usize) -> anyhow::Result<Self> {
        let count = count.min((memory_bytes / (body_bytes + 1024)).max(1));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(threads);
        let shares = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|n| (n * share).min(count)..((n + 1) * share).min(count))
                .map(|numbers| {
                    scope.spawn(move || {
                        numbers.map(|number| prepare(address, number, body_bytes)).collect::<anyhow::Result<Vec<_>>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("preparing panicked"))))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(Self { requests: shares.into_iter().flatten().collect(), reused: AtomicU64::new(0) })
    }

    /// Writes the request of the event with that number into `buffer`.
    pub fn write(&self, number: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        let Some(prepared) = self.requests.get(number % self.requests.len().max(1)) else { return };
        if number >= self.requests.len() {
            self.reused.fetch_add(1, Ordering::Relaxed);
        }
        buffer.extend_from_slice(&prepared.head);
        buffer.extend_from_slice(delivery_id(number).as_bytes());
        buffer.extend_from_slice(&prepared.tail);
    }

    /// How many requests repeated an earlier body.
    pub fn reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }
}

fn prepare(address: SocketAddr, number: usize, body_bytes: usize) -> anyhow::Result<Prepared> {
    let facts = Facts { body_bytes, ..PROVIDER.facts(1, number as u64, SystemClock.now()) };
    let kind = KINDS[number % KINDS.len()];
    let request = PROVIDER.event(kind, &facts, PROVIDER.secret.as_bytes()).context("an unknown kind")?;
    ensure!(
        request.body.len() <= body_bytes,
        "--body is too small: a {kind} has at least {} bytes",
        request.body.len()
    );
    let headers = request.headers.iter().filter(|(name, _)| *name != "x-github-delivery");
    let lines: Vec<String> = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "POST /webhooks/github HTTP/1.1\r\nhost: {address}\r\n{}content-length: {}\r\nx-github-delivery: ",
        lines.concat(),
        request.body.len()
    );
    let tail = [b"\r\n\r\n", &request.body[..]].concat();
    Ok(Prepared { head: head.into(), tail: tail.into() })
}
