//! Giving up leases.

use super::{Fields, Session, list, query, text};
use crate::{
    model::{clock::EpochMs, ids::DeliveryId},
    store::StoreResult,
};

pub(super) const RELEASE_ALL: &str = "UPDATE gw_deliveries SET lease_owner = NULL, due_at = $2 \
                                      WHERE lease_owner = $1 AND status = 'pending'";

pub(crate) async fn release(
    db: &mut Session<'_>,
    owner: &str,
    only: Option<&[DeliveryId]>,
    now: EpochMs,
) -> StoreResult<u64> {
    const RELEASE_THESE: &str = concat!(
        "UPDATE gw_deliveries SET lease_owner = NULL, due_at = $2 \
         WHERE lease_owner = $1 AND status = 'pending' AND id",
        in_list!("$3")
    );
    let owner = text(owner);
    let released = match only {
        None => query(RELEASE_ALL).bind(&*owner).bind(now.0),
        Some(ids) => query(RELEASE_THESE).bind(&*owner).bind(now.0).bind(list(ids.iter().map(DeliveryId::as_str))),
    };
    Ok(released.execute(&mut *db.conn).await?.rows_affected())
}

/// Who holds leases, `owner` left out.
pub(crate) async fn list_other_owners(db: &mut Session<'_>, owner: &str) -> StoreResult<Vec<String>> {
    const LIST: &str = "SELECT DISTINCT lease_owner FROM gw_deliveries WHERE lease_owner IS NOT NULL \
                        AND lease_owner <> $1 ORDER BY lease_owner";
    let rows = query(LIST).bind(&*text(owner)).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).get()).collect()
}
