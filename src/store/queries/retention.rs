//! Retention: expired rows go, a few at a time.
//!
//! An event's age is that of its id, which is when it arrived: ids are the primary key and begin with their time. The
//! service path may name an older `received_at`; what it brings is kept as long as anything that arrives now.

use super::{Fields, Session, id_floor, list, query};
use crate::{
    model::{
        activity::MINUTE_MS,
        ids::{BackfillRunId, DeliveryId, EventId, HealRunId, LogId},
    },
    store::{Deleted, RetentionCutoffs, StoreResult},
};

/// Minutes of activity deleted at once. Retention looks once a minute at least, so that none is left behind.
const MINUTES_AT_ONCE: i64 = 10;

/// Old events without an open or dead delivery.
const EXPIRED_EVENTS: &str = "SELECT e.id FROM gw_events e WHERE e.id < $1 AND NOT EXISTS (SELECT 1 \
     FROM gw_deliveries d WHERE d.event_id = e.id AND d.status <> 'delivered') ORDER BY e.id LIMIT $2";

/// Events of old dead letters. What died before the cutoff was made before it: that bound ends the scan.
const EXPIRED_DEAD_LETTERS: &str = "SELECT d.event_id FROM gw_deliveries d WHERE d.status = 'dead' AND d.id < $1 \
     AND d.finished_at < $2 AND NOT EXISTS (SELECT 1 FROM gw_deliveries o WHERE o.event_id = d.event_id \
         AND (o.status IN ('pending', 'held') OR (o.status = 'dead' AND o.finished_at >= $2))) \
     ORDER BY d.id LIMIT $3";

const LOCK: &str = concat!("SELECT id FROM gw_events WHERE id", in_list!("$1"), for_update!());

/// Of the locked events, those that nobody gave an open delivery meanwhile (a replay, a retry: they take that lock).
const STILL_EXPIRED: &str = concat!(
    "SELECT e.id FROM gw_events e WHERE e.id",
    in_list!("$1"),
    " AND NOT EXISTS (SELECT 1 FROM gw_deliveries d WHERE d.event_id = e.id AND d.status IN ('pending', 'held'))"
);

const DELETE_ATTEMPTS: &str = concat!(
    "DELETE FROM gw_attempts WHERE delivery_id IN (SELECT d.id FROM gw_deliveries d WHERE d.event_id",
    in_list!("$1"),
    ")"
);
const DELETE_DELIVERIES: &str = concat!("DELETE FROM gw_deliveries WHERE event_id", in_list!("$1"));
const DELETE_EVENTS: &str = concat!("DELETE FROM gw_events WHERE id", in_list!("$1"));

const DELETE_QUARANTINED: &str = "DELETE FROM gw_quarantine WHERE id IN \
     (SELECT id FROM gw_quarantine WHERE last_at < $1 ORDER BY id LIMIT $2)";
const DELETE_LOG: &str =
    "DELETE FROM gw_lifecycle_log WHERE id IN (SELECT id FROM gw_lifecycle_log WHERE id < $1 ORDER BY id LIMIT $2)";

/// Asked again after the lock: a flow that ended meanwhile is kept for its result.
pub(super) const DELETE_FLOWS: &str = "DELETE FROM gw_oauth_states WHERE expires_at < $1 AND state_hash IN \
     (SELECT state_hash FROM gw_oauth_states WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";
/// What was counted goes by whole minutes, the oldest few at a time.
pub(super) const DELETE_ACTIVITY: &str = "DELETE FROM gw_activity WHERE minute < $1 \
     AND minute < (SELECT MIN(oldest.minute) FROM gw_activity oldest) + $2";

const DELETE_BACKFILL_RUNS: &str = "DELETE FROM gw_backfill_runs WHERE id IN (SELECT id FROM gw_backfill_runs \
     WHERE id < $1 AND status NOT IN ('pending', 'running') ORDER BY id LIMIT $2)";
