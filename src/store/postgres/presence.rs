//! A node's presence: advisory locks that the server gives back when the node is gone.
//!
//! **Owns** one connection per serving node. **Invariants**: while its lock is held, or one of those that the connections
//! have which results are written with, nobody takes the node's leases over; when the connection breaks, the lock is taken
//! again as soon as the server can be reached. **Must not know** leases.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use sha2::{Digest as _, Sha256};
use sqlx::{
    Connection as _, Executor as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::store::{StoreError, StoreResult};

/// How often the connection is used, so that a broken one is noticed.
const BEAT: Duration = Duration::from_secs(1);
/// How long the server may take to answer a beat.
const BEAT_TIME: Duration = Duration::from_secs(5);
/// The server gives up a silent connection, and with it the lock of a machine that died, after about 11 seconds; also one
/// that an answer was under way to.
const KEEPALIVES: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; \
                          SET tcp_user_timeout = 11000";

/// The keys of a node's locks: its own, of which there is one, and that of its connections, which they share.
pub(super) fn keys(node: &str) -> [i64; 2] {
    ["presence", "connection"].map(|lock| {
        let digest = Sha256::digest(format!("signalbox {lock} {node}"));
        digest.iter().take(8).fold(0, |key: i64, byte| key << 8 | i64::from(*byte))
    })
}

/// Says on a connection that the node is there for as long as the connection is, whatever becomes of its presence's own.
/// One whose leases are being taken over is not waited for.
pub(super) fn of_connection(node: &str) -> String {
    let [_, shared] = keys(node);
    format!("{KEEPALIVES}; SELECT pg_try_advisory_lock_shared({shared})")
}

/// The lock, and the task that keeps it.
#[derive(Debug)]
pub(super) struct Presence {
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Presence {
    /// Takes the lock; refuses if a node of that name is there.
    pub(super) async fn take(options: PgConnectOptions, node: &str) -> StoreResult<Self> {
        let [key, _] = keys(node);
        let Some(connection) = try_take(&options, key).await? else {
            return Err(StoreError::Unavailable(format!("another node named {node} is at work")));
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(options, key, connection, stopped));
        Ok(Self { task: Mutex::new(Some((stop, task))) })
    }

    /// Gives the lock back.
    pub(super) async fn give_up(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, task)) = task {
            // The task ends by itself, or has ended already.
            drop(stop);
            if let Err(error) = task.await {
                tracing::warn!(error = %error, "the presence task did not end well");
            }
        }
    }
}

/// Keeps the lock until `stopped`, which happens too when the [`Presence`] is dropped.
async fn keep(options: PgConnectOptions, key: i64, connection: PgConnection, mut stopped: oneshot::Receiver<()>) {
    let mut connection = Some(connection);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            () = sleep(BEAT) => {}
        }
        if let Some(held) = &mut connection {
            if let Ok(Ok(_)) = timeout(BEAT_TIME, held.execute("SELECT 1")).await {
                continue;
            }
            tracing::warn!("the presence lock's connection broke; taking it again");
        }
        // Refused while the server still believes in the old connection.
        connection = try_take(&options, key).await.unwrap_or_default();
    }
    if let Some(connection) = connection
        && let Ok(Err(error)) = timeout(BEAT_TIME, give_back(connection)).await
    {
        tracing::debug!(error = %error, "the presence lock was not given back in form");
    }
}

/// Unlocks before it closes: the server notices a closed connection a little later than its client.
async fn give_back(mut connection: PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("SELECT pg_advisory_unlock_all()").await?;
    connection.close().await
}

/// `None` if somebody else holds the lock.
async fn try_take(options: &PgConnectOptions, key: i64) -> StoreResult<Option<PgConnection>> {
    let taking = async {
        let mut connection = PgConnection::connect_with(options).await?;
        connection.execute(KEEPALIVES).await?;
        connection.execute("SET lock_timeout = 0").await?;
        let taken: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(key).fetch_one(&mut connection).await?;
        Ok(taken.then_some(connection))
    };
    timeout(BEAT_TIME, taking)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("the server does not answer".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_same_keys_on_every_node_and_for_ever() {
        let (a, b) = (keys("node-a"), keys("node-b"));
        assert_eq!(a, keys("node-a"));
        assert!(a[0] != a[1] && a.iter().all(|key| !b.contains(key)));
    }
}
