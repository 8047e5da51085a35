//! Events: found, listed, released, rerouted. They are inserted by `batch.rs`.

use std::collections::HashSet;

use bytes::Bytes;

use super::{
    Builder, Fields, PAST_EVERY_ID, Session, deliveries, event_search::RECEIVED_AHEAD_MS, id_floor, list, log,
    push_given, query, text,
};
use crate::{
    model::{
        clock::EpochMs,
        delivery::{Delivery, DeliveryStatus},
        event::Event,
        ids::{EventId, InstallationId, OrgId},
        log_entry::LogEntry,
        provider::{ProviderDeliveryId, ProviderSlug},
    },
    store::{EventDetail, Rerouting, Rhythm, StoreResult, UnroutedFilter, payload::StoredPayload},
};

const FIND: &str = concat!("SELECT ", event_columns!(), " FROM gw_events e WHERE e.id = $1");

pub(super) const FIND_BY_DELIVERY_ID: &str =
    concat!("SELECT ", event_columns!(), " FROM gw_events e WHERE e.provider_delivery_id = $1 AND e.provider = $2");

const FIND_WITH_DETAIL: &str =
    concat!("SELECT ", event_columns!(), ", e.headers, e.content_type, e.decision FROM gw_events e WHERE e.id = $1");

const FIND_BODY: &str =
    "SELECT id, content_type, payload_encoding, payload_bytes, payload FROM gw_events WHERE id = $1";

/// Each part ends at the page's length by itself: PostgreSQL would rather read and sort all of them than merge indexes.
macro_rules! unrouted_where {
    ($whose:literal, $index:literal) => {
        concat!(
            "SELECT * FROM (SELECT ",
            event_columns!(),
            " FROM gw_events e",
            by_index!($index),
            " WHERE e.outcome = 'unrouted' AND e.provider = $1 AND ",
            $whose,
            " AND e.received_at >= $4 AND e.id > $5 ORDER BY e.id LIMIT $6) part"
        )
    };
}

const LIST_UNROUTED: &str = concat!(
    unrouted_where!("e.installation_id = $2", "gw_events_unrouted_of_installation"),
    " UNION ALL ",
    unrouted_where!("e.installation_id IS NULL AND e.external_id = $3", "gw_events_unrouted_of_account"),
    " UNION ALL ",
    unrouted_where!("e.installation_id IS NULL AND e.external_id = $7", "gw_events_unrouted_of_account"),
    " ORDER BY 1 LIMIT $6"
);

/// Unrouted events of no account, in the order of their index: to PostgreSQL, a NULL is not one and the same account.
macro_rules! nameless_where {
    ($further:expr) => {
        concat!(
            " FROM gw_events e",
            by_index!("gw_events_unrouted_of_account"),
            " WHERE e.outcome = 'unrouted' AND e.provider = $1 AND e.installation_id IS NULL AND e.external_id IS NULL \
             AND e.id > $2",
            $further,
            " ORDER BY e.external_id, e.id LIMIT $3"
        )
    };
}

pub(super) const LIST_NAMELESS: &str = concat!(
    "SELECT ",
    event_columns!(),
    nameless_where!(concat!(
        " AND e.id <= $4 AND e.received_at >= $5 AND EXISTS (SELECT 1 FROM gw_resources r WHERE r.installation_id = $6 \
         AND r.status = 'active' AND r.provider_resource_id",
        in_list!("e.resources"),
        ")"
    ))
);

pub(super) const LAST_NAMELESS_OF_STEP: &str = concat!("SELECT e.id", nameless_where!(""), " OFFSET $4");

/// Events of no account that one statement looks at: there may be any number, and of any account.
const STEP_ROWS: i64 = 10_000;

pub(super) const LIST_HELD: &str =
    "SELECT id FROM gw_events WHERE installation_id = $1 AND held ORDER BY received_at, id LIMIT $2";

/// Ids are made in the order of arrival.
pub(super) const FIND_RHYTHM: &str = "SELECT COUNT(*), MIN(received_at), MAX(received_at) FROM \
     (SELECT received_at FROM gw_events WHERE installation_id = $1 ORDER BY id DESC LIMIT $2) newest";

pub(super) const LIST_RECEIVED: &str = concat!(
    "SELECT provider_delivery_id FROM gw_events WHERE provider_delivery_id",
    in_list!("$2"),
    " AND provider = $1"
);

pub(crate) async fn find_rhythm(
    db: &mut Session<'_>,
    installation: &InstallationId,
    limit: u32,
) -> StoreResult<Option<Rhythm>> {
    let found = query(FIND_RHYTHM).bind(&*text(installation.as_str())).bind(i64::from(limit));
    let row = found.fetch_one(&mut *db.conn).await?;
    let mut fields = Fields::new(&row);
    let (events, oldest, newest) = (fields.number("received_at")?, fields.maybe_time()?, fields.maybe_time()?);
    Ok(oldest.zip(newest).filter(|_| events >= 2).map(|(oldest, newest)| Rhythm { events, oldest, newest }))
}

