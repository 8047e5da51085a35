//! Retention: expired rows go, a few at a time.
//!
//! An event's age is that of its id, which is when it arrived: ids are the primary key and begin with their time. The
//! service path may name an older `received_at`; what it brings is kept as long as anything that arrives now.
//!
//! Dead letters have an age of their own. A longer one keeps their events, so that there may be any number of old events
//! that stay; with a shorter one they go before their event, which stays with its body and its other deliveries.
//! **Invariants**: one pass looks at a bounded number of events, and says where the next one goes on.

use super::{Fields, Session, id_floor, list, query, text};
use crate::{
    model::{
        activity::MINUTE_MS,
        ids::{BackfillRunId, EventId, HealRunId, LogId},
    },
    store::{Deleted, RetentionCutoffs, StoreResult},
};

/// Old events that one pass looks at, so many at a time: some ten milliseconds.
const LOOKS: usize = 50;
const EVENTS_AT_ONCE: u32 = 100;
/// A pass that finds so many deliveries ends there: it deletes them in one transaction, each with its attempts.
const DELIVERIES_A_PASS: i64 = 5_000;

/// Minutes of activity deleted at once. Retention looks once a minute at least, so that none is left behind.
const MINUTES_AT_ONCE: i64 = 10;

/// The deliveries of an event that keep it: open ones, and dead letters that have not expired.
macro_rules! deliveries_that_keep_it {
    ($dead_letters:literal) => {
        concat!(
            "gw_deliveries d WHERE d.event_id = e.id AND d.status <> 'delivered' \
             AND (d.status <> 'dead' OR d.finished_at >= ",
            $dead_letters,
            ")"
        )
    };
}

/// Old events, with how many deliveries they have, how many of those are open or dead, and how many of those keep their
/// event. Counted, because PostgreSQL reads a whole table of deliveries once for what it can turn into a join.
const LOOK_AT_EVENTS: &str = concat!(
    "SELECT e.id, (SELECT COUNT(*) FROM gw_deliveries d WHERE d.event_id = e.id), \
     (SELECT COUNT(*) FROM gw_deliveries d WHERE d.event_id = e.id AND d.status <> 'delivered'), \
     (SELECT COUNT(*) FROM ",
    deliveries_that_keep_it!("$1"),
    ") FROM gw_events e WHERE e.id > $2 AND e.id < $3 ORDER BY e.id LIMIT $4"
);

/// Why a routed event has no delivery.
const DEAD_LETTERS_EXPIRED: &str = "dead_letters_expired";

const LOCK: &str = concat!("SELECT id FROM gw_events WHERE id", in_list!("$1"), for_update!());

/// Of the locked events, those that nobody gave an open delivery meanwhile (a replay, a retry: they take that lock), nor one
/// that has died since.
const STILL_EXPIRED: &str = concat!(
    "SELECT e.id FROM gw_events e WHERE e.id",
    in_list!("$1"),
    " AND NOT EXISTS (SELECT 1 FROM ",
    deliveries_that_keep_it!("$2"),
    ")"
);

const DELETE_ATTEMPTS: &str = concat!(
    "DELETE FROM gw_attempts WHERE delivery_id IN (SELECT d.id FROM gw_deliveries d WHERE d.event_id",
    in_list!("$1"),
    ")"
);
const DELETE_DELIVERIES: &str = concat!("DELETE FROM gw_deliveries WHERE event_id", in_list!("$1"));
const DELETE_EVENTS: &str = concat!("DELETE FROM gw_events WHERE id", in_list!("$1"));

const DELETE_DEAD_ATTEMPTS: &str = concat!(
    "DELETE FROM gw_attempts WHERE delivery_id IN (SELECT d.id FROM gw_deliveries d WHERE d.event_id",
    in_list!("$1"),
    " AND d.status = 'dead' AND d.finished_at < $2)"
);
const DELETE_DEAD: &str =
    concat!("DELETE FROM gw_deliveries WHERE event_id", in_list!("$1"), " AND status = 'dead' AND finished_at < $2");
const SAY_WHY_NOTHING_IS_LEFT: &str = concat!(
    "UPDATE gw_events SET reason = $2 WHERE id",
    in_list!("$1"),
    " AND NOT EXISTS (SELECT 1 FROM gw_deliveries d WHERE d.event_id = gw_events.id)"
);

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

