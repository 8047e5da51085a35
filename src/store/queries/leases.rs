//! Giving up leases.
//!
//! What is given up is due at once, and has its old place in the queue: what a dead node was about to deliver does not
//! wait behind everything that came since.

use super::{Fields, Session, list, query, text};
use crate::{
    model::{clock::EpochMs, ids::DeliveryId},
    store::StoreResult,
};

/// `$2` is now; `created_at` may lie after it when the clock was set back.
macro_rules! release {
    () => {
        "UPDATE gw_deliveries SET lease_owner = NULL, due_at = CASE WHEN created_at < $2 THEN created_at ELSE $2 END \
         WHERE lease_owner = $1 AND status = 'pending'"
    };
}

pub(super) const RELEASE_ALL: &str = release!();

pub(crate) async fn release(
    db: &mut Session<'_>,
    owner: &str,
    only: Option<&[DeliveryId]>,
    now: EpochMs,
) -> StoreResult<u64> {
    const RELEASE_THESE: &str = concat!(release!(), " AND id", in_list!("$3"));
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
