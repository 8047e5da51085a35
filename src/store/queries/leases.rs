//! Giving up leases, and making good a clock that was set back.
//!
//! What is given up is due at once, and has its old place in the queue: what a dead node was about to deliver does not
//! wait behind everything that came since.
//!
//! **Invariants**: a backlog may have any size, so it is changed in portions, each a transaction of its own.

use super::{Fields, Session, list, query, readdress, text};
use crate::{
    model::{clock::EpochMs, ids::DeliveryId},
    store::{BacklogPlace, Hastened, Setback, StoreResult},
};

/// Deliveries looked at, or changed, in one transaction: others write between two.
pub(crate) const PORTION: u32 = 500;

/// What another transaction changes is left to it.
pub(super) const LIST_LEASED: &str = concat!(
    "SELECT d.id FROM gw_deliveries d WHERE d.lease_owner = $1 AND d.status = 'pending' LIMIT $2",
    skip_locked!()
);

/// Gives up as many of an owner's leases as one portion has. Fewer than that: there were no more.
pub(crate) async fn release_some(db: &mut Session<'_>, owner: &str, now: EpochMs) -> StoreResult<u64> {
    let leased = query(LIST_LEASED).bind(&*text(owner)).bind(i64::from(PORTION));
    let rows = leased.fetch_all(&mut *db.conn).await?;
    let ids = rows.iter().map(|row| Ok(DeliveryId::from_raw(Fields::new(row).get::<&str>()?)));
    release_these(db, owner, &ids.collect::<StoreResult<Vec<_>>>()?, now).await
}

/// Gives up the owner's leases on these deliveries.
pub(crate) async fn release_these(
    db: &mut Session<'_>,
    owner: &str,
    ids: &[DeliveryId],
    now: EpochMs,
) -> StoreResult<u64> {
    // `created_at` may lie after now when the clock was set back.
    const RELEASE: &str = concat!(
        "UPDATE gw_deliveries SET lease_owner = NULL, due_at = CASE WHEN created_at < $2 THEN created_at ELSE $2 END \
         WHERE lease_owner = $1 AND status = 'pending' AND id",
        in_list!("$3")
    );
    let releasing = query(RELEASE).bind(&*text(owner)).bind(now.0).bind(list(ids.iter().map(DeliveryId::as_str)));
    Ok(releasing.execute(&mut *db.conn).await?.rows_affected())
}

/// Leases are left alone: they end when they end, wherever their owner's clock stands. What has no destination is due when
/// it gets one.
pub(super) const LIST_BACKLOG: &str = "SELECT d.lease_owner IS NULL AND d.due_at > $1 AND (d.due_at > $2 OR NOT d.is_retry), \
     d.destination_id, d.is_retry, d.due_at, d.id FROM gw_deliveries d \
     WHERE d.status = 'pending' AND (d.destination_id, d.is_retry, d.due_at, d.id) > ($3, $4, $5, $6) \
     ORDER BY d.destination_id, d.is_retry, d.due_at, d.id LIMIT $7";

/// Goes through the backlog in the order of its index: what is hastened moves to where was looked already.
pub(crate) async fn hasten_some(
    db: &mut Session<'_>,
    setback: &Setback,
    after: Option<&BacklogPlace>,
    now: EpochMs,
) -> StoreResult<Hastened> {
    const HASTEN: &str = concat!(
        "UPDATE gw_deliveries SET due_at = CASE WHEN due_at - $2 < $1 THEN $1 ELSE due_at - $2 END \
         WHERE status = 'pending' AND lease_owner IS NULL AND due_at > $1 AND id",
        in_list!("$3")
    );
    let first = BacklogPlace::default();
    let after = after.unwrap_or(&first);
    let looking = query(LIST_BACKLOG)
        .bind(now.0)
        .bind(now.plus(setback.retries_within).0)
        .bind(&*after.destination)
        .bind(after.is_retry)
        .bind(after.due_at.0)
        .bind(&*after.id)
        .bind(i64::from(PORTION));
    let rows = looking.fetch_all(&mut *db.conn).await?;
    let (mut late, mut last) = (Vec::new(), None);
    for row in &rows {
        let mut fields = Fields::new(row);
        let is_late: bool = fields.get()?;
        let (destination, is_retry, due_at) = (fields.get()?, fields.get()?, fields.time()?);
        let place = last.insert(BacklogPlace { destination, is_retry, due_at, id: fields.get()? });
        if is_late {
            late.push(place.id.clone());
        }
    }
    let mut deliveries = 0;
    if !late.is_empty() {
        let late = list(late.iter().map(String::as_str));
        query(readdress::LOCK).bind(&*late).fetch_all(&mut *db.conn).await?;
        let by_ms = i64::try_from(setback.by.as_millis()).unwrap_or(i64::MAX);
        let hastening = query(HASTEN).bind(now.0).bind(by_ms).bind(&*late);
        deliveries = hastening.execute(&mut *db.conn).await?.rows_affected();
    }
    Ok(Hastened { deliveries, looked_up_to: last.filter(|_| rows.len() >= PORTION as usize) })
}

/// Who holds leases, `owner` left out.
pub(crate) async fn list_other_owners(db: &mut Session<'_>, owner: &str) -> StoreResult<Vec<String>> {
    const LIST: &str = "SELECT DISTINCT lease_owner FROM gw_deliveries WHERE lease_owner IS NOT NULL \
                        AND lease_owner <> $1 ORDER BY lease_owner";
    let rows = query(LIST).bind(&*text(owner)).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).get()).collect()
}