pub(crate) async fn list_received(
    db: &mut Session<'_>,
    provider: ProviderSlug,
    ids: &[ProviderDeliveryId],
) -> StoreResult<Vec<ProviderDeliveryId>> {
    let wanted: Vec<_> = ids.iter().map(|id| text(id.as_str())).collect();
    let found = query(LIST_RECEIVED).bind(provider.as_str()).bind(list(wanted.iter().map(|id| &**id)));
    let rows = found.fetch_all(&mut *db.conn).await?;
    let received: HashSet<String> = rows.iter().map(|row| Fields::new(row).get()).collect::<StoreResult<_>>()?;
    // As they were asked for: the stored text may differ from the id by what no text can hold.
    Ok(ids.iter().zip(&wanted).filter(|(_, stored)| received.contains(&***stored)).map(|(id, _)| id.clone()).collect())
}

pub(crate) async fn list_after(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    after: &EventId,
    limit: u32,
) -> StoreResult<Vec<Event>> {
    let mut sql = Builder::new(concat!("SELECT ", event_columns!(), " FROM gw_events e WHERE e.id > "));
    sql.push_bind(&*text(after.as_str()));
    push_given(&mut sql, [(" AND e.org_id = ", org.map(OrgId::as_str))]);
    sql.push(" ORDER BY e.id LIMIT ").push_bind(i64::from(limit));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).event(db.known)).collect()
}

pub(crate) async fn find(db: &mut Session<'_>, id: &EventId) -> StoreResult<Option<Event>> {
    let row = query(FIND).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).event(db.known)).transpose()
}

pub(crate) async fn find_by_delivery_id(
    db: &mut Session<'_>,
    provider: ProviderSlug,
    id: &ProviderDeliveryId,
) -> StoreResult<Option<Event>> {
    let found = query(FIND_BY_DELIVERY_ID).bind(&*text(id.as_str())).bind(provider.as_str());
    let row = found.fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).event(db.known)).transpose()
}

pub(crate) async fn find_detail(db: &mut Session<'_>, id: &EventId) -> StoreResult<Option<EventDetail>> {
    let found = query(FIND_WITH_DETAIL).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    let Some(row) = found else { return Ok(None) };
    let mut fields = Fields::new(&row);
    Ok(Some(EventDetail {
        event: fields.event(db.known)?,
        headers: fields.get()?,
        content_type: fields.get()?,
        decision: fields.get()?,
        deliveries: deliveries::of_event(db, id).await?,
        attempts: deliveries::attempts_of_event(db, id).await?,
    }))
}

pub(crate) async fn find_body(db: &mut Session<'_>, id: &EventId) -> StoreResult<Option<(Option<String>, Bytes)>> {
    let found = query(FIND_BODY).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    let Some(row) = found else { return Ok(None) };
    let mut fields = Fields::new(&row);
    let event = fields.begin("gw_events")?;
    let content_type = fields.get()?;
    let payload =
        StoredPayload { event, encoding: fields.get()?, original_bytes: fields.get()?, stored: fields.get()? };
    Ok(Some((content_type, payload.decode().await?)))
}

pub(crate) async fn list_unrouted(db: &mut Session<'_>, filter: &UnroutedFilter) -> StoreResult<Vec<Event>> {
    // The bound on the id is where reading begins; the bound on the time is the answer.
    let first = id_floor(EventId::PREFIX, EpochMs(filter.since.0.saturating_sub(RECEIVED_AHEAD_MS)));
    let after = text(filter.after.as_ref().map_or("", EventId::as_str)).into_owned().max(first);
    let alternate = filter.alternate_external_id.as_ref().filter(|id| **id != filter.external_id);
    let found = query(LIST_UNROUTED)
        .bind(filter.provider.as_str())
        .bind(&*text(filter.installation.as_str()))
        .bind(&*text(filter.external_id.as_str()))
        .bind(filter.since.0)
        .bind(&*after)
        .bind(i64::from(filter.limit))
        .bind(alternate.map(|id| text(id.as_str()).into_owned()));
    let rows = found.fetch_all(&mut *db.conn).await?;
    let mut events = rows.iter().map(|row| Fields::new(row).event(db.known)).collect::<StoreResult<Vec<_>>>()?;
    let is_full = events.len() >= filter.limit as usize;
    let until = events.last().filter(|_| is_full).map_or(PAST_EVERY_ID, |last| last.id.as_str()).to_owned();
    events.extend(list_nameless(db, filter, after, &until).await?);
    events.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    events.truncate(filter.limit as usize);
    Ok(events)
}

