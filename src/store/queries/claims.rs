//! Claiming: which destinations have something due, and leasing it.
//!
//! `due_at` is the visibility timeout: a lease sets it to the lease's end, so that an abandoned delivery falls due by
//! itself and one index answers every question.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Fields, Row, Session, list, query, text};
use crate::{
    model::{
        clock::EpochMs,
        delivery::Delivery,
        event::Event,
        ids::{DeliveryId, DestinationId, EventId},
    },
    store::{
        ClaimRequest, ClaimedDelivery, DueDestination, MAX_CLAIMED_BYTES, StoreError, StoreResult,
        known::KnownProviders, payload::StoredPayload,
    },
};

/// Picks what is due, oldest first, and locks it; what another node is claiming is skipped. Each with the size of its
/// body, to know what fits before any body is read.
macro_rules! pick {
    ($is_retry:literal) => {
        concat!(
            "SELECT d.id, d.event_id, (SELECT e.payload_bytes FROM gw_events e WHERE e.id = d.event_id) \
             FROM gw_deliveries d WHERE d.status = 'pending' AND d.destination_id = $1 AND d.is_retry = ",
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

pub(super) const DUE_DESTINATIONS: &str = concat!(
    with_waiting_after!("$2"),
    ", earliest AS (SELECT destination_id, \
         (SELECT d.due_at FROM gw_deliveries d WHERE d.status = 'pending' \
             AND d.destination_id = waiting.destination_id AND d.is_retry = false ORDER BY d.due_at LIMIT 1) AS first_try, \
         (SELECT d.due_at FROM gw_deliveries d WHERE d.status = 'pending' \
             AND d.destination_id = waiting.destination_id AND d.is_retry = true ORDER BY d.due_at LIMIT 1) AS retry \
         FROM waiting WHERE destination_id IS NOT NULL) \
     SELECT destination_id, \
         CASE WHEN retry IS NULL OR first_try <= retry THEN first_try ELSE retry END \
     FROM earliest WHERE first_try <= $1 OR retry <= $1 LIMIT $3"
);

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

/// What was leased.
pub(crate) struct Leased {
    /// First tries before retries, oldest due first.
    pub(crate) ids: Vec<DeliveryId>,
    /// Whether some were left for the next claim because of their size.
    pub(crate) left_some: bool,
}

/// Leases as many as are asked for and fit.
pub(crate) async fn lease(db: &mut Session<'_>, request: &ClaimRequest) -> StoreResult<Leased> {
    // Retries are looked for first, and first tries take what room they leave: one transaction fills it.
    let retries = pick(db, true, request, request.retries.min(request.in_all)).await?;
    let left = request.in_all.saturating_sub(u32::try_from(retries.len()).unwrap_or(u32::MAX));
    let mut picked = pick(db, false, request, request.first_tries.min(left)).await?;
    picked.extend(retries);
    // The bytes are given out in turns, so that neither kind waits for as long as the other has large bodies.
    picked.sort_by_key(|picked| picked.turn);
    let fit = count_what_fits(&picked, request.bytes.min(MAX_CLAIMED_BYTES));
    let left_some = fit < picked.len();
    picked.truncate(fit);
    picked.sort_by_key(|picked| picked.is_retry);
    if !picked.is_empty() {
        query(LEASE)
            .bind(&*text(&request.owner))
            .bind(request.lease_until.0)
            .bind(list(picked.iter().map(|picked| picked.id.as_str())))
            .execute(&mut *db.conn)
            .await?;
    }
    Ok(Leased { ids: picked.into_iter().map(|picked| picked.id).collect(), left_some })
}

/// A delivery that is due.
struct Picked {
    id: DeliveryId,
    event: EventId,
    body_bytes: usize,
    is_retry: bool,
    /// Its place among those of its kind.
    turn: usize,
}

async fn pick(db: &mut Session<'_>, is_retry: bool, request: &ClaimRequest, limit: u32) -> StoreResult<Vec<Picked>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let rows = query(if is_retry { PICK_RETRIES } else { PICK_FIRST_TRIES })
        .bind(&*text(request.destination.as_str()))
        .bind(request.now.0)
        .bind(i64::from(limit))
        .fetch_all(&mut *db.conn)
        .await?;
    let picked = rows.iter().enumerate().map(|(turn, row)| {
        let mut fields = Fields::new(row);
        Ok(Picked {
            id: DeliveryId::from_raw(fields.get::<&str>()?),
            event: EventId::from_raw(fields.get::<&str>()?),
            // There is no size if the event is gone, which is reported where it is read.
            body_bytes: usize::try_from(fields.get::<Option<i64>>()?.unwrap_or(0)).unwrap_or(0),
            is_retry,
            turn,
        })
    });
    picked.collect()
}

/// How many of these, in order, have room together. The first event's always have, however large it is.
fn count_what_fits(picked: &[Picked], room: usize) -> usize {
    let mut events = HashSet::new();
    let mut bytes = 0_usize;
    let fitting = picked.iter().take_while(|picked| {
        // Deliveries of one event share its body.
        if events.insert(&picked.event) {
            bytes = bytes.saturating_add(picked.body_bytes);
        }
        bytes <= room || events.len() == 1
    });
    fitting.count()
}

/// What was leased, as it is stored. A row that cannot be read takes nothing but itself out of a claim: it would stand
/// first in the queue again and again, and nothing would ever be claimed behind it.
pub(crate) struct StoredClaim {
    /// In the order in which they were leased.
    deliveries: Vec<Delivery>,
    events: HashMap<EventId, StoreResult<StoredEvent>>,
}

struct StoredEvent {
    event: Event,
    content_type: Option<String>,
    payload: StoredPayload,
}

/// Reads what was leased.
pub(crate) async fn read_leased(db: &mut Session<'_>, ids: &[DeliveryId]) -> StoreResult<StoredClaim> {
    let rows = query(READ_CLAIMED).bind(list(ids.iter().map(DeliveryId::as_str))).fetch_all(&mut *db.conn).await?;
    let mut found: HashMap<DeliveryId, Delivery> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let id = DeliveryId::from_raw(Fields::new(row).get::<&str>()?);
        match Fields::new(row).delivery() {
            Ok(delivery) => _ = found.insert(id, delivery),
            Err(error) => leave_alone(&id, None, Some(&error)),
        }
    }
    let deliveries: Vec<Delivery> = ids.iter().filter_map(|id| found.remove(id)).collect();
    let wanted: HashSet<&str> = deliveries.iter().map(|delivery| delivery.event.as_str()).collect();
    let rows = query(READ_EVENTS).bind(list(wanted)).fetch_all(&mut *db.conn).await?;
    let mut events = HashMap::with_capacity(rows.len());
    for row in &rows {
        let id = EventId::from_raw(Fields::new(row).get::<&str>()?);
        events.insert(id, stored_event(row, db.known));
    }
    Ok(StoredClaim { deliveries, events })
}

fn stored_event(row: &Row, known: &KnownProviders) -> StoreResult<StoredEvent> {
    let mut fields = Fields::new(row);
    let event = fields.event(known)?;
    let content_type = fields.get()?;
    let payload = StoredPayload {
        event: event.id.as_str().to_owned(),
        encoding: fields.get()?,
        original_bytes: fields.get()?,
        stored: fields.get()?,
    };
    Ok(StoredEvent { event, content_type, payload })
}

impl StoredClaim {
    /// Decodes the bodies; answers the deliveries that can be tried.
    pub(crate) async fn decode(self) -> StoreResult<Vec<ClaimedDelivery>> {
        let mut events: HashMap<EventId, StoreResult<(Event, Option<String>, Bytes)>> =
            HashMap::with_capacity(self.events.len());
        for (id, stored) in self.events {
            let decoded = match stored {
                Ok(stored) => match stored.payload.decode().await {
                    Ok(body) => Ok((stored.event, stored.content_type, body)),
                    Err(error @ StoreError::Inconsistent { .. }) => Err(error),
                    // Of this the row is innocent.
                    Err(error) => return Err(error),
                },
                Err(error) => Err(error),
            };
            events.insert(id, decoded);
        }
        let claimed = self.deliveries.into_iter().filter_map(|delivery| match events.get(&delivery.event) {
            Some(Ok((event, content_type, body))) => Some(ClaimedDelivery {
                delivery,
                event: event.clone(),
                content_type: content_type.clone(),
                body: body.clone(),
            }),
            unreadable => {
                let error = unreadable.and_then(|event| event.as_ref().err());
                leave_alone(&delivery.id, Some(&delivery.event), error);
                None
            }
        });
        Ok(claimed.collect())
    }
}

/// Reports a delivery that cannot be tried. It comes again when its lease ends, by when somebody may have repaired it.
fn leave_alone(delivery: &DeliveryId, event: Option<&EventId>, error: Option<&StoreError>) {
    let error = error.map_or_else(|| "its event is gone".to_owned(), StoreError::to_string);
    tracing::error!(
        delivery.id = %delivery,
        event.id = event.map(EventId::as_str),
        error,
        "a delivery that is due cannot be read; it waits for its lease to end"
    );
}
