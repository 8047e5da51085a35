//! What other nodes tell, through LISTEN/NOTIFY.
//!
//! **Owns** one connection per store and the task that reads it. **Invariants**: whenever notifications may have been
//! missed (a broken connection, one on which nothing arrives, a reader that fell behind), [`Change::Unknown`] takes their
//! place, at most [`SILENCE`] and [`ANSWER_TIME`] later, and again and again while nobody can listen. **Must not know** what
//! a change means.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::store::{Change, StoreResult, changes::CHANNEL};

/// Changes that may wait for their reader; beyond, one `Unknown` says it all.
const WAITING: usize = 1024;
/// A silent connection is asked whether notifications still arrive on it.
const SILENCE: Duration = Duration::from_secs(10);
/// How long that may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Between attempts to listen again.
const PAUSE: Duration = Duration::from_millis(300);
/// While nobody can listen, what is remembered gets no older than this.
const DEAF_AGE: Duration = Duration::from_secs(2);

/// The reading end.
#[derive(Debug)]
pub(super) struct Listener {
    changes: mpsc::Receiver<Change>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens from now on.
    pub(super) async fn start(options: PgConnectOptions) -> StoreResult<Self> {
        let listener = listen(&options).await?;
        let (sender, changes) = mpsc::channel(WAITING);
        Ok(Self { changes, task: tokio::spawn(run(options, listener, sender)) })
    }

    /// The next change; waits for ever after the end.
    pub(super) async fn next(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that notifications arrive on.
struct Listening {
    listener: PgListener,
    /// A channel that nobody else listens to or writes to.
    echo: String,
}

async fn listen(options: &PgConnectOptions) -> Result<Listening, sqlx::Error> {
    // The listener wants a pool; this one is its single connection.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(ANSWER_TIME)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    let echo = format!("signalbox_echo_{:016x}", rand::random::<u64>());
    listener.listen_all([CHANNEL, &*echo]).await?;
    Ok(Listening { listener, echo })
}

async fn run(options: PgConnectOptions, first: Listening, changes: mpsc::Sender<Change>) {
    let mut outbox = Outbox { changes, missed: false };
    let mut listener = first;
    loop {
        read(listener, &mut outbox).await;
        // Whether it takes long to listen again is not known yet.
        outbox.put(Change::Unknown);
        listener = listen_again(&options, &mut outbox).await;
        // What was said meanwhile is unknown.
        outbox.put(Change::Unknown);
    }
}

/// Tries until it listens. Others may go on changing what is remembered here: it is taken for unknown all the time.
async fn listen_again(options: &PgConnectOptions, outbox: &mut Outbox) -> Listening {
    let (mut said_at, mut failed) = (Instant::now(), false);
    loop {
        match listen(options).await {
            Ok(listening) => {
                tracing::info!("changes made on other nodes are heard of again");
                return listening;
            }
            Err(error) if !failed => {
                tracing::warn!(%error, "changes made on other nodes are not heard of; nothing is remembered for long");
                failed = true;
            }
            Err(_) => {}
        }
        if said_at.elapsed() >= DEAF_AGE {
            outbox.put(Change::Unknown);
            said_at = Instant::now();
        }
        sleep(PAUSE).await;
    }
}

/// Reads until the connection breaks, or until nothing arrives on it any more.
async fn read(mut listening: Listening, outbox: &mut Outbox) {
    loop {
        match timeout(SILENCE, listening.listener.try_recv()).await {
            Ok(Ok(Some(notification))) => listening.pass_on(&notification, outbox),
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => match timeout(ANSWER_TIME, listening.hears_itself(outbox)).await {
                Ok(Ok(true)) => outbox.catch_up(),
                Ok(Ok(false) | Err(_)) | Err(_) => return,
            },
        }
    }
}

impl Listening {
    fn pass_on(&self, notification: &PgNotification, outbox: &mut Outbox) {
        if notification.channel() != self.echo {
            outbox.put(Change::from_notification(notification.payload()));
        }
    }

    /// Whether what is said on this connection's own channel arrives: an answer to a query alone would not say whether
    /// something between us and the server, a pool of connections for instance, keeps notifications back.
    async fn hears_itself(&mut self, outbox: &mut Outbox) -> Result<bool, sqlx::Error> {
        sqlx::query("SELECT pg_notify($1, '')").bind(&self.echo).execute(&mut self.listener).await?;
        while let Some(notification) = self.listener.try_recv().await? {
            if notification.channel() == self.echo {
                return Ok(true);
            }
            self.pass_on(&notification, outbox);
        }
        Ok(false)
    }
}

struct Outbox {
    changes: mpsc::Sender<Change>,
    /// Whether something could not be passed on.
    missed: bool,
}

impl Outbox {
    fn put(&mut self, change: Change) {
        let change = if self.missed { Change::Unknown } else { change };
        self.missed = matches!(self.changes.try_send(change), Err(TrySendError::Full(_)));
    }

    fn catch_up(&mut self) {
        if self.missed {
            self.put(Change::Unknown);
        }
    }
}