/// Those of no account that concern something which the installation has linked, from `after` to `until`.
async fn list_nameless(
    db: &mut Session<'_>,
    filter: &UnroutedFilter,
    after: String,
    until: &str,
) -> StoreResult<Vec<Event>> {
    let mut found = Vec::new();
    let mut next = Some(after);
    while let Some(after) = next.filter(|after| after.as_str() < until && found.len() < filter.limit as usize) {
        let step = query(LAST_NAMELESS_OF_STEP).bind(filter.provider.as_str()).bind(&*after).bind(1_i64);
        let step = step.bind(STEP_ROWS - 1).fetch_optional(&mut *db.conn).await?;
        next = step.map(|row| Fields::new(&row).get()).transpose()?;
        let listing = query(LIST_NAMELESS)
            .bind(filter.provider.as_str())
            .bind(&*after)
            .bind(i64::from(filter.limit))
            .bind(next.as_deref().map_or(until, |last| last.min(until)))
            .bind(filter.since.0)
            .bind(&*text(filter.installation.as_str()));
        for row in listing.fetch_all(&mut *db.conn).await? {
            found.push(Fields::new(&row).event(db.known)?);
        }
    }
    Ok(found)
}

pub(crate) async fn list_held(
    db: &mut Session<'_>,
    installation: &InstallationId,
    limit: u32,
) -> StoreResult<Vec<EventId>> {
    let found = query(LIST_HELD).bind(&*text(installation.as_str())).bind(i64::from(limit));
    let rows = found.fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Ok(EventId::from_raw(Fields::new(row).get::<&str>()?))).collect()
}

pub(crate) async fn release_held(
    db: &mut Session<'_>,
    events: &[EventId],
    now: EpochMs,
    entry: &LogEntry,
) -> StoreResult<u64> {
    const RELEASE_EVENTS: &str = concat!("UPDATE gw_events SET held = false WHERE held AND id", in_list!("$1"));
    const RELEASE_DELIVERIES: &str = "UPDATE gw_deliveries SET status = 'pending', due_at = $2, \
         reason = CASE WHEN destination_id IS NULL THEN 'no_destination' ELSE $3 END \
         WHERE event_id = $1 AND status = 'held'";
    let releasing = query(RELEASE_EVENTS).bind(list(events.iter().map(EventId::as_str)));
    let released = releasing.execute(&mut *db.conn).await?.rows_affected();
    // Claiming goes by due time: a millisecond each keeps the order given.
    for (event, age_ms) in events.iter().zip((0..i64::try_from(events.len()).unwrap_or(i64::MAX)).rev()) {
        let due_at = now.0.saturating_sub(age_ms);
        let releasing = query(RELEASE_DELIVERIES).bind(&*text(event.as_str())).bind(due_at).bind(Delivery::RELEASED);
        releasing.execute(&mut *db.conn).await?;
    }
    if released > 0 {
        log::append(db, std::slice::from_ref(entry)).await?;
    }
    Ok(released)
}

pub(crate) async fn reroute(db: &mut Session<'_>, rerouting: Rerouting) -> StoreResult<bool> {
    // The lock keeps retention from deleting the event under its new deliveries.
    const LOCK: &str = concat!("SELECT outcome, held FROM gw_events WHERE id = $1", for_update!());
    const REROUTE: &str = "UPDATE gw_events SET installation_id = COALESCE(installation_id, $2), \
         org_id = COALESCE(org_id, $3), \
         outcome = CASE WHEN outcome = 'routed' THEN outcome ELSE $4 END, \
         reason = CASE WHEN outcome = 'routed' THEN reason ELSE $5 END, \
         decision = COALESCE($6, decision) WHERE id = $1";
    let Rerouting { event, installation, only_if, outcome, reason, decision, mut deliveries, entry } = rerouting;
    let event = text(event.as_str()).into_owned();
    let Some(row) = query(LOCK).bind(&event).fetch_optional(&mut *db.conn).await? else { return Ok(false) };
    let mut fields = Fields::new(&row);
    let (outcome_before, is_held): (&str, bool) = (fields.get()?, fields.get()?);
    if only_if.is_some_and(|wanted| wanted.as_str() != outcome_before) {
        return Ok(false);
    }
    // It was released since it was read, and is not released again.
    for new in deliveries.iter_mut().filter(|new| !is_held && new.delivery.status == DeliveryStatus::Held) {
        new.delivery.status = DeliveryStatus::Pending;
    }
    let (installation, org) = installation.unzip();
    query(REROUTE)
        .bind(&event)
        .bind(installation.as_ref().map(InstallationId::as_str))
        .bind(org.as_ref().map(OrgId::as_str))
        .bind(outcome.as_str())
        .bind(reason.as_deref().map(|reason| text(reason).into_owned()))
        .bind(decision.as_deref().map(|decision| text(decision).into_owned()))
        .execute(&mut *db.conn)
        .await?;
    let deliveries: Vec<_> = deliveries.iter().collect();
    deliveries::insert(db.conn, &deliveries).await?;
    log::append(db, entry.as_slice()).await?;
    Ok(true)
}
