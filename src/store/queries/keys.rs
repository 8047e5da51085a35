//! API keys: hashes only.

use super::{Builder, Fields, Row, Session, log, notify, page, push_given, query, rows_wanted, sessions, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::{KeyId, OrgId},
        log_entry::LogEntry,
    },
    store::{ApiKey, Change, Page, PageRequest, StoreResult},
};

pub(super) const FIND: &str = "SELECT id, name, hash, prefix, org_id, can_write, created_at, last_used_at, revoked_at \
                               FROM gw_api_keys WHERE hash = $1";

const LIST: &str = "SELECT id, name, hash, prefix, org_id, can_write, created_at, last_used_at, revoked_at \
                    FROM gw_api_keys ORDER BY id";

pub(crate) async fn insert(db: &mut Session<'_>, key: &ApiKey, entry: &LogEntry) -> StoreResult<()> {
    let mut sql = Builder::new(
        "INSERT INTO gw_api_keys (id, name, hash, prefix, org_id, can_write, created_at, last_used_at, revoked_at) ",
    );
    sql.push_values([key], |mut row, key| {
        row.push_bind(key.id.as_str())
            .push_bind(&*text(&key.name))
            .push_bind(key.hash.as_slice())
            .push_bind(key.prefix.as_str())
            .push_bind(key.org.as_ref().map(|org| text(org.as_str()).into_owned()))
            .push_bind(key.can_write)
            .push_bind(key.created_at.0)
            .push_bind(key.last_used_at.map(|at| at.0))
            .push_bind(key.revoked_at.map(|at| at.0));
    });
    sql.build().execute(&mut *db.conn).await?;
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Keys).await
}

pub(crate) async fn find(db: &mut Session<'_>, hash: &[u8; 32]) -> StoreResult<Option<ApiKey>> {
    let row = query(FIND).bind(hash.as_slice()).fetch_optional(&mut *db.conn).await?;
    row.as_ref().map(key).transpose()
}

pub(crate) async fn list(db: &mut Session<'_>) -> StoreResult<Vec<ApiKey>> {
    query(LIST).fetch_all(&mut *db.conn).await?.iter().map(key).collect()
}

pub(crate) async fn list_page(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    request: PageRequest<'_>,
) -> StoreResult<Page<ApiKey>> {
    let mut sql = Builder::new(
        "SELECT id, name, hash, prefix, org_id, can_write, created_at, last_used_at, revoked_at FROM gw_api_keys \
         WHERE id IS NOT NULL",
    );
    push_given(&mut sql, [(" AND org_id = ", org.map(OrgId::as_str)), (" AND id < ", request.cursor)]);
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(key).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |key: &ApiKey| key.id.as_str()))
}

pub(crate) async fn revoke(db: &mut Session<'_>, id: &KeyId, now: EpochMs, entry: &LogEntry) -> StoreResult<bool> {
    const REVOKE: &str = "UPDATE gw_api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
    let revoked = query(REVOKE).bind(&*text(id.as_str())).bind(now.0).execute(&mut *db.conn).await?;
    if revoked.rows_affected() == 0 {
        return Ok(false);
    }
    sessions::end_of_key(db, id).await?;
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Keys).await?;
    Ok(true)
}

pub(crate) async fn touch(db: &mut Session<'_>, mut used: Vec<(KeyId, EpochMs)>) -> StoreResult<()> {
    const TOUCH: &str =
        "UPDATE gw_api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
    used.sort_unstable();
    for (id, at) in used {
        query(TOUCH).bind(id.as_str()).bind(at.0).execute(&mut *db.conn).await?;
    }
    Ok(())
}

fn key(row: &Row) -> StoreResult<ApiKey> {
    let mut fields = Fields::new(row);
    Ok(ApiKey {
        id: KeyId::from_raw(fields.begin("gw_api_keys")?),
        name: fields.get()?,
        hash: fields.get::<&[u8]>()?.try_into().map_err(|_| fields.inconsistent("hash"))?,
        prefix: fields.get()?,
        org: fields.get::<Option<&str>>()?.map(OrgId::from_raw),
        can_write: fields.get()?,
        created_at: fields.time()?,
        last_used_at: fields.maybe_time()?,
        revoked_at: fields.maybe_time()?,
    })
}
