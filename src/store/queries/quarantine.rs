//! The quarantine: webhooks set aside, within bounds.

use bytes::Bytes;

use super::{Builder, Fields, Row, Session, count, list, log, page, push_given, query, rows_wanted, text};
use crate::{
    model::{ids::QuarantineId, log_entry::LogEntry},
    store::{Page, PageRequest, QuarantineBounds, Quarantined, StoreResult, known::KnownProviders},
};

const COLUMNS: &str = "SELECT id, provider, cause, headers, body_sha256, attempts, received_at, last_at";

/// Causes of webhooks that nobody vouches for (`providers/scheme.rs`): not signed, wrongly, or too long ago.
const UNVERIFIED: [&str; 3] = ["invalid_signature", "stale_timestamp", "internal_error"];

/// Between the digests of the body and of the headers in the column `body_sha256`, by which a row is unique: a webhook is
/// the same only with both. Rows of earlier versions have the body's alone. (A column of its own would have taken away the
/// index that nodes of an earlier version need while a new one rolls out.)
const BETWEEN_DIGESTS: char = '.';

/// Rows looked at in one read to make room.
const OLDEST_ROWS: i64 = 64;

pub(crate) async fn keep(
    db: &mut Session<'_>,
    webhooks: &[Quarantined],
    bounds: QuarantineBounds,
) -> StoreResult<Vec<(QuarantineId, u32)>> {
    let mut all = Vec::with_capacity(webhooks.len());
    for webhook in webhooks {
        all.push(keep_one(db, webhook, bounds).await?);
    }
    // Once for all of them: the totals are counted anew, however much is kept.
    if !all.is_empty() {
        let is_genuine = |webhook: &Quarantined| !UNVERIFIED.contains(&webhook.cause.as_str());
        let genuine = webhooks.iter().zip(&all).filter(|(webhook, _)| is_genuine(webhook));
        let promised: Vec<QuarantineId> = genuine.map(|(_, (id, _))| id.clone()).collect();
        let gone = make_room(db, &promised, bounds).await?;
        for (_, times) in all.iter_mut().filter(|(id, _)| gone.contains(id)) {
            *times = 0;
        }
    }
    Ok(all)
}

async fn keep_one(
    db: &mut Session<'_>,
    webhook: &Quarantined,
    bounds: QuarantineBounds,
) -> StoreResult<(QuarantineId, u32)> {
    let body_bytes = i64::try_from(webhook.body.len()).unwrap_or(i64::MAX);
    if count(body_bytes) > bounds.max_bytes || bounds.max_count == 0 {
        return Ok((webhook.id.clone(), 0));
    }
    let mut sql = Builder::new(
        "INSERT INTO gw_quarantine (id, provider, cause, headers, body_sha256, attempts, received_at, last_at, \
         body_bytes, body) ",
    );
    sql.push_values([webhook], |mut row, webhook| {
        row.push_bind(webhook.id.as_str())
            .push_bind(webhook.provider.as_str())
            .push_bind(webhook.cause.as_str())
            .push_bind(&*text(&webhook.headers))
            .push_bind(format!("{}{BETWEEN_DIGESTS}{}", webhook.body_sha256, webhook.headers_sha256))
            .push_bind(i64::from(webhook.attempts.max(1)))
            .push_bind(webhook.received_at.0)
            .push_bind(webhook.last_at.0)
            .push_bind(body_bytes)
            .push_bind(&*webhook.body);
    });
    // The headers stay: those that matter are the same.
    sql.push(
        " ON CONFLICT (provider, cause, body_sha256) DO UPDATE SET attempts = gw_quarantine.attempts + 1, \
         last_at = excluded.last_at RETURNING attempts, id",
    );
    let row = sql.build().fetch_one(&mut *db.conn).await?;
    let mut fields = Fields::new(&row);
    let attempts = fields.number("attempts")?;
    Ok((QuarantineId::from_raw(fields.get::<String>()?), attempts))
}

