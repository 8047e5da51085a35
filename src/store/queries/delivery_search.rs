//! Deliveries searched for, newest first, whatever is asked for.
//!
//! **Owns** how much one search looks at. There is no index for every question, because every index is paid for by every
//! webhook: a search walks the one that narrows best, looks at a bounded number of rows of it, and says how far it came.
//! **Invariants**: what was found is complete as far as was searched; going on from the cursor comes to the end.

use super::{Builder, Fields, PAST_EVERY_ID, Session, count, found, page, push_given, rows_wanted, text};
use crate::{
    model::{
        delivery::{Delivery, DeliveryStatus},
        event::Event,
        ids::{DeliveryId, DestinationId, EventId, InstallationId, IntegrationId, OrgId, WorkspaceId},
    },
    store::{BoundedCount, DeliveryFilter, Found, PageRequest, StoreResult},
};

/// Rows one search looks at: some ten milliseconds on either database.
const LOOKED_AT: u32 = 5_000;

pub(crate) async fn find(
    db: &mut Session<'_>,
    filter: &DeliveryFilter,
    request: PageRequest<'_>,
) -> StoreResult<Found<(Delivery, Event)>> {
    let window = Window { filter, cursor: request.cursor, rows: LOOKED_AT };
    let mut sql =
        Builder::new(concat!("SELECT ", delivery_columns!(), ", ", event_columns!(), " FROM (SELECT d.* FROM "));
    window.push(&mut sql);
    push_conditions(&mut sql, filter);
    sql.push(" LIMIT ").push_bind(rows_wanted(request));
    sql.push(") d JOIN gw_events e ON e.id = d.event_id ORDER BY d.id DESC");
    let rows = sql.build().persistent(false).fetch_all(&mut *db.conn).await?;
    let items: Vec<(Delivery, Event)> = rows
        .iter()
        .map(|row| {
            let mut fields = Fields::new(row);
            Ok((fields.delivery()?, fields.event(db.known)?))
        })
        .collect::<StoreResult<_>>()?;
    let page = page(items, request, |(delivery, _): &(Delivery, Event)| delivery.id.as_str());
    let stopped_at = if page.next_cursor.is_none() { window.last(db).await? } else { None };
    Ok(found(page, stopped_at, DeliveryId::PREFIX))
}

pub(crate) async fn count_found(
    db: &mut Session<'_>,
    filter: &DeliveryFilter,
    limit: u32,
) -> StoreResult<BoundedCount> {
    let is_narrowed = is_narrowed(filter);
    let rows = if is_narrowed { LOOKED_AT } else { limit.saturating_add(1) };
    let window = Window { filter, cursor: None, rows };
    let mut sql = Builder::new("SELECT COUNT(*) FROM (SELECT d.id FROM ");
    if is_narrowed {
        window.push(&mut sql);
        push_conditions(&mut sql, filter);
    } else {
        // The index says it all, without a look at rows.
        sql.push("gw_deliveries d");
        window.push_bounds(&mut sql);
    }
    sql.push(" LIMIT ").push_bind(i64::from(limit) + 1).push(") counted");
    let row = sql.build().persistent(false).fetch_one(&mut *db.conn).await?;
    let found = count(Fields::new(&row).get()?);
    // Without narrowing, as many are counted as are looked at.
    let more = found > u64::from(limit) || (is_narrowed && window.last(db).await?.is_some());
    Ok(BoundedCount { count: found.min(u64::from(limit)), more })
}

/// The rows that are looked at: the newest that an index finds.
struct Window<'a> {
    filter: &'a DeliveryFilter,
    cursor: Option<&'a str>,
    rows: u32,
}

