//! What other nodes tell, through LISTEN/NOTIFY.
//!
//! **Owns** one connection per store and the task that reads it. **Invariants**: whenever notifications may have been
//! missed (a broken connection, a reader that fell behind), [`Change::Unknown`] takes their place. **Must not know** what
//! a change means.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::store::{Change, StoreResult, changes::CHANNEL};

/// Changes that may wait for their reader; beyond, one `Unknown` says it all.
const WAITING: usize = 1024;
/// A silent connection is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the server may take to answer that.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Between attempts to listen again.
const PAUSE: Duration = Duration::from_millis(300);

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

async fn listen(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    // The listener wants a pool; this one is its single connection.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(ANSWER_TIME)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

async fn run(options: PgConnectOptions, first: PgListener, changes: mpsc::Sender<Change>) {
    let mut outbox = Outbox { changes, missed: false };
    let mut listener = Some(first);
    loop {
        if let Some(listening) = listener.take() {
            read(listening, &mut outbox).await;
            outbox.missed = true;
        } else if let Ok(listening) = listen(&options).await {
            // Listening again: what was said meanwhile is unknown.
            outbox.put(Change::Unknown);
            listener = Some(listening);
        } else {
            sleep(PAUSE).await;
        }
    }
}

/// Reads until the connection breaks.
async fn read(mut listener: PgListener, outbox: &mut Outbox) {
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => outbox.put(Change::from_notification(notification.payload())),
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => match timeout(ANSWER_TIME, sqlx::query("SELECT 1").execute(&mut listener)).await {
                Ok(Ok(_)) => outbox.catch_up(),
                Ok(Err(_)) | Err(_) => return,
            },
        }
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
