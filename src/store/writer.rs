//! The writer: many concurrent webhooks and attempt records share one transaction, one flush to disk.
//!
//! **Owns** the queue of what waits for a commit and the tasks that commit it. **Invariants**: nothing is answered
//! before its commit; a batch closes when a committer is free, never after a wait, so a lone webhook commits at once and
//! batches grow by themselves under load; a row that cannot be stored fails alone; a panic while committing ends
//! neither the task nor the other rows. **Must not know** SQL: a [`Committer`] does.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Accepted, AttemptRecord, BatchObserver, NewEvent, StoreError, StoreResult,
    driver_error::{lost_a_race, lost_the_connection},
    payload::Payload,
};

/// Requests that may wait. Each holds a body, whose bytes the intake bounds.
const QUEUE_REQUESTS: usize = 1024;
/// A batch is closed at this many requests, …
const BATCH_REQUESTS: usize = 512;
/// … this many rows, …
const BATCH_ROWS: usize = 4096;
/// … or this many bytes of bodies, whichever comes first.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// How often a batch that lost a race against another transaction is tried.
const RACE_TRIES: u32 = 4;

/// An event ready to be written: its body is in the stored form, `event.body` is empty.
#[derive(Debug)]
pub(crate) struct PreparedEvent {
    pub(crate) new: NewEvent,
    pub(crate) payload: Payload,
}

impl PreparedEvent {
    async fn prepare(mut new: NewEvent) -> Self {
        let payload = Payload::encode(std::mem::take(&mut new.body)).await;
        debug_assert_eq!(new.body, Bytes::new());
        Self { new, payload }
    }
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Batch<'a> {
    pub(crate) events: Vec<&'a PreparedEvent>,
    pub(crate) attempts: Vec<&'a AttemptRecord>,
}

impl Batch<'_> {
    /// About how many rows it writes.
    pub(crate) fn rows(&self) -> usize {
        self.events.iter().map(|event| 1 + event.new.deliveries.len()).sum::<usize>() + 2 * self.attempts.len()
    }
}

/// Writes batches to a database. Must be idempotent: a batch whose outcome was not heard is written again.
#[async_trait]
pub(crate) trait Committer: Send + Sync + 'static {
    /// Commits a batch; answers what became of each event, in order, `None` if that cannot be told.
    async fn commit(&self, batch: &Batch<'_>) -> Result<Vec<Option<Accepted>>, sqlx::Error>;
}

enum Request {
    Accept(Box<PreparedEvent>, oneshot::Sender<StoreResult<Accepted>>),
    Attempts(Vec<AttemptRecord>, oneshot::Sender<StoreResult<()>>),
}

impl Request {
    fn rows(&self) -> usize {
        match self {
            Self::Accept(event, _) => 1 + event.new.deliveries.len(),
            Self::Attempts(records, _) => 2 * records.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Accept(event, _) => event.payload.stored.len(),
            Self::Attempts(..) => 0,
        }
    }

    /// Whether nobody waits for the answer any more. An event that was given up on was promised to nobody; an attempt
    /// happened and is recorded in any case.
    fn is_abandoned(&self) -> bool {
        matches!(self, Self::Accept(_, reply) if reply.is_closed())
    }

    fn add_to<'a>(&'a self, batch: &mut Batch<'a>) {
        match self {
            Self::Accept(event, _) => batch.events.push(event),
            Self::Attempts(records, _) => batch.attempts.extend(records),
        }
    }

    fn refuse(self, error: StoreError) {
        // A closed reply means that the caller gave up; the refusal is nobody's loss.
        match self {
            Self::Accept(_, reply) => drop(reply.send(Err(error))),
            Self::Attempts(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// The handle on the writer.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Request>,
    closing: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// How long a caller waits for its commit.
    patience: Duration,
}

impl Writer {
    /// Starts one task for each committer.
    pub(crate) fn start(
        committers: Vec<Arc<dyn Committer>>,
        observer: &Arc<dyn BatchObserver>,
        patience: Duration,
    ) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let requests = Arc::new(AsyncMutex::new(requests));
        let (closing, _) = watch::channel(false);
        let tasks = committers
            .into_iter()
            .map(|committer| {
                let requests = Arc::clone(&requests);
                let task = CommitTask { committer, observer: Arc::clone(observer), patience };
                tokio::spawn(task.run(requests, closing.subscribe()))
            })
            .collect();
        Self { queue, closing, tasks: Mutex::new(tasks), patience }
    }

    /// Queues an event; answers after its commit.
    pub(crate) async fn accept(&self, event: NewEvent) -> StoreResult<Accepted> {
        let event = Box::new(PreparedEvent::prepare(event).await);
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Accept(event, reply), answer).await
    }

    /// Queues attempt records; answers after their commit.
    pub(crate) async fn record(&self, records: Vec<AttemptRecord>) -> StoreResult<()> {
        if records.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Attempts(records, reply), answer).await
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<StoreResult<T>>) -> StoreResult<T> {
        let answered = async {
            self.queue.send(request).await.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
            answer.await.map_err(|_| StoreError::Unavailable("the writer stopped before the commit".into()))?
        };
        tokio::time::timeout(self.patience, answered)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no commit within {:?}", self.patience))))
    }

    /// Commits what waits, refuses what comes later, and ends the tasks.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "a writer task did not end well");
            }
        }
    }
}

