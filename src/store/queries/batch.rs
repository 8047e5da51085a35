//! What the writer commits: events with their deliveries, attempts with their results, many at a time.
//!
//! **Invariants**: one statement per table and bucket; written twice, a batch leaves the same rows and gets the same
//! answers, because its first answer may have been lost with the connection; rows are written in one order (provider,
//! delivery id), so that two nodes with the same webhooks wait for each other and never in a circle.

use std::collections::{HashMap, HashSet};

use sqlx::Row as _;

use super::{BUCKETS, Builder, Conn, buckets, deliveries, list, query, text};
use crate::{
    model::{event::EventOutcome, ids::EventId},
    store::{
        Accepted, AttemptRecord, NewDelivery,
        writer::{Batch, PreparedEvent},
    },
};

pub(in super::super) const FIND_DUPLICATE: &str =
    "SELECT id, possible_replay FROM gw_events WHERE provider_delivery_id = $1 AND provider = $2";

/// The reason of an event that was filtered because its body was seen before.
const POSSIBLE_REPLAY: &str = "possible_replay";

/// Writes a batch within the transaction that `conn` is in.
pub(crate) async fn write(conn: &mut Conn, batch: &Batch<'_>) -> Result<Vec<Option<Accepted>>, sqlx::Error> {
    let answers = if batch.events.is_empty() { Vec::new() } else { write_events(conn, &batch.events).await? };
    if !batch.attempts.is_empty() {
        write_attempts(conn, &batch.attempts).await?;
        write_results(conn, &batch.attempts).await?;
    }
    Ok(answers)
}

/// An event and whether its body was seen before.
struct Judged<'a> {
    event: &'a PreparedEvent,
    possible_replay: bool,
}

impl Judged<'_> {
    fn is_dropped(&self) -> bool {
        self.possible_replay && self.event.new.drop_possible_replay
    }
}

async fn write_events(conn: &mut Conn, events: &[&PreparedEvent]) -> Result<Vec<Option<Accepted>>, sqlx::Error> {
    let replays = find_replays(conn, events).await?;
    let mut judged: Vec<Judged<'_>> = events
        .iter()
        .enumerate()
        .map(|(index, event)| Judged { event, possible_replay: replays.contains(&index) })
        .collect();
    // Stable: of two copies in one batch, the one that came first is stored.
    judged.sort_by(|a, b| key(a.event).cmp(&key(b.event)));

    let mut inserted: HashSet<String> = HashSet::with_capacity(judged.len());
    for bucket in buckets(&judged) {
        inserted.extend(insert_events(conn, bucket).await?);
    }
    let mut fresh: Vec<&NewDelivery> = Vec::new();
    for judged in judged.iter().filter(|judged| inserted.contains(judged.event.new.event.id.as_str())) {
        if !judged.is_dropped() {
            fresh.extend(&judged.event.new.deliveries);
        }
    }
    deliveries::insert(conn, &fresh).await?;

    let mut answers = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        answers.push(if inserted.contains(event.new.event.id.as_str()) {
            Some(Accepted::New { possible_replay: replays.contains(&index) })
        } else {
            find_duplicate(conn, event).await?
        });
    }
    Ok(answers)
}

fn key(event: &PreparedEvent) -> (&str, &str) {
    let event = &event.new.event;
    (event.provider.as_str(), event.provider_delivery_id.as_str())
}

/// Which events' bodies were seen under another delivery id: earlier in the batch, or in the database.
async fn find_replays(conn: &mut Conn, events: &[&PreparedEvent]) -> Result<HashSet<usize>, sqlx::Error> {
    // Delivery ids known for each body.
    let mut seen: HashMap<(String, Vec<u8>), Vec<String>> = HashMap::new();
    let digests: Vec<&[u8; 16]> = events.iter().filter_map(|event| event.new.body_digest.as_ref()).collect();
    for bucket in buckets(&digests) {
        // Two of the delivery ids are enough to tell that there is another one.
        let mut sql = Builder::new(
            "SELECT provider, body_digest, MIN(provider_delivery_id), MAX(provider_delivery_id) FROM gw_events \
             WHERE body_digest IN (",
        );
        let mut wanted = sql.separated(", ");
        for digest in bucket {
            wanted.push_bind(digest.as_slice());
        }
        for row in sql.push(") GROUP BY provider, body_digest").build().fetch_all(&mut *conn).await? {
            let body = (row.try_get::<String, _>(0)?, row.try_get::<Vec<u8>, _>(1)?);
            seen.entry(body).or_default().extend([row.try_get(2)?, row.try_get(3)?]);
        }
    }
    let mut replays = HashSet::new();
    for (index, event) in events.iter().enumerate() {
        let Some(digest) = event.new.body_digest else { continue };
        let (provider, delivery_id) = key(event);
        let delivery_id = text(delivery_id);
        let known = seen.entry((provider.to_owned(), digest.to_vec())).or_default();
        // Of a duplicate this says nothing, and nothing is asked: it is not inserted.
        if known.iter().any(|id| *id != *delivery_id) {
            replays.insert(index);
        }
        known.push(delivery_id.into_owned());
    }
    Ok(replays)
}

