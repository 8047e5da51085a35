//! Deliveries and attempts, read and retried. Claiming is in `claims.rs`, leases in `leases.rs`, where they go in
//! `readdress.rs`.

use super::{Conn, Fields, Session, log, query, readdress, row_statement::RowStatement, text};
use crate::{
    model::{
        clock::EpochMs,
        delivery::{Attempt, Delivery},
        event::Event,
        ids::{DeliveryId, DestinationId, EventId},
        log_entry::LogEntry,
    },
    store::{NewDelivery, StoreResult},
};

const FIND: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    ", ",
    event_columns!(),
    " FROM gw_deliveries d JOIN gw_events e ON e.id = d.event_id WHERE d.id = $1"
);

pub(super) const OF_EVENT: &str =
    concat!("SELECT ", delivery_columns!(), " FROM gw_deliveries d WHERE d.event_id = $1 ORDER BY d.id");

pub(super) const ATTEMPTS_OF_EVENT: &str = concat!(
    "SELECT ",
    attempt_columns!(),
    " FROM gw_deliveries d JOIN gw_attempts a ON a.delivery_id = d.id WHERE d.event_id = $1 \
     ORDER BY a.started_at, a.id"
);

const ATTEMPTS_OF: &str =
    concat!("SELECT ", attempt_columns!(), " FROM gw_attempts a WHERE a.delivery_id = $1 ORDER BY a.started_at, a.id");

static INSERT: RowStatement = RowStatement::new(
    "INSERT INTO gw_deliveries (id, event_id, integration_id, resource_id, workspace_id, org_id, destination_id, status, \
     reason, attempts, is_retry, due_at, lease_owner, replay, created_at, finished_at) SELECT * FROM",
    16,
    "",
);

/// Inserts deliveries. Also within the writer's batch, hence the driver's error.
pub(super) async fn insert(conn: &mut Conn, deliveries: &[&NewDelivery]) -> Result<(), sqlx::Error> {
    INSERT
        .execute(conn, deliveries, |row, new| {
            let delivery = &new.delivery;
            // Without an owner there is no lease, and without a lease the delivery is due when it says.
            let due_at = new.lease_owner.as_ref().and(delivery.lease_until).unwrap_or(delivery.due_at);
            row.bind(delivery.id.as_str())
                .bind(delivery.event.as_str())
                .bind(delivery.integration.as_str())
                .bind(delivery.resource.as_str())
                .bind(&*text(delivery.workspace.as_str()))
                .bind(delivery.org.as_str())
                .bind(delivery.destination.as_ref().map(DestinationId::as_str))
                .bind(delivery.status.as_str())
                .bind(delivery.reason.as_deref().map(|reason| text(reason).into_owned()))
                .bind(i64::from(delivery.attempts))
                .bind(delivery.attempts > 0)
                .bind(due_at.0)
                .bind(new.lease_owner.as_deref())
                .bind(delivery.replay)
                .bind(delivery.created_at.0)
                .bind(delivery.finished_at.map(|at| at.0));
        })
        .await?;
    Ok(())
}

pub(crate) async fn find(db: &mut Session<'_>, id: &DeliveryId) -> StoreResult<Option<(Delivery, Event)>> {
    let found = query(FIND).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    found
        .map(|row| {
            let mut fields = Fields::new(&row);
            Ok((fields.delivery()?, fields.event(db.known)?))
        })
        .transpose()
}

pub(super) async fn of_event(db: &mut Session<'_>, event: &EventId) -> StoreResult<Vec<Delivery>> {
    let rows = query(OF_EVENT).bind(event.as_str()).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).delivery()).collect()
}

pub(super) async fn attempts_of_event(db: &mut Session<'_>, event: &EventId) -> StoreResult<Vec<Attempt>> {
    let rows = query(ATTEMPTS_OF_EVENT).bind(event.as_str()).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).attempt()).collect()
}

pub(crate) async fn attempts_of(db: &mut Session<'_>, delivery: &DeliveryId) -> StoreResult<Vec<Attempt>> {
    let rows = query(ATTEMPTS_OF).bind(&*text(delivery.as_str())).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).attempt()).collect()
}

pub(crate) async fn retry(
    db: &mut Session<'_>,
    id: &DeliveryId,
    fallback: Option<&DestinationId>,
    now: EpochMs,
    entry: &LogEntry,
) -> StoreResult<bool> {
    // The lock keeps retention from deleting the event under the delivery.
    const LOCK: &str = concat!(
        "SELECT e.id FROM gw_events e WHERE e.id = (SELECT d.event_id FROM gw_deliveries d WHERE d.id = $1)",
        for_update!()
    );
    const RETRY: &str = concat!(
        "UPDATE gw_deliveries SET status = 'pending', attempts_before_retry = attempts, is_retry = false, due_at = $2, \
         reason = CASE WHEN destination_id IS NULL THEN 'no_destination' END, lease_owner = NULL, finished_at = NULL \
         WHERE id = $1 AND status NOT IN ('delivered', 'held') AND NOT (status = 'pending' AND lease_owner IS NOT NULL AND due_at > ",
        earlier_now!("$2"),
        ")"
    );
    let id = text(id.as_str());
    query(LOCK).bind(&*id).fetch_optional(&mut *db.conn).await?;
    let retried = query(RETRY).bind(&*id).bind(now.0).execute(&mut *db.conn).await?;
    if retried.rows_affected() == 0 {
        return Ok(false);
    }
    // What is over is not readdressed: its destination may have been replaced by a narrower one, or deleted, since.
    readdress::change(db, &[id.into_owned()], fallback, now).await?;
    log::append(db, std::slice::from_ref(entry)).await?;
    Ok(true)
}
