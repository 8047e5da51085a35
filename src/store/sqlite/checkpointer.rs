//! Checkpoints off the commit path.
//!
//! SQLite folds the write-ahead log into the database within some unlucky commit, which then waits for the disk twice
//! over. This task does it on a connection of its own: a passive checkpoint waits for nobody and nobody waits for it.
//! **Invariants**: without it everything still works, a little less evenly, because the writer folds a log that has
//! grown large. **Must not know** the store's tables.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, sqlite::SqliteConnectOptions, sqlite::SqliteConnection};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// At the latest after this long; a checkpoint with nothing to do costs microseconds.
const EVERY: Duration = Duration::from_millis(500);
/// And whenever this many rows were written, some hundred KiB of log: the log begins anew only when a writer's own
/// checkpoint finds nearly all of it done, and what that one finds undone, a commit waits for. Often and little, because
/// a core that copies pages for milliseconds on end keeps the next commit waiting where all cores are busy.
const ROWS: usize = 100;

/// The task; ends when it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Checkpointer {
    task: JoinHandle<()>,
}

/// How much was written since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct LogGrowth {
    rows: AtomicUsize,
    enough: Notify,
}

impl LogGrowth {
    /// Rows were committed.
    pub(super) fn add(&self, rows: usize) {
        if self.rows.fetch_add(rows, Ordering::Relaxed) + rows >= ROWS {
            self.enough.notify_one();
        }
    }
}

impl Checkpointer {
    pub(super) fn start(options: SqliteConnectOptions, growth: Arc<LogGrowth>) -> Self {
        Self { task: tokio::spawn(run(options, growth)) }
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run(options: SqliteConnectOptions, growth: Arc<LogGrowth>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<SqliteConnection> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = growth.enough.notified() => {}
        }
        growth.rows.store(0, Ordering::Relaxed);
        if let Err(error) = checkpoint(&options, &mut connection).await {
            // The writer's own checkpoints stand in; the next tick tries again.
            tracing::debug!(error = %error, "a checkpoint failed");
            connection = None;
        }
    }
}

async fn checkpoint(
    options: &SqliteConnectOptions,
    connection: &mut Option<SqliteConnection>,
) -> Result<(), sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(SqliteConnection::connect_with(options).await?),
    };
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *connection).await?;
    Ok(())
}
