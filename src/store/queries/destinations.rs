//! Destinations.

use super::{Builder, Fields, Session, log, notify, page, query, rows_wanted, text};
use crate::{
    model::{
        clock::EpochMs,
        destination::{Destination, DestinationScope},
        ids::{DestinationId, OrgId},
        log_entry::LogEntry,
    },
    store::{Change, DestinationHealth, Page, PageRequest, StoreResult},
};

const FIND: &str = concat!("SELECT ", destination_columns!(), " FROM gw_destinations x WHERE x.id = $1");

const FIND_OF: &str = concat!(
    "SELECT ",
    destination_columns!(),
    " FROM gw_destinations x WHERE x.org_id = $1 AND x.scope = $2 AND x.scope_id = $3"
);

const LIST: &str =
    concat!("SELECT ", destination_columns!(), " FROM gw_destinations x WHERE x.org_id = $1 ORDER BY x.id");

pub(crate) async fn save(db: &mut Session<'_>, destination: &Destination, entry: &LogEntry) -> StoreResult<()> {
    let mut sql = Builder::new(
        "INSERT INTO gw_destinations (id, org_id, scope, scope_id, url, headers_sealed, secret_sealed, \
         previous_secret_sealed, previous_until, disabled_reason, failing_since, created_at, updated_at) ",
    );
    sql.push_values([destination], |mut row, destination| {
        row.push_bind(destination.id.as_str())
            .push_bind(destination.org.as_str())
            .push_bind(destination.scope.as_str())
            .push_bind(&*text(&destination.scope_id))
            .push_bind(&*text(&destination.url))
            .push_bind(destination.headers_sealed.as_deref())
            .push_bind(destination.secret_sealed.as_str())
            .push_bind(destination.previous_secret_sealed.as_deref())
            .push_bind(destination.previous_until.map(|at| at.0))
            .push_bind(destination.disabled_reason.as_deref())
            .push_bind(destination.failing_since.map(|at| at.0))
            .push_bind(destination.created_at.0)
            .push_bind(destination.updated_at.0);
    });
    sql.push(
        " ON CONFLICT (org_id, scope, scope_id) DO UPDATE SET url = excluded.url, \
         headers_sealed = excluded.headers_sealed, secret_sealed = excluded.secret_sealed, \
         previous_secret_sealed = excluded.previous_secret_sealed, previous_until = excluded.previous_until, \
         disabled_reason = excluded.disabled_reason, failing_since = excluded.failing_since, \
         updated_at = excluded.updated_at",
    );
    sql.build().execute(&mut *db.conn).await?;
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Destinations(destination.org.clone())).await
}

pub(crate) async fn note_health(
    db: &mut Session<'_>,
    id: &DestinationId,
    health: DestinationHealth,
    now: EpochMs,
    entry: &LogEntry,
) -> StoreResult<bool> {
    const FAILING: &str = "UPDATE gw_destinations SET failing_since = $3, updated_at = $2 \
                           WHERE id = $1 AND failing_since IS NULL RETURNING org_id";
    const RECOVERED: &str = "UPDATE gw_destinations SET failing_since = NULL, updated_at = $2 \
                             WHERE id = $1 AND failing_since IS NOT NULL RETURNING org_id";
    const DISABLED: &str = "UPDATE gw_destinations SET disabled_reason = $3, updated_at = $2 \
                            WHERE id = $1 AND disabled_reason IS NULL RETURNING org_id";
    let noting = match health {
        DestinationHealth::FailingSince(since) => query(FAILING).bind(id.as_str()).bind(now.0).bind(since.0),
        DestinationHealth::Recovered => query(RECOVERED).bind(id.as_str()).bind(now.0),
        DestinationHealth::Disabled(reason) => query(DISABLED).bind(id.as_str()).bind(now.0).bind(reason),
    };
    let Some(row) = noting.fetch_optional(&mut *db.conn).await? else { return Ok(false) };
    let org = OrgId::from_raw(Fields::new(&row).get::<&str>()?);
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Destinations(org)).await?;
    Ok(true)
}

pub(crate) async fn delete(db: &mut Session<'_>, id: &DestinationId, entry: &LogEntry) -> StoreResult<bool> {
    const DELETE: &str = "DELETE FROM gw_destinations WHERE id = $1 RETURNING org_id";
    let Some(row) = query(DELETE).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await? else {
        return Ok(false);
    };
    let org = OrgId::from_raw(Fields::new(&row).get::<&str>()?);
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Destinations(org)).await?;
    Ok(true)
}

pub(crate) async fn find(db: &mut Session<'_>, id: &DestinationId) -> StoreResult<Option<Destination>> {
    let row = query(FIND).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).destination()).transpose()
}

pub(crate) async fn find_of(
    db: &mut Session<'_>,
    org: &OrgId,
    scope: DestinationScope,
    scope_id: &str,
) -> StoreResult<Option<Destination>> {
    let found = query(FIND_OF).bind(&*text(org.as_str())).bind(scope.as_str()).bind(&*text(scope_id));
    let row = found.fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).destination()).transpose()
}

pub(crate) async fn list(db: &mut Session<'_>, org: &OrgId) -> StoreResult<Vec<Destination>> {
    let rows = query(LIST).bind(&*text(org.as_str())).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).destination()).collect()
}

pub(crate) async fn list_page(
    db: &mut Session<'_>,
    org: &OrgId,
    request: PageRequest<'_>,
) -> StoreResult<Page<Destination>> {
    const PAGE: &str = concat!(
        "SELECT ",
        destination_columns!(),
        " FROM gw_destinations x WHERE x.org_id = $1 AND x.id > $2 ORDER BY x.id LIMIT $3"
    );
    let after = text(request.cursor.unwrap_or_default());
    let found = query(PAGE).bind(text(org.as_str()).into_owned()).bind(&*after).bind(rows_wanted(request));
    let rows = found.fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(|row| Fields::new(row).destination()).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |destination: &Destination| destination.id.as_str()))
}
