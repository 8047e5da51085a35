//! A node's presence: advisory locks that the server gives back when the node is gone.
//!
//! **Owns** one connection per serving node. **Invariants**: while its lock is held, or one of those that the connections
//! have which results are written with, nobody takes the node's leases over; when the connection breaks, the lock is taken
//! again as soon as the server can be reached. A node that cannot says so of itself ([`FENCE`]) before others may conclude
//! that it is gone ([`Absences`]), whichever way it was cut off, or the server was replaced. **Must not know** leases.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use sqlx::{
    Connection as _, Executor as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, sleep_until, timeout},
};

use super::KeyedConnections;
use crate::store::{StoreError, StoreResult};

/// How often the connection is used, so that a broken one is noticed.
const BEAT: Duration = Duration::from_secs(1);
/// How long the server may take to answer a beat.
const BEAT_TIME: Duration = Duration::from_secs(5);
/// A node that has had no sign of its locks for so long takes itself for gone.
const FENCE: Duration = Duration::from_secs(8);
/// A node is gone for the others once they have seen its locks free for so long: longer than [`FENCE`], which began when it
/// lost them at the latest.
const GRACE: Duration = Duration::from_secs(10);
/// Who looked longer ago has not seen what was meanwhile.
const LOOKING_ON: Duration = Duration::from_secs(5);
/// The server gives up a silent connection, and with it the lock of a machine that died, after about 11 seconds; also one
/// that an answer was under way to.
const KEEPALIVES: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; \
                          SET tcp_user_timeout = 11000";
/// Whether a connection that says so is heard: it was made while nobody took over.
const SAYS_SO: &str = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' \
                       AND granted AND pid = pg_backend_pid())";

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

/// Since when this process has seen others' locks free.
#[derive(Debug, Default)]
pub(super) struct Absences(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    absent_since: HashMap<String, Instant>,
    last: Option<Instant>,
}

impl Absences {
    /// Of the nodes whose locks are free now, those that are gone.
    pub(super) fn confirm(&self, absent: &[String], now: Instant) -> Vec<String> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_looked_on =
            seen.last.replace(now).is_some_and(|last| now.saturating_duration_since(last) <= LOOKING_ON);
        seen.absent_since.retain(|node, _| has_looked_on && absent.contains(node));
        let mut gone = Vec::new();
        for node in absent {
            let since = *seen.absent_since.entry(node.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= GRACE {
                gone.push(node.clone());
            }
        }
        gone
    }
}

/// The lock, and the task that keeps it.
#[derive(Debug)]
pub(super) struct Presence {
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    is_there: watch::Receiver<bool>,
}

impl Presence {
    /// Takes the lock; refuses if a node of that name is there. `others` are the connections that say so too.
    pub(super) async fn take(
        options: PgConnectOptions,
        node: &str,
        others: Arc<KeyedConnections>,
    ) -> StoreResult<Self> {
        let [key, _] = keys(node);
        let Some(connection) = try_take(&options, key).await? else {
            return Err(StoreError::Unavailable(format!("another node named {node} is at work")));
        };
        let (stop, stopped) = oneshot::channel();
        let (seen, last_seen) = watch::channel(Instant::now());
        let (there, is_there) = watch::channel(true);
        drop(tokio::spawn(fence(last_seen, there)));
        let keeper = Keeper { options, key, connection: Some(connection), others, seen };
        let task = tokio::spawn(keeper.keep(stopped));
        Ok(Self { task: Mutex::new(Some((stop, task))), is_there })
    }

    /// Whether this node may think so, from now on.
    pub(super) fn is_there(&self) -> watch::Receiver<bool> {
        self.is_there.clone()
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

/// Says whether there was a sign of the node's locks within [`FENCE`], until nobody looks for any more.
async fn fence(mut last_seen: watch::Receiver<Instant>, there: watch::Sender<bool>) {
    loop {
        let until = *last_seen.borrow_and_update() + FENCE;
        tokio::select! {
            changed = last_seen.changed() => {
                if changed.is_err() {
                    return;
                }
                if !there.send_replace(true) {
                    tracing::info!("the database knows of this node again");
                }
            }
            () = sleep_until(until.into()), if *there.borrow() => {
                tracing::error!("the database may not know of this node any more; nothing is sent until it does");
                there.send_replace(false);
            }
        }
    }
}

/// What keeps the lock.
struct Keeper {
    options: PgConnectOptions,
    key: i64,
    connection: Option<PgConnection>,
    others: Arc<KeyedConnections>,
    seen: watch::Sender<Instant>,
}

impl Keeper {
    /// Keeps the lock until `stopped`, which happens too when the [`Presence`] is dropped.
    async fn keep(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = sleep(BEAT) => {}
            }
            // What was seen was so when it was asked for.
            let asked_at = Instant::now();
            if self.beat().await {
                self.seen.send_replace(asked_at);
            }
        }
        if let Some(connection) = self.connection
            && let Ok(Err(error)) = timeout(BEAT_TIME, give_back(connection)).await
        {
            tracing::debug!(error = %error, "the presence lock was not given back in form");
        }
    }

    /// Whether the server knows of this node.
    async fn beat(&mut self) -> bool {
        if let Some(held) = &mut self.connection {
            if let Ok(Ok(_)) = timeout(BEAT_TIME, held.execute("SELECT 1")).await {
                return true;
            }
            tracing::warn!("the presence lock's connection broke; taking it again");
        }
        // Refused while the server still believes in the old connection.
        self.connection = try_take(&self.options, self.key).await.unwrap_or_default();
        self.connection.is_some() || matches!(timeout(BEAT_TIME, self.another_says_so()).await, Ok(Ok(true)))
    }

    async fn another_says_so(&self) -> Result<bool, sqlx::Error> {
        let mut connection = self.others.take().await?;
        let says_so = sqlx::query_scalar(SAYS_SO).fetch_one(&mut *connection).await?;
        self.others.keep(connection);
        Ok(says_so)
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

    #[test]
    fn a_node_is_gone_once_it_has_seemed_so_for_longer_than_it_takes_to_notice_that_itself() {
        assert!(GRACE >= FENCE + BEAT, "the last sign of it came a beat before its locks were free");
        let (absences, start) = (Absences::default(), Instant::now());
        let [a, b] = ["node-a", "node-b"].map(str::to_owned);
        let both = [a.clone(), b.clone()];
        assert_eq!(absences.confirm(&both, start), [""; 0]);
        assert_eq!(absences.confirm(&both[..1], start + GRACE / 2), [""; 0], "b is back");
        assert_eq!(absences.confirm(&both, start + GRACE), [a]);
        assert_eq!(absences.confirm(&both[1..], start + GRACE * 3 / 2), [""; 0], "a is back");
        assert_eq!(absences.confirm(&both[1..], start + 2 * GRACE), [b]);
        assert_eq!(absences.confirm(&both[1..], start + 4 * GRACE), [""; 0], "nobody has looked for a while");
    }
}
