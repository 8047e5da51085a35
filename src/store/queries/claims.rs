//! Claiming: which destinations have something due, and leasing it.
//!
//! `due_at` is the visibility timeout: a lease sets it to the lease's end, so that an abandoned delivery falls due by
//! itself and one index answers every question.

use std::collections::{HashMap, HashSet};

use super::{Fields, Session, list, query, text};
use crate::{
    model::{
        clock::EpochMs,
        delivery::Delivery,
        event::Event,
        ids::{DeliveryId, DestinationId, EventId},
    },
    store::{ClaimRequest, ClaimedDelivery, DueDestination, StoreResult, payload::StoredPayload},
};

/// Picks what is due, oldest first, and locks it; what another node is claiming is skipped.
macro_rules! pick {
    ($is_retry:literal) => {
        concat!(
            "SELECT d.id FROM gw_deliveries d WHERE d.status = 'pending' AND d.destination_id = $1 AND d.is_retry = ",
            $is_retry,
            " AND d.due_at <= $2",
            lease_is_over!(),
            " ORDER BY d.due_at LIMIT $3",
            skip_locked!()
        )
    };
}

pub(super) const PICK_FIRST_TRIES: &str = pick!("false");
pub(super) const PICK_RETRIES: &str = pick!("true");

pub(super) const LEASE: &str =
    concat!("UPDATE gw_deliveries SET lease_owner = $1, due_at = $2 WHERE id", in_list!("$3"));

pub(super) const READ_CLAIMED: &str =
    concat!("SELECT ", delivery_columns!(), " FROM gw_deliveries d WHERE d.id", in_list!("$1"));

/// Apart from the deliveries: an event that goes to fifty integrations is read, and its payload decoded, once.
pub(super) const READ_EVENTS: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", e.content_type, e.payload_encoding, e.payload_bytes, e.payload FROM gw_events e WHERE e.id",
    in_list!("$1")
);

/// Steps from one destination to the next through the index, so that it costs one look per destination and not one per
/// delivery.
pub(super) const DUE_DESTINATIONS: &str = "WITH RECURSIVE waiting (destination_id) AS ( \
     SELECT (SELECT d.destination_id FROM gw_deliveries d WHERE d.status = 'pending' AND d.destination_id > $2 \
         ORDER BY d.destination_id LIMIT 1) \
     UNION ALL \
     SELECT (SELECT d.destination_id FROM gw_deliveries d WHERE d.status = 'pending' \
         AND d.destination_id > waiting.destination_id ORDER BY d.destination_id LIMIT 1) \
     FROM waiting WHERE waiting.destination_id IS NOT NULL), \
     earliest AS (SELECT destination_id, \
         (SELECT d.due_at FROM gw_deliveries d WHERE d.status = 'pending' \
             AND d.destination_id = waiting.destination_id AND d.is_retry = false ORDER BY d.due_at LIMIT 1) AS first_try, \
         (SELECT d.due_at FROM gw_deliveries d WHERE d.status = 'pending' \
             AND d.destination_id = waiting.destination_id AND d.is_retry = true ORDER BY d.due_at LIMIT 1) AS retry \
         FROM waiting WHERE destination_id IS NOT NULL) \
     SELECT destination_id, \
         CASE WHEN retry IS NULL OR first_try <= retry THEN first_try ELSE retry END \
     FROM earliest WHERE first_try <= $1 OR retry <= $1 LIMIT $3";

pub(crate) async fn list_due_destinations(
    db: &mut Session<'_>,
    now: EpochMs,
    after: Option<&DestinationId>,
    limit: u32,
) -> StoreResult<Vec<DueDestination>> {
    let found = query(DUE_DESTINATIONS)
        .bind(now.0)
        .bind(&*text(after.map_or("", DestinationId::as_str)))
        .bind(i64::from(limit));
    let rows = found.fetch_all(&mut *db.conn).await?;
    let mut due: Vec<DueDestination> = rows
        .iter()
        .map(|row| {
            let mut fields = Fields::new(row);
            let destination = DestinationId::from_raw(fields.get::<&str>()?);
            Ok(DueDestination { destination, due_at: fields.time()? })
        })
        .collect::<StoreResult<_>>()?;
    due.sort_by(|a, b| a.destination.cmp(&b.destination));
    Ok(due)
}

/// Leases; answers the ids, first tries before retries, oldest due first.
pub(crate) async fn claim(db: &mut Session<'_>, request: &ClaimRequest) -> StoreResult<Vec<DeliveryId>> {
    // Retries are looked for first, and first tries take what room they leave: one transaction fills it.
    let retries = pick(db, PICK_RETRIES, request, request.retries.min(request.in_all)).await?;
    let left = request.in_all.saturating_sub(u32::try_from(retries.len()).unwrap_or(u32::MAX));
    let mut claimed = pick(db, PICK_FIRST_TRIES, request, request.first_tries.min(left)).await?;
    claimed.extend(retries);
    if !claimed.is_empty() {
        query(LEASE)
            .bind(&*text(&request.owner))
            .bind(request.lease_until.0)
            .bind(list(claimed.iter().map(DeliveryId::as_str)))
            .execute(&mut *db.conn)
            .await?;
    }
    Ok(claimed)
}

async fn pick(
    db: &mut Session<'_>,
    sql: &'static str,
    request: &ClaimRequest,
    limit: u32,
) -> StoreResult<Vec<DeliveryId>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let picked = query(sql)
        .bind(&*text(request.destination.as_str()))
        .bind(request.now.0)
        .bind(i64::from(limit))
        .fetch_all(&mut *db.conn)
        .await?;
    picked.iter().map(|row| Ok(DeliveryId::from_raw(Fields::new(row).get::<&str>()?))).collect()
}

/// What was claimed: the deliveries in the order they were asked for, without bodies, and their events' payloads as they
/// are stored.
pub(crate) type Claimed = (Vec<ClaimedDelivery>, HashMap<EventId, StoredPayload>);

/// Reads what was claimed.
pub(crate) async fn read_claimed(db: &mut Session<'_>, ids: &[DeliveryId]) -> StoreResult<Claimed> {
    let rows = query(READ_CLAIMED).bind(list(ids.iter().map(DeliveryId::as_str))).fetch_all(&mut *db.conn).await?;
    let mut deliveries: HashMap<DeliveryId, Delivery> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let delivery = Fields::new(row).delivery()?;
        deliveries.insert(delivery.id.clone(), delivery);
    }
    let wanted: HashSet<&str> = deliveries.values().map(|delivery| delivery.event.as_str()).collect();
    let rows = query(READ_EVENTS).bind(list(wanted)).fetch_all(&mut *db.conn).await?;
    let mut events: HashMap<EventId, (Event, Option<String>)> = HashMap::with_capacity(rows.len());
    let mut payloads = HashMap::with_capacity(rows.len());
    for row in &rows {
        let mut fields = Fields::new(row);
        let event = fields.event(db.known)?;
        let content_type = fields.get()?;
        let payload = StoredPayload {
            event: event.id.as_str().to_owned(),
            encoding: fields.get()?,
            original_bytes: fields.get()?,
            stored: fields.get()?,
        };
        payloads.insert(event.id.clone(), payload);
        events.insert(event.id.clone(), (event, content_type));
    }
    let claimed = ids.iter().filter_map(|id| {
        let delivery = deliveries.remove(id)?;
        let (event, content_type) = events.get(&delivery.event)?.clone();
        Some(ClaimedDelivery { delivery, event, content_type, body: bytes::Bytes::new() })
    });
    Ok((claimed.collect(), payloads))
}