/// Deletes until both bounds hold: first what nobody vouches for, which anybody can send in any amount, then what was
/// genuinely signed and whose provider may have been told that it is kept; of either the oldest first. The genuine webhooks
/// `promised`, which may have old rows, are the last to go, all but the newest of them; answers which did.
async fn make_room(
    db: &mut Session<'_>,
    promised: &[QuarantineId],
    bounds: QuarantineBounds,
) -> StoreResult<Vec<QuarantineId>> {
    const TOTALS: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(body_bytes), 0) AS BIGINT) FROM gw_quarantine";
    const OLDEST: &str = concat!(
        "SELECT id, body_bytes FROM gw_quarantine WHERE NOT (id",
        in_list!("$1"),
        ") AND (cause",
        in_list!("$2"),
        ") = $3 ORDER BY id LIMIT $4"
    );
    let row = query(TOTALS).fetch_one(&mut *db.conn).await?;
    let mut fields = Fields::new(&row);
    let (mut webhooks, mut bytes) = (count(fields.get()?), count(fields.get()?));
    let within = |webhooks: u64, bytes: u64| webhooks <= bounds.max_count && bytes <= bounds.max_bytes;
    let newest = &promised[promised.len().saturating_sub(1)..];
    let mut gone = Vec::new();
    for (unverified, spared) in [(true, promised), (false, promised), (false, newest)] {
        let spared = list(spared.iter().map(QuarantineId::as_str));
        while !within(webhooks, bytes) {
            let oldest = query(OLDEST).bind(&*spared).bind(list(UNVERIFIED)).bind(unverified).bind(OLDEST_ROWS);
            let mut doomed = Vec::new();
            for row in oldest.fetch_all(&mut *db.conn).await? {
                if within(webhooks, bytes) {
                    break;
                }
                let mut fields = Fields::new(&row);
                doomed.push(QuarantineId::from_raw(fields.get::<&str>()?));
                webhooks = webhooks.saturating_sub(1);
                bytes = bytes.saturating_sub(count(fields.get()?));
            }
            if doomed.is_empty() {
                break;
            }
            delete(db, &doomed, None).await?;
            gone.extend(doomed.into_iter().filter(|id| promised.contains(id)));
        }
    }
    Ok(gone)
}

pub(crate) async fn list_kept(
    db: &mut Session<'_>,
    provider: Option<&str>,
    request: PageRequest<'_>,
) -> StoreResult<Page<Quarantined>> {
    let mut sql = Builder::new(COLUMNS);
    sql.push(" FROM gw_quarantine WHERE id IS NOT NULL");
    push_given(&mut sql, [(" AND provider = ", provider), (" AND id < ", request.cursor)]);
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(|row| webhook(row, db.known, false)).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |webhook: &Quarantined| webhook.id.as_str()))
}

pub(crate) async fn list_bodies(
    db: &mut Session<'_>,
    provider: Option<&str>,
    after: Option<&QuarantineId>,
    limit: u32,
) -> StoreResult<Vec<Quarantined>> {
    let mut sql = Builder::new(COLUMNS);
    sql.push(", body FROM gw_quarantine WHERE id > ").push_bind(&*text(after.map_or("", QuarantineId::as_str)));
    push_given(&mut sql, [(" AND provider = ", provider)]);
    sql.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| webhook(row, db.known, true)).collect()
}

pub(crate) async fn find(db: &mut Session<'_>, id: &QuarantineId) -> StoreResult<Option<Quarantined>> {
    let mut sql = Builder::new(COLUMNS);
    sql.push(", body FROM gw_quarantine WHERE id = ").push_bind(&*text(id.as_str()));
    let row = sql.build().fetch_optional(&mut *db.conn).await?;
    row.map(|row| webhook(&row, db.known, true)).transpose()
}

pub(crate) async fn delete(db: &mut Session<'_>, ids: &[QuarantineId], entry: Option<&LogEntry>) -> StoreResult<u64> {
    const DELETE: &str = concat!("DELETE FROM gw_quarantine WHERE id", in_list!("$1"));
    let deleting = query(DELETE).bind(list(ids.iter().map(QuarantineId::as_str)));
    let deleted = deleting.execute(&mut *db.conn).await?.rows_affected();
    if let Some(entry) = entry.filter(|_| deleted > 0) {
        log::append(db, std::slice::from_ref(entry)).await?;
    }
    Ok(deleted)
}

fn webhook(row: &Row, known: &KnownProviders, with_body: bool) -> StoreResult<Quarantined> {
    let mut fields = Fields::new(row);
    let id = QuarantineId::from_raw(fields.begin("gw_quarantine")?);
    let provider = fields.word("provider", |word| known.find(word))?;
    let (cause, headers) = (fields.get()?, fields.get()?);
    let digests: &str = fields.get()?;
    let (body_sha256, headers_sha256) = digests.split_once(BETWEEN_DIGESTS).unwrap_or((digests, ""));
    Ok(Quarantined {
        id,
        provider,
        cause,
        headers,
        body_sha256: body_sha256.to_owned(),
        headers_sha256: headers_sha256.to_owned(),
        attempts: fields.number("attempts")?,
        received_at: fields.time()?,
        last_at: fields.time()?,
        body: if with_body { Bytes::from(fields.get::<Vec<u8>>()?) } else { Bytes::new() },
    })
}
