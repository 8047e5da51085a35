//! Checkpoints off the commit path.
//!
//! SQLite folds the write-ahead log into the database within some unlucky commit, which then waits for the disk twice
//! over. This task does it on a connection of its own: a passive checkpoint waits for nobody and nobody waits for it.
//! **Invariants**: without it everything still works, a little less evenly, because the writer folds a log that has
//! grown large. **Must not know** the store's tables.

use std::time::Duration;

use sqlx::{Connection as _, sqlite::SqliteConnectOptions, sqlite::SqliteConnection};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// Often enough that the log stays small at full intake; a checkpoint with nothing to do costs microseconds.
const EVERY: Duration = Duration::from_millis(500);

/// The task; ends when it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Checkpointer {
    task: JoinHandle<()>,
}

impl Checkpointer {
    pub(super) fn start(options: SqliteConnectOptions) -> Self {
        Self { task: tokio::spawn(run(options)) }
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

async fn run(options: SqliteConnectOptions) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<SqliteConnection> = None;
    loop {
        ticks.tick().await;
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