/// What may go of the events that one pass looked at.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// Events with all they have.
    events: Vec<String>,
    /// Events that stay, without dead letters of theirs.
    with_dead_letters: Vec<String>,
}

impl Expired {
    pub(crate) fn len(&self) -> usize {
        self.events.len() + self.with_dead_letters.len()
    }
}

/// What may go of the events after that one, oldest first, and the last one looked at, if there may be more behind it.
/// Reads only: the writer is needed elsewhere.
pub(crate) async fn find_expired_events(
    db: &mut Session<'_>,
    cutoffs: &RetentionCutoffs,
    after: Option<&EventId>,
    limit: u32,
) -> StoreResult<(Expired, Option<EventId>)> {
    let old = id_floor(EventId::PREFIX, cutoffs.events);
    // An event is not younger than what died of it.
    let last = id_floor(EventId::PREFIX, cutoffs.events.max(cutoffs.dead_letters));
    let (mut expired, mut deliveries) = (Expired::default(), 0);
    let mut looked_at = after.cloned();
    for _look in 0..LOOKS {
        let rows = query(LOOK_AT_EVENTS)
            .bind(cutoffs.dead_letters.0)
            .bind(&*text(looked_at.as_ref().map_or("", EventId::as_str)))
            .bind(&*last)
            .bind(i64::from(EVENTS_AT_ONCE))
            .fetch_all(&mut *db.conn)
            .await?;
        for row in &rows {
            let mut fields = Fields::new(row);
            let id: String = fields.get()?;
            let (all, undelivered, keeping): (i64, i64, i64) = (fields.get()?, fields.get()?, fields.get()?);
            looked_at = Some(EventId::from_raw(id.as_str()));
            if keeping == 0 && id < old {
                expired.events.push(id);
                deliveries += all;
            } else if undelivered > keeping {
                expired.with_dead_letters.push(id);
                deliveries += undelivered - keeping;
            }
            if expired.len() >= limit as usize || deliveries >= DELIVERIES_A_PASS {
                return Ok((expired, looked_at));
            }
        }
        if rows.len() < EVENTS_AT_ONCE as usize {
            return Ok((expired, None));
        }
    }
    Ok((expired, looked_at))
}

/// Deletes expired rows of the other kinds.
pub(crate) async fn delete(db: &mut Session<'_>, cutoffs: &RetentionCutoffs, limit: u32) -> StoreResult<Deleted> {
    let limit = i64::from(limit);
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
    Ok(Deleted { quarantined, log_entries, flows, runs })
}

/// Deletes what was found, if it may still go; how many events.
pub(crate) async fn delete_events(
    db: &mut Session<'_>,
    cutoffs: &RetentionCutoffs,
    expired: &Expired,
) -> StoreResult<u64> {
    let staying = list(expired.with_dead_letters.iter().map(String::as_str));
    let candidates = list(expired.events.iter().chain(&expired.with_dead_letters).map(String::as_str));
    query(LOCK).bind(&candidates).fetch_all(&mut *db.conn).await?;
    if !expired.with_dead_letters.is_empty() {
        for sql in [DELETE_DEAD_ATTEMPTS, DELETE_DEAD] {
            query(sql).bind(&staying).bind(cutoffs.dead_letters.0).execute(&mut *db.conn).await?;
        }
        query(SAY_WHY_NOTHING_IS_LEFT).bind(&staying).bind(DEAD_LETTERS_EXPIRED).execute(&mut *db.conn).await?;
    }
    let candidates = list(expired.events.iter().map(String::as_str));
    let rows = query(STILL_EXPIRED).bind(&candidates).bind(cutoffs.dead_letters.0).fetch_all(&mut *db.conn).await?;
    let doomed: Vec<String> = rows.iter().map(|row| Fields::new(row).get()).collect::<StoreResult<_>>()?;
    let doomed = list(doomed.iter().map(String::as_str));
    query(DELETE_ATTEMPTS).bind(&doomed).execute(&mut *db.conn).await?;
    query(DELETE_DELIVERIES).bind(&doomed).execute(&mut *db.conn).await?;
    Ok(query(DELETE_EVENTS).bind(&doomed).execute(&mut *db.conn).await?.rows_affected())
}