struct CommitTask {
    committer: Arc<dyn Committer>,
    observer: Arc<dyn BatchObserver>,
    /// How long one commit may take: a server that does not answer must not hold the task.
    patience: Duration,
}

/// Why a part of a batch was not committed.
enum Failure {
    /// The database cannot take anything now: all of it is refused.
    Unavailable(StoreError),
    /// Something in it cannot be stored: it is looked for.
    Poisoned(StoreError),
}

impl CommitTask {
    async fn run(self, requests: Arc<AsyncMutex<mpsc::Receiver<Request>>>, mut closing: watch::Receiver<bool>) {
        while let Some(batch) = next_batch(&requests, &mut closing).await {
            if batch.is_empty() {
                continue;
            }
            // Commits are isolated one by one below; this is the belt to those braces.
            if AssertUnwindSafe(self.commit_all(batch)).catch_unwind().await.is_err() {
                tracing::error!("the writer panicked; its callers are asked to try again");
            }
        }
    }

    /// Commits a batch in one transaction. If something in it cannot be stored, halves it until that stands alone:
    /// one bad row among n costs about 2 log n commits and nobody else an error.
    async fn commit_all(&self, requests: Vec<Request>) {
        let mut waiting = vec![requests];
        while let Some(mut requests) = waiting.pop() {
            match self.commit(&requests).await {
                Ok(answers) => answer(requests, answers),
                Err(Failure::Unavailable(error)) => {
                    let reason = error.to_string();
                    tracing::warn!(error = %reason, requests = requests.len(), "a batch was refused");
                    for request in requests {
                        request.refuse(StoreError::Unavailable(reason.clone()));
                    }
                }
                Err(Failure::Poisoned(error)) if requests.len() == 1 => {
                    tracing::error!(error = %error, "a row cannot be stored");
                    for request in requests {
                        request.refuse(StoreError::Driver(error.to_string()));
                    }
                }
                Err(Failure::Poisoned(_)) => {
                    let second_half = requests.split_off(requests.len() / 2);
                    waiting.push(second_half);
                    waiting.push(requests);
                }
            }
        }
    }

    async fn commit(&self, requests: &[Request]) -> Result<Vec<Option<Accepted>>, Failure> {
        let mut batch = Batch::default();
        for request in requests {
            request.add_to(&mut batch);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let started = Instant::now();
            let committing = AssertUnwindSafe(self.committer.commit(&batch)).catch_unwind();
            let error = match tokio::time::timeout(self.patience, committing).await {
                Ok(Ok(Ok(answers))) => {
                    self.observer.batch_committed(batch.events.len(), batch.attempts.len(), started.elapsed());
                    return Ok(answers);
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => return Err(Failure::Poisoned(StoreError::Driver("the writer panicked".into()))),
                // It may have been committed. Whoever asks again is told `duplicate`.
                Err(_) => return Err(Failure::Unavailable(StoreError::Unavailable("the commit was cut off".into()))),
            };
            // An idle connection that the server closed meanwhile shows only now; the next one is fresh.
            let again = (lost_the_connection(&error) && tries == 1) || (lost_a_race(&error) && tries < RACE_TRIES);
            if !again {
                return Err(match StoreError::from(error) {
                    unavailable @ StoreError::Unavailable(_) => Failure::Unavailable(unavailable),
                    other => Failure::Poisoned(other),
                });
            }
        }
    }
}

fn answer(requests: Vec<Request>, answers: Vec<Option<Accepted>>) {
    let mut answers = answers.into_iter();
    for request in requests {
        // A closed reply means that the caller gave up: it will be told `duplicate` when it asks again.
        match request {
            Request::Attempts(_, reply) => drop(reply.send(Ok(()))),
            Request::Accept(_, reply) => drop(reply.send(answers.next().flatten().ok_or_else(|| {
                StoreError::Unavailable("the event was deleted while its duplicate was looked up".into())
            }))),
        }
    }
}

/// Waits for a request and takes whatever else waits, up to the bounds. `None` when the queue is closed and empty.
/// The lock makes committers take turns in waiting; it is not held while one commits.
async fn next_batch(
    requests: &AsyncMutex<mpsc::Receiver<Request>>,
    closing: &mut watch::Receiver<bool>,
) -> Option<Vec<Request>> {
    let mut requests = requests.lock().await;
    let closed = async { closing.wait_for(|closing| *closing).await.is_ok() };
    let first = tokio::select! {
        biased;
        first = requests.recv() => Some(first?),
        _ = closed => None,
    };
    let first = if let Some(first) = first {
        first
    } else {
        requests.close();
        requests.recv().await?
    };
    let (mut rows, mut bytes) = (0, 0);
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(request) = next {
        if !request.is_abandoned() {
            rows += request.rows();
            bytes += request.bytes();
            batch.push(request);
        }
        let full = batch.len() >= BATCH_REQUESTS || rows >= BATCH_ROWS || bytes >= BATCH_BYTES;
        next = if full { None } else { requests.try_recv().ok() };
    }
    Some(batch)
}
