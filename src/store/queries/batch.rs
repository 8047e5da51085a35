//! What the writer commits: events with their deliveries, attempts with their results, many at a time.
//!
//! **Invariants**: one statement per table and bucket; written twice, a batch leaves the same rows and gets the same
//! answers, because its first answer may have been lost with the connection; rows are written in one order (provider,
//! delivery id), so that two nodes with the same webhooks wait for each other and never in a circle.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use sqlx::Row as _;

use super::{Conn, deliveries, list, query, row_statement::RowStatement, text};
use crate::{
    model::{event::EventOutcome, ids::EventId},
    store::{
        Accepted, AttemptRecord, NewDelivery,
        writer::{Batch, PreparedEvent},
    },
};

pub(in super::super) const FIND_DUPLICATE: &str =
    "SELECT id FROM gw_events WHERE provider_delivery_id = $1 AND provider = $2";

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

    let written = insert_events(conn, &judged).await?;
    let mut fresh: Vec<&NewDelivery> = Vec::new();
    for judged in judged.iter().filter(|judged| !judged.is_dropped()) {
        if written.get(judged.event.new.event.id.as_str()).is_some_and(|written| !written.has_deliveries) {
            fresh.extend(&judged.event.new.deliveries);
        }
    }
    deliveries::insert(conn, &fresh).await?;

    let mut answers = Vec::with_capacity(events.len());
    for event in events {
        answers.push(match written.get(event.new.event.id.as_str()) {
            Some(written) => Some(Accepted::New { possible_replay: written.possible_replay }),
            None => find_duplicate(conn, event).await?,
        });
    }
    Ok(answers)
}

fn key(event: &PreparedEvent) -> (&str, &str) {
    let event = &event.new.event;
    (event.provider.as_str(), event.provider_delivery_id.as_str())
}

/// Ends at the first other delivery id: how many copies of a body there are must not matter.
macro_rules! seen_elsewhere {
    ($digest:literal, $provider:literal, $delivery_id:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM gw_events e WHERE e.body_digest = ",
            $digest,
            " AND e.provider = ",
            $provider,
            " AND e.provider_delivery_id <> ",
            $delivery_id,
            ")"
        )
    };
}

/// The question for one event, for whoever wants its plan.
pub(in super::super) const FIND_REPLAY: &str = concat!("SELECT ", seen_elsewhere!("$1", "$2", "$3"));

static FIND_REPLAYS: RowStatement = RowStatement::new(
    "SELECT v.column4 FROM",
    4,
    concat!("AND ", seen_elsewhere!("v.column1", "v.column2", "v.column3")),
);

