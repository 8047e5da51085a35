//! Destinations.

use super::{Arguments, Builder, Db, Fields, Query, Session, log, notify, page, push_given, query, rows_wanted, text};
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

pub(crate) async fn save(
    db: &mut Session<'_>,
    destination: &Destination,
    replaces: Option<&Destination>,
    entry: &LogEntry,
) -> StoreResult<bool> {
    let saved = match replaces {
        None => insert(db, destination).await?,
        Some(seen) => replace(db, destination, seen).await?,
    };
    if !saved {
        return Ok(false);
    }
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Destinations(destination.org.clone())).await?;
    Ok(true)
}

/// Binds, as `$1` to `$9`, the id and every column that may change.
fn bind_what_changes<'q>(
    statement: Query<'q, Db, Arguments>,
    destination: &'q Destination,
) -> Query<'q, Db, Arguments> {
    statement
        .bind(destination.id.as_str())
        .bind(text(&destination.url).into_owned())
        .bind(destination.headers_sealed.as_deref())
        .bind(destination.secret_sealed.as_str())
        .bind(destination.previous_secret_sealed.as_deref())
        .bind(destination.previous_until.map(|at| at.0))
        .bind(destination.disabled_reason.as_deref())
        .bind(destination.failing_since.map(|at| at.0))
        .bind(destination.updated_at.0)
}

async fn insert(db: &mut Session<'_>, destination: &Destination) -> StoreResult<bool> {
    const INSERT: &str = "INSERT INTO gw_destinations (id, url, headers_sealed, secret_sealed, previous_secret_sealed, \
                          previous_until, disabled_reason, failing_since, updated_at, org_id, scope, scope_id, created_at) \
                          VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
                          ON CONFLICT (org_id, scope, scope_id) DO NOTHING";
    let inserting = bind_what_changes(query(INSERT), destination)
        .bind(destination.org.as_str())
        .bind(destination.scope.as_str())
        .bind(text(&destination.scope_id).into_owned())
        .bind(destination.created_at.0);
    Ok(inserting.execute(&mut *db.conn).await?.rows_affected() > 0)
}

async fn replace(db: &mut Session<'_>, destination: &Destination, seen: &Destination) -> StoreResult<bool> {
    // Whoever writes a row changes its time or seals a secret anew, which is never the same text twice.
    const REPLACE: &str = "UPDATE gw_destinations SET url = $2, headers_sealed = $3, secret_sealed = $4, \
                           previous_secret_sealed = $5, previous_until = $6, disabled_reason = $7, failing_since = $8, \
                           updated_at = $9 WHERE id = $1 AND updated_at = $10 AND url = $11 AND secret_sealed = $12";
    let replacing = bind_what_changes(query(REPLACE), destination)
        .bind(seen.updated_at.0)
        .bind(text(&seen.url).into_owned())
        .bind(seen.secret_sealed.as_str());
    Ok(replacing.execute(&mut *db.conn).await?.rows_affected() > 0)
}

pub(crate) async fn note_health(
    db: &mut Session<'_>,
    id: &DestinationId,
    url: &str,
    health: DestinationHealth,
    now: EpochMs,
    entry: &LogEntry,
) -> StoreResult<bool> {
    const FAILING: &str = "UPDATE gw_destinations SET failing_since = $4, updated_at = $3 \
                           WHERE id = $1 AND url = $2 AND failing_since IS NULL RETURNING org_id";
    const RECOVERED: &str = "UPDATE gw_destinations SET failing_since = NULL, updated_at = $3 \
                             WHERE id = $1 AND url = $2 AND failing_since IS NOT NULL RETURNING org_id";
    const DISABLED: &str = "UPDATE gw_destinations SET disabled_reason = $4, updated_at = $3 \
                            WHERE id = $1 AND url = $2 AND disabled_reason IS NULL RETURNING org_id";
    let noted = |sql| query(sql).bind(id.as_str()).bind(text(url).into_owned()).bind(now.0);
    let noting = match health {
        DestinationHealth::FailingSince(since) => noted(FAILING).bind(since.0),
        DestinationHealth::Recovered => noted(RECOVERED),
        DestinationHealth::Disabled(reason) => noted(DISABLED).bind(reason),
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

pub(crate) async fn list_disabled(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    request: PageRequest<'_>,
) -> StoreResult<Page<Destination>> {
    let mut sql = Builder::new(concat!(
        "SELECT ",
        destination_columns!(),
        " FROM gw_destinations x WHERE x.disabled_reason IS NOT NULL"
    ));
    push_given(&mut sql, [(" AND x.org_id = ", org.map(OrgId::as_str)), (" AND x.id > ", request.cursor)]);
    sql.push(" ORDER BY x.id LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(|row| Fields::new(row).destination()).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |destination: &Destination| destination.id.as_str()))
}