impl Window<'_> {
    /// `(SELECT …) d`, newest first: whoever reads from it gets its rows in its order.
    fn push(&self, sql: &mut Builder) {
        sql.push("(SELECT d.* FROM gw_deliveries d");
        self.push_bounds(sql);
        sql.push(" ORDER BY d.id DESC LIMIT ").push_bind(i64::from(self.rows)).push(") d");
    }

    /// What an index answers; named, because between two ids the table itself looks short to a planner.
    fn push_bounds(&self, sql: &mut Builder) {
        let filter = self.filter;
        if filter.event.is_none() && filter.status == Some(DeliveryStatus::Dead) {
            sql.push(if filter.org.is_some() { DEAD_OF_ORG } else { DEAD });
        }
        let cursor = text(self.cursor.unwrap_or(PAST_EVERY_ID)).into_owned();
        // One bound: of two SQLite seeks by the first, and walks from there to the other.
        let before = match filter.until {
            Some(until) => cursor.min(super::id_floor(DeliveryId::PREFIX, until)),
            None => cursor,
        };
        sql.push(" WHERE d.id < ").push_bind(before);
        if let Some(since) = filter.since {
            sql.push(" AND d.id >= ").push_bind(super::id_floor(DeliveryId::PREFIX, since));
        }
        if let Some(event) = &filter.event {
            sql.push(" AND d.event_id = ").push_bind(text(event.as_str()).into_owned());
        } else if filter.status == Some(DeliveryStatus::Dead) {
            // Spelled out: the indexes are partial.
            sql.push(" AND d.status = 'dead'");
            if let Some(org) = &filter.org {
                sql.push(" AND d.org_id = ").push_bind(text(org.as_str()).into_owned());
            }
        }
    }

    /// Its last row, if it is full: what is older was not looked at.
    async fn last(&self, db: &mut Session<'_>) -> StoreResult<Option<String>> {
        let mut sql = Builder::new("SELECT d.id FROM gw_deliveries d");
        self.push_bounds(&mut sql);
        sql.push(" ORDER BY d.id DESC LIMIT 1 OFFSET ").push_bind(i64::from(self.rows) - 1);
        let row = sql.build().persistent(false).fetch_optional(&mut *db.conn).await?;
        row.map(|row| Fields::new(&row).get()).transpose()
    }
}

/// How a statement names the indexes of dead letters, where it has to.
const DEAD_OF_ORG: &str = by_index!("gw_deliveries_dead_of_org");
const DEAD: &str = by_index!("gw_deliveries_dead");

/// Whether more is asked for than a window's bounds answer.
fn is_narrowed(filter: &DeliveryFilter) -> bool {
    let known_status = filter.status.is_none_or(|status| status == DeliveryStatus::Dead);
    let known_org = filter.org.is_none() || filter.status == Some(DeliveryStatus::Dead);
    !known_status
        || !known_org
        || filter.workspace.is_some()
        || filter.integration.is_some()
        || filter.destination.is_some()
        || filter.provider.is_some()
        || filter.installation.is_some()
        || filter.event.is_some()
}

/// ` WHERE …`: everything that was asked for, whatever of it the window knows already.
fn push_conditions(sql: &mut Builder, filter: &DeliveryFilter) {
    sql.push(" WHERE d.id IS NOT NULL");
    let conditions = [
        (" AND d.org_id = ", filter.org.as_ref().map(OrgId::as_str)),
        (" AND d.status = ", filter.status.map(DeliveryStatus::as_str)),
        (" AND d.event_id = ", filter.event.as_ref().map(EventId::as_str)),
        (" AND d.workspace_id = ", filter.workspace.as_ref().map(WorkspaceId::as_str)),
        (" AND d.integration_id = ", filter.integration.as_ref().map(IntegrationId::as_str)),
        (" AND d.destination_id = ", filter.destination.as_ref().map(DestinationId::as_str)),
    ];
    push_given(sql, conditions);
    let (provider, installation) =
        (filter.provider.as_deref(), filter.installation.as_ref().map(InstallationId::as_str));
    if provider.is_some() || installation.is_some() {
        sql.push(" AND EXISTS (SELECT 1 FROM workspace_integrations g WHERE g.id = d.integration_id");
        push_given(sql, [(" AND g.provider = ", provider), (" AND g.installation_id = ", installation)]);
        sql.push(")");
    }
}