/// Which events' bodies were seen under another delivery id: earlier in the batch, or in the database.
async fn find_replays(conn: &mut Conn, events: &[&PreparedEvent]) -> Result<HashSet<usize>, sqlx::Error> {
    let with_digests: Vec<(usize, &[u8; 16], &str, Cow<'_, str>)> = events
        .iter()
        .enumerate()
        .filter_map(|(index, event)| {
            let (provider, delivery_id) = key(event);
            Some((index, event.new.body_digest.as_ref()?, provider, text(delivery_id)))
        })
        .collect();
    let mut replays = HashSet::new();
    let finding = FIND_REPLAYS.queries(&with_digests, |row, (index, digest, provider, delivery_id)| {
        row.bind(digest.as_slice())
            .bind(*provider)
            .bind(&**delivery_id)
            .bind(i64::try_from(*index).unwrap_or(i64::MAX));
    });
    for finding in finding {
        for row in finding?.fetch_all(&mut *conn).await? {
            replays.extend(usize::try_from(row.try_get::<i64, _>(0)?));
        }
    }
    // Delivery ids of each body in this batch.
    let mut seen: HashMap<(&str, &[u8; 16]), HashSet<&str>> = HashMap::new();
    for (index, digest, provider, delivery_id) in &with_digests {
        let seen = seen.entry((provider, digest)).or_default();
        // Of a duplicate this says nothing, and nothing is asked: it is not inserted.
        if seen.iter().any(|id| *id != &**delivery_id) {
            replays.insert(*index);
        }
        seen.insert(delivery_id);
    }
    Ok(replays)
}

static INSERT_EVENTS: RowStatement = RowStatement::new(
    "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, event_key, installation_id, org_id, external_id, \
     resources, outcome, reason, possible_replay, held, received_at, correlation_id, trace_id, content_type, headers, \
     decision, body_digest, payload_encoding, payload_bytes, payload) SELECT * FROM",
    23,
    "ON CONFLICT (provider_delivery_id, provider) DO NOTHING",
);

/// What of these events is in the table: asked only when one of them was not inserted.
static FIND_EVENTS: RowStatement = RowStatement::new(
    "SELECT e.id, e.possible_replay, EXISTS (SELECT 1 FROM gw_deliveries d WHERE d.event_id = e.id) FROM gw_events e \
     WHERE e.id IN (SELECT v.column1 FROM",
    1,
    ")",
);

/// An event that is in the table, under its own id.
struct Written {
    possible_replay: bool,
    /// Its deliveries are there as well: the batch is written again, and was committed the first time.
    has_deliveries: bool,
}

/// Inserts the events; answers what is in the table now, by id. Counting is cheaper than having every id returned, row by
/// row.
async fn insert_events<'e>(
    conn: &mut Conn,
    events: &'e [Judged<'_>],
) -> Result<HashMap<Cow<'e, str>, Written>, sqlx::Error> {
    let count = INSERT_EVENTS
        .execute(conn, events, |row, judged| {
            let (new, payload) = (&judged.event.new, &judged.event.payload);
            let event = &new.event;
            let (outcome, reason) = if judged.is_dropped() {
                (EventOutcome::Filtered, Some(POSSIBLE_REPLAY))
            } else {
                (event.outcome, event.reason.as_deref())
            };
            let owned = |value: &str| text(value).into_owned();
            row.bind(event.id.as_str())
                .bind(event.provider.as_str())
                .bind(&*text(event.provider_delivery_id.as_str()))
                .bind(&*text(&event.wire_type))
                .bind(event.key.as_ref().map(|key| owned(key.as_str())))
                .bind(event.installation.as_ref().map(|id| owned(id.as_str())))
                .bind(event.org.as_ref().map(|org| owned(org.as_str())))
                .bind(event.external_id.as_ref().map(|id| owned(id.as_str())))
                .bind(list(event.resources.iter().map(crate::model::provider::ProviderResourceId::as_str)))
                .bind(outcome.as_str())
                .bind(reason.map(owned))
                .bind(judged.possible_replay)
                .bind(event.held && !judged.is_dropped())
                .bind(event.received_at.0)
                .bind(&*text(&event.correlation_id))
                .bind(event.trace_id.as_deref())
                .bind(new.content_type.as_deref().map(owned))
                .bind(&*text(&new.headers))
                .bind(&*text(&new.decision))
                .bind(new.body_digest.map(Vec::from))
                .bind(payload.encoding)
                .bind(i64::try_from(payload.original_bytes).unwrap_or(i64::MAX))
                .bind(&*payload.stored);
        })
        .await?;
    if usize::try_from(count).is_ok_and(|count| count == events.len()) {
        let written = events.iter().map(|judged| {
            let id = Cow::Borrowed(judged.event.new.event.id.as_str());
            (id, Written { possible_replay: judged.possible_replay, has_deliveries: false })
        });
        return Ok(written.collect());
    }
    let mut found = HashMap::with_capacity(events.len());
    for finding in FIND_EVENTS.queries(events, |row, judged| _ = row.bind(judged.event.new.event.id.as_str())) {
        for row in finding?.fetch_all(&mut *conn).await? {
            let written = Written { possible_replay: row.try_get(1)?, has_deliveries: row.try_get(2)? };
            found.insert(Cow::Owned(row.try_get(0)?), written);
        }
    }
    Ok(found)
}

