//! Readdressing: the destination of what waits becomes the one that serves its integration now.
//!
//! **Owns** the search and the change. **Invariants**: a backlog may have any size, so it is looked through in steps and
//! changed in portions, each a transaction of its own, between which others write; what a step found is judged again where
//! it is changed. **Must not know** who asks.

use super::{Builder, Fields, Session, list, query, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::{DestinationId, OrgId},
    },
    store::StoreResult,
};

/// Rows that one step looks at, and those that fall due in the same millisecond as the last of them.
const STEP_ROWS: i64 = 10_000;
/// Rows changed in one transaction.
pub(crate) const PORTION: usize = 500;
/// How often a pile of several steps is looked through, at the most, until nothing is found: what is released or retried
/// meanwhile may move to where was looked already.
pub(crate) const PASSES: u32 = 3;

/// Where to look. Each has a partial index.
#[derive(Debug)]
pub(crate) enum Pile {
    /// Pending, addressed to this destination or to none.
    Pending(Option<String>),
    /// Held.
    Held,
}

/// A place in a pile's order.
#[derive(Debug)]
pub(crate) struct Place {
    is_retry: bool,
    due_at: i64,
}

impl Place {
    /// Before the first, or before the first that falls due at `since` or later. Retries come after all others.
    pub(crate) fn first(since: Option<EpochMs>) -> Self {
        Self { is_retry: false, due_at: since.map_or(i64::MIN, |since| since.0.saturating_sub(1)) }
    }
}

/// The piles of what is pending that hold deliveries of an org; without one, of those without a destination. What is held
/// may become pending meanwhile, and is looked at before these are listed.
pub(crate) async fn list_pending_piles(db: &mut Session<'_>, org: Option<&OrgId>) -> StoreResult<Vec<Pile>> {
    // What belongs to another org is left out; what belongs to nobody (deleted, or the configured fallback) is not.
    const ADDRESSED: &str = concat!(
        with_waiting_after!("''"),
        " SELECT destination_id FROM waiting WHERE destination_id IS NOT NULL AND NOT EXISTS \
         (SELECT 1 FROM gw_destinations x WHERE x.id = waiting.destination_id AND x.org_id <> $1)"
    );
    let mut piles = vec![Pile::Pending(None)];
    if let Some(org) = org {
        for row in query(ADDRESSED).bind(&*text(org.as_str())).fetch_all(&mut *db.conn).await? {
            piles.push(Pile::Pending(Some(Fields::new(&row).get()?)));
        }
    }
    Ok(piles)
}

/// One step: the ids of those whose destination should be another, and where the next step begins, if there is one.
pub(crate) async fn look(
    db: &mut Session<'_>,
    pile: &Pile,
    org: Option<&OrgId>,
    fallback: Option<&DestinationId>,
    after: &Place,
) -> StoreResult<(Vec<String>, Option<Place>)> {
    let mut last = Builder::new("SELECT d.is_retry, d.due_at");
    push_rows_after(&mut last, pile, org, after);
    last.push(match pile {
        // The index's own order. PostgreSQL does not know that what is NULL is of one value, and would sort the whole pile for
        // each step of it.
        Pile::Pending(_) => " ORDER BY d.destination_id, d.is_retry, d.due_at",
        Pile::Held => " ORDER BY d.is_retry, d.due_at",
    });
    last.push(" LIMIT 1 OFFSET ").push_bind(STEP_ROWS - 1);
    let last = match last.build().fetch_optional(&mut *db.conn).await? {
        Some(row) => {
            let mut fields = Fields::new(&row);
            Some(Place { is_retry: fields.get()?, due_at: fields.get()? })
        }
        None => None,
    };
    let mut astray = Builder::new("SELECT d.id");
    push_rows_after(&mut astray, pile, org, after);
    if let Some(last) = &last {
        astray.push(" AND (d.is_retry, d.due_at) <= ");
        push_place(&mut astray, last);
    }
    if let Some(org) = org {
        astray.push(" AND d.org_id = ").push_bind(text(org.as_str()).into_owned());
    }
    astray.push(concat!(" AND d.destination_id IS DISTINCT FROM ", target_else!()));
    astray.push_bind(fallback.map(|id| id.as_str().to_owned())).push(")");
    let rows = astray.build().fetch_all(&mut *db.conn).await?;
    let ids = rows.iter().map(|row| Fields::new(row).get()).collect::<StoreResult<_>>()?;
    Ok((ids, last))
}

fn push_rows_after(sql: &mut Builder, pile: &Pile, org: Option<&OrgId>, after: &Place) {
    sql.push(" FROM gw_deliveries d WHERE ");
    match (pile, org) {
        (Pile::Pending(None), _) => sql.push("d.status = 'pending' AND d.destination_id IS NULL"),
        (Pile::Pending(Some(destination)), _) => {
            sql.push("d.status = 'pending' AND d.destination_id = ").push_bind(destination.clone())
        }
        (Pile::Held, Some(org)) => {
            sql.push("d.status = 'held' AND d.org_id = ").push_bind(text(org.as_str()).into_owned())
        }
        (Pile::Held, None) => sql.push("d.status = 'held' AND d.destination_id IS NULL"),
    };
    sql.push(" AND (d.is_retry, d.due_at) > ");
    push_place(sql, after);
}

fn push_place(sql: &mut Builder, place: &Place) {
    sql.push("(").push_bind(place.is_retry);
    sql.push(", ").push_bind(place.due_at).push(")");
}

/// In the order in which results are written, so that two transactions wait for each other and never in a circle.
pub(super) const LOCK: &str =
    concat!("SELECT d.id FROM gw_deliveries d WHERE d.id", in_list!("$1"), " ORDER BY d.id", for_update!());

/// Gives those of these deliveries that still wait the destination that serves them now.
pub(crate) async fn change(
    db: &mut Session<'_>,
    ids: &[String],
    fallback: Option<&DestinationId>,
    now: EpochMs,
) -> StoreResult<u64> {
    // What waited for a destination is due now, unless a node tries it already; a retry keeps its schedule.
    const CHANGE: &str = concat!(
        "WITH target AS (SELECT d.id, ",
        target_else!(),
        "$2) AS destination_id FROM gw_deliveries d WHERE d.status IN ('pending', 'held') AND d.id",
        in_list!("$1"),
        ") UPDATE gw_deliveries SET destination_id = target.destination_id, \
         reason = CASE WHEN target.destination_id IS NULL THEN 'no_destination' \
             WHEN gw_deliveries.reason = 'no_destination' THEN NULL ELSE gw_deliveries.reason END, \
         due_at = CASE WHEN gw_deliveries.destination_id IS NULL AND gw_deliveries.lease_owner IS NULL THEN $3 \
             ELSE gw_deliveries.due_at END \
         FROM target WHERE gw_deliveries.id = target.id \
         AND gw_deliveries.destination_id IS DISTINCT FROM target.destination_id"
    );
    let ids = list(ids.iter().map(String::as_str));
    query(LOCK).bind(&*ids).fetch_all(&mut *db.conn).await?;
    let changing = query(CHANGE).bind(&*ids).bind(fallback.map(DestinationId::as_str)).bind(now.0);
    Ok(changing.execute(&mut *db.conn).await?.rows_affected())
}