async fn insert_events(conn: &mut Conn, events: &[Judged<'_>]) -> Result<Vec<String>, sqlx::Error> {
    let mut sql = Builder::new(
        "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, event_key, installation_id, org_id, \
         external_id, resources, outcome, reason, possible_replay, held, received_at, correlation_id, trace_id, \
         content_type, headers, decision, body_digest, payload_encoding, payload_bytes, payload) ",
    );
    sql.push_values(events, |mut row, judged| {
        let (new, payload) = (&judged.event.new, &judged.event.payload);
        let event = &new.event;
        let (outcome, reason) = if judged.is_dropped() {
            (EventOutcome::Filtered, Some(POSSIBLE_REPLAY))
        } else {
            (event.outcome, event.reason.as_deref())
        };
        let owned = |value: &str| text(value).into_owned();
        row.push_bind(event.id.as_str())
            .push_bind(event.provider.as_str())
            .push_bind(&*text(event.provider_delivery_id.as_str()))
            .push_bind(&*text(&event.wire_type))
            .push_bind(event.key.as_ref().map(|key| owned(key.as_str())))
            .push_bind(event.installation.as_ref().map(|id| owned(id.as_str())))
            .push_bind(event.org.as_ref().map(|org| owned(org.as_str())))
            .push_bind(event.external_id.as_ref().map(|id| owned(id.as_str())))
            .push_bind(list(event.resources.iter().map(crate::model::provider::ProviderResourceId::as_str)))
            .push_bind(outcome.as_str())
            .push_bind(reason.map(owned))
            .push_bind(judged.possible_replay)
            .push_bind(event.held && !judged.is_dropped())
            .push_bind(event.received_at.0)
            .push_bind(&*text(&event.correlation_id))
            .push_bind(event.trace_id.as_deref())
            .push_bind(new.content_type.as_deref().map(owned))
            .push_bind(&*text(&new.headers))
            .push_bind(&*text(&new.decision))
            .push_bind(new.body_digest.map(Vec::from))
            .push_bind(payload.encoding)
            .push_bind(i64::try_from(payload.original_bytes).unwrap_or(i64::MAX))
            .push_bind(&*payload.stored);
    });
    sql.push(" ON CONFLICT (provider_delivery_id, provider) DO NOTHING RETURNING id");
    let rows = sql.build().fetch_all(&mut *conn).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The answer to an event that was not inserted.
async fn find_duplicate(conn: &mut Conn, event: &PreparedEvent) -> Result<Option<Accepted>, sqlx::Error> {
    let (provider, delivery_id) = key(event);
    let found = query(FIND_DUPLICATE).bind(&*text(delivery_id)).bind(provider);
    let Some(row) = found.fetch_optional(&mut *conn).await? else { return Ok(None) };
    let id: &str = row.try_get(0)?;
    Ok(Some(if id == event.new.event.id.as_str() {
        // It is this very event: it was committed before, and the answer got lost.
        Accepted::New { possible_replay: row.try_get(1)? }
    } else {
        Accepted::Duplicate { of: EventId::from_raw(id) }
    }))
}

/// The least bucket that holds so many records. Attempts are written in statements of few sizes, so that each is
/// prepared once, and what a record does not fill is NULL: one statement costs more than the rows it writes.
fn padded(records: usize) -> usize {
    BUCKETS.into_iter().rev().find(|size| records <= *size).unwrap_or(BUCKETS[0])
}

/// Records in the largest buckets, the last one filled up.
fn padded_buckets<T>(records: &[T]) -> impl Iterator<Item = impl Iterator<Item = Option<&T>>> {
    records.chunks(BUCKETS[0]).map(|bucket| {
        let missing = padded(bucket.len()) - bucket.len();
        bucket.iter().map(Some).chain(std::iter::repeat_n(None, missing))
    })
}

async fn write_attempts(conn: &mut Conn, records: &[&AttemptRecord]) -> Result<(), sqlx::Error> {
    for bucket in padded_buckets(records) {
        let mut sql = Builder::new(
            "INSERT INTO gw_attempts (delivery_id, id, number, started_at, duration_ms, result, status_code, error, \
             response_body) SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6, v.column7, v.column8, \
             v.column9 FROM (",
        );
        sql.push_values(bucket, |mut row, record| {
            let attempt = record.map(|record| &record.attempt);
            row.push_bind(attempt.map(|attempt| attempt.delivery.as_str()))
                .push_bind(attempt.map(|attempt| attempt.id.as_str()))
                .push_bind(attempt.map(|attempt| i64::from(attempt.number)))
                .push_bind(attempt.map(|attempt| attempt.started_at.0))
                .push_bind(attempt.map(|attempt| i64::from(attempt.duration_ms)))
                .push_bind(attempt.map(|attempt| attempt.result.as_str()))
                .push_bind(attempt.and_then(|attempt| attempt.status_code).map(i64::from))
                .push_bind(attempt.and_then(|attempt| attempt.error.as_deref()).map(|error| text(error).into_owned()))
                .push_bind(
                    attempt.and_then(|attempt| attempt.response_body.as_deref()).map(|body| text(body).into_owned()),
                );
        });
        sql.push(") AS v WHERE v.column1 IS NOT NULL ON CONFLICT (delivery_id, id) DO NOTHING");
        sql.build().execute(&mut *conn).await?;
    }
    Ok(())
}

/// What is set, of a row `v` that says what became of a delivery.
macro_rules! set_results {
    () => {
        "UPDATE gw_deliveries SET status = v.column3, reason = v.column4, attempts = v.column5, is_retry = true, \
         due_at = v.column6, finished_at = v.column7, lease_owner = NULL FROM ("
    };
}
/// The status is compared in a way that no partial index can be used for: there is one of what is pending, a planner that
/// knows nothing of the table takes it for short, and would go through a whole backlog for each batch.
macro_rules! of_deliveries {
    () => {
        ") AS v WHERE gw_deliveries.id = v.column1 AND gw_deliveries.status || '' = 'pending' \
         AND (gw_deliveries.lease_owner = v.column2 \
              OR (gw_deliveries.lease_owner IS NULL AND gw_deliveries.attempts < v.column5))"
    };
}

/// The statement of results with one row, for whoever wants its plan.
pub(in super::super) const SET_RESULT: &str = concat!(
    set_results!(),
    "SELECT CAST($1 AS TEXT) AS column1, CAST($2 AS TEXT) AS column2, CAST($3 AS TEXT) AS column3, \
     CAST($4 AS TEXT) AS column4, CAST($5 AS BIGINT) AS column5, CAST($6 AS BIGINT) AS column6, \
     CAST($7 AS BIGINT) AS column7",
    of_deliveries!()
);

/// Sets the deliveries' new state: of those their owner still holds, and of those that nobody holds and that know fewer
/// attempts (their lease was given up while the attempt was under way; what it found out is true all the same).
async fn write_results(conn: &mut Conn, records: &[&AttemptRecord]) -> Result<(), sqlx::Error> {
    let mut newest: HashMap<&str, &AttemptRecord> = HashMap::with_capacity(records.len());
    for record in records {
        let known = newest.entry(record.attempt.delivery.as_str()).or_insert(record);
        if known.attempt.number < record.attempt.number {
            *known = record;
        }
    }
    let mut newest: Vec<(&str, &AttemptRecord)> = newest.into_iter().collect();
    newest.sort_unstable_by_key(|(id, _)| *id);
    for bucket in padded_buckets(&newest) {
        let mut sql = Builder::new(set_results!());
        sql.push_values(bucket, |mut row, result| {
            let record = result.map(|(_, record)| *record);
            row.push_bind(result.map(|(id, _)| *id))
                .push_bind(record.map(|record| text(&record.owner).into_owned()))
                .push_bind(record.map(|record| record.status.as_str()))
                .push_bind(record.and_then(|record| record.reason.as_deref()).map(|reason| text(reason).into_owned()))
                .push_bind(record.map(|record| i64::from(record.attempt.number)))
                .push_bind(record.map(|record| record.due_at.0))
                .push_bind(record.and_then(|record| record.finished_at).map(|at| at.0));
        });
        sql.push(of_deliveries!()).build().execute(&mut *conn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_bucket_is_filled_up_and_no_record_is_lost() {
        for (records, sizes) in [(1, vec![1]), (2, vec![4]), (5, vec![16]), (64, vec![64]), (150, vec![64, 64, 64])] {
            let numbers: Vec<usize> = (0..records).collect();
            let written: Vec<Vec<Option<&usize>>> = padded_buckets(&numbers).map(Iterator::collect).collect();
            assert_eq!(written.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            assert_eq!(written.into_iter().flatten().flatten().copied().collect::<Vec<_>>(), numbers);
        }
    }
}