const DELETE_HEAL_RUNS: &str = "DELETE FROM gw_heal_runs WHERE id IN (SELECT id FROM gw_heal_runs \
     WHERE id < $1 AND status <> 'running' ORDER BY id LIMIT $2)";

/// Events that may go. Reads only: skipping what is open or dead may take a while, and the writer is needed elsewhere.
pub(crate) async fn find_expired(
    db: &mut Session<'_>,
    cutoffs: &RetentionCutoffs,
    limit: u32,
) -> StoreResult<Vec<String>> {
    let found = query(EXPIRED_EVENTS).bind(id_floor(EventId::PREFIX, cutoffs.events)).bind(i64::from(limit));
    let mut rows = found.fetch_all(&mut *db.conn).await?;
    let found = query(EXPIRED_DEAD_LETTERS)
        .bind(id_floor(DeliveryId::PREFIX, cutoffs.dead_letters))
        .bind(cutoffs.dead_letters.0)
        .bind(i64::from(limit));
    rows.append(&mut found.fetch_all(&mut *db.conn).await?);
    let mut expired: Vec<String> = rows.iter().map(|row| Fields::new(row).get()).collect::<StoreResult<_>>()?;
    expired.sort_unstable();
    expired.dedup();
    expired.truncate(limit as usize);
    Ok(expired)
}

/// Deletes those events, if they may still go, and expired rows of the other kinds.
pub(crate) async fn delete(
    db: &mut Session<'_>,
    expired: &[String],
    cutoffs: &RetentionCutoffs,
    limit: u32,
) -> StoreResult<Deleted> {
    let limit = i64::from(limit);
    let events = if expired.is_empty() { 0 } else { delete_events(db, expired).await? };
    let quarantined = query(DELETE_QUARANTINED).bind(cutoffs.quarantine.0).bind(limit);
    let quarantined = quarantined.execute(&mut *db.conn).await?.rows_affected();
    let log_entries = query(DELETE_LOG).bind(id_floor(LogId::PREFIX, cutoffs.log)).bind(limit);
    let log_entries = log_entries.execute(&mut *db.conn).await?.rows_affected();
    let flows = query(DELETE_FLOWS).bind(cutoffs.flows.0).bind(limit);
    let flows = flows.execute(&mut *db.conn).await?.rows_affected();
    query(DELETE_ACTIVITY).bind(cutoffs.activity.0 / MINUTE_MS).bind(MINUTES_AT_ONCE).execute(&mut *db.conn).await?;
    let mut runs = 0;
    for (sql, prefix) in [(DELETE_BACKFILL_RUNS, BackfillRunId::PREFIX), (DELETE_HEAL_RUNS, HealRunId::PREFIX)] {
        let ended = query(sql).bind(id_floor(prefix, cutoffs.log)).bind(limit);
        runs += ended.execute(&mut *db.conn).await?.rows_affected();
    }
    Ok(Deleted { events, quarantined, log_entries, flows, runs })
}

async fn delete_events(db: &mut Session<'_>, expired: &[String]) -> StoreResult<u64> {
    let candidates = list(expired.iter().map(String::as_str));
    query(LOCK).bind(&candidates).fetch_all(&mut *db.conn).await?;
    let rows = query(STILL_EXPIRED).bind(&candidates).fetch_all(&mut *db.conn).await?;
    let doomed: Vec<String> = rows.iter().map(|row| Fields::new(row).get()).collect::<StoreResult<_>>()?;
    let doomed = list(doomed.iter().map(String::as_str));
    query(DELETE_ATTEMPTS).bind(&doomed).execute(&mut *db.conn).await?;
    query(DELETE_DELIVERIES).bind(&doomed).execute(&mut *db.conn).await?;
    Ok(query(DELETE_EVENTS).bind(&doomed).execute(&mut *db.conn).await?.rows_affected())
}