/// The answer to an event that was not inserted.
async fn find_duplicate(conn: &mut Conn, event: &PreparedEvent) -> Result<Option<Accepted>, sqlx::Error> {
    let (provider, delivery_id) = key(event);
    let found = query(FIND_DUPLICATE).bind(&*text(delivery_id)).bind(provider);
    let Some(row) = found.fetch_optional(&mut *conn).await? else { return Ok(None) };
    Ok(Some(Accepted::Duplicate { of: EventId::from_raw(row.try_get::<&str, _>(0)?) }))
}

static INSERT_ATTEMPTS: RowStatement = RowStatement::new(
    "INSERT INTO gw_attempts (delivery_id, id, number, started_at, duration_ms, result, status_code, error, \
     response_body) SELECT * FROM",
    9,
    "ON CONFLICT (delivery_id, id) DO NOTHING",
);

async fn write_attempts(conn: &mut Conn, records: &[&AttemptRecord]) -> Result<(), sqlx::Error> {
    INSERT_ATTEMPTS
        .execute(conn, records, |row, record| {
            let attempt = &record.attempt;
            row.bind(attempt.delivery.as_str())
                .bind(attempt.id.as_str())
                .bind(i64::from(attempt.number))
                .bind(attempt.started_at.0)
                .bind(i64::from(attempt.duration_ms))
                .bind(attempt.result.as_str())
                .bind(attempt.status_code.map(i64::from))
                .bind(attempt.error.as_deref().map(|error| text(error).into_owned()))
                .bind(attempt.response_body.as_deref().map(|body| text(body).into_owned()));
        })
        .await?;
    Ok(())
}

/// What is set, of a row `v` that says what became of a delivery.
macro_rules! set_results {
    () => {
        "UPDATE gw_deliveries SET status = v.column3, reason = v.column4, attempts = v.column5, is_retry = true, \
         due_at = v.column6, finished_at = v.column7, lease_owner = NULL FROM"
    };
}
/// The status is compared in a way that no partial index can be used for: there is one of what is pending, a planner that
/// knows nothing of the table takes it for short, and would go through a whole backlog for each batch.
macro_rules! of_deliveries {
    () => {
        "AND gw_deliveries.id = v.column1 AND gw_deliveries.status || '' = 'pending' \
         AND (gw_deliveries.attempts = v.column5 - 1 AND gw_deliveries.attempts_before_retry = v.column8 \
             OR v.column3 = 'delivered') \
         AND (gw_deliveries.lease_owner = v.column2 OR gw_deliveries.lease_owner IS NULL)"
    };
}

/// The statement of results with one row, for whoever wants its plan.
pub(in super::super) const SET_RESULT: &str = concat!(
    set_results!(),
    " (SELECT CAST($1 AS TEXT) AS column1, CAST($2 AS TEXT) AS column2, CAST($3 AS TEXT) AS column3, \
     CAST($4 AS TEXT) AS column4, CAST($5 AS BIGINT) AS column5, CAST($6 AS BIGINT) AS column6, \
     CAST($7 AS BIGINT) AS column7, CAST($8 AS BIGINT) AS column8) AS v WHERE v.column1 IS NOT NULL ",
    of_deliveries!()
);

static SET_RESULTS: RowStatement = RowStatement::new(set_results!(), 8, of_deliveries!());

/// Sets the deliveries' new state: of those their owner still holds, and of those that nobody holds (their lease was given
/// up while the attempt was under way; what it found out is true all the same). A failure counts only if it is that of the
/// attempt that comes next: written again, late, it must not take the lease of the attempt after it, nor undo a retry.
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
    SET_RESULTS
        .execute(conn, &newest, |row, (id, record)| {
            row.bind(*id)
                .bind(&*text(&record.owner))
                .bind(record.status.as_str())
                .bind(record.reason.as_deref().map(|reason| text(reason).into_owned()))
                .bind(i64::from(record.attempt.number))
                .bind(record.due_at.0)
                .bind(record.finished_at.map(|at| at.0))
                .bind(i64::from(record.attempts_before_retry));
        })
        .await?;
    Ok(())
}
