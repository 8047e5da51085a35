//! Sessions of the console: hashes only.

use super::{Fields, Row, Session, log, query, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::KeyId,
        log_entry::LogEntry,
        session::{ConsoleSession, SessionHash},
    },
    store::StoreResult,
};

pub(super) const FIND: &str = "SELECT hash, key_id, masked_key_hash, user_id, created_at, last_seen_at, expires_at \
                               FROM gw_sessions WHERE hash = $1";

/// Of several requests of one browser the latest counts; a session that was ended meanwhile stays ended.
pub(super) const TOUCH: &str =
    "UPDATE gw_sessions SET last_seen_at = $2, expires_at = $3 WHERE hash = $1 AND last_seen_at < $2";

pub(super) const END_OF_KEY: &str = "DELETE FROM gw_sessions WHERE key_id = $1";

pub(super) const DELETE_EXPIRED: &str = "DELETE FROM gw_sessions WHERE expires_at < $1 AND hash IN \
     (SELECT hash FROM gw_sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";

pub(crate) async fn insert(db: &mut Session<'_>, session: &ConsoleSession, entry: &LogEntry) -> StoreResult<()> {
    const INSERT: &str = "INSERT INTO gw_sessions (hash, key_id, masked_key_hash, user_id, created_at, last_seen_at, \
                          expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    query(INSERT)
        .bind(session.hash.as_slice())
        .bind(session.key.as_str())
        .bind(session.masked_key_hash.as_slice())
        .bind(session.user.as_deref().map(|user| text(user).into_owned()))
        .bind(session.created_at.0)
        .bind(session.last_seen_at.0)
        .bind(session.expires_at.0)
        .execute(&mut *db.conn)
        .await?;
    log::append(db, std::slice::from_ref(entry)).await
}

pub(crate) async fn find(db: &mut Session<'_>, hash: &SessionHash) -> StoreResult<Option<ConsoleSession>> {
    let row = query(FIND).bind(hash.as_slice()).fetch_optional(&mut *db.conn).await?;
    row.as_ref().map(session).transpose()
}

pub(crate) async fn touch(
    db: &mut Session<'_>,
    hash: &SessionHash,
    seen_at: EpochMs,
    expires_at: EpochMs,
) -> StoreResult<()> {
    query(TOUCH).bind(hash.as_slice()).bind(seen_at.0).bind(expires_at.0).execute(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn end(db: &mut Session<'_>, hash: &SessionHash, entry: &LogEntry) -> StoreResult<bool> {
    const END: &str = "DELETE FROM gw_sessions WHERE hash = $1";
    let ended = query(END).bind(hash.as_slice()).execute(&mut *db.conn).await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    log::append(db, std::slice::from_ref(entry)).await?;
    Ok(true)
}

pub(super) async fn end_of_key(db: &mut Session<'_>, key: &KeyId) -> StoreResult<()> {
    query(END_OF_KEY).bind(&*text(key.as_str())).execute(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn delete_expired(db: &mut Session<'_>, now: EpochMs, limit: u32) -> StoreResult<u64> {
    let deleted = query(DELETE_EXPIRED).bind(now.0).bind(i64::from(limit)).execute(&mut *db.conn).await?;
    Ok(deleted.rows_affected())
}

fn session(row: &Row) -> StoreResult<ConsoleSession> {
    let mut fields = Fields::new(row);
    let hash: Vec<u8> = fields.get()?;
    fields.table = "gw_sessions";
    fields.id = hex::encode(&hash);
    Ok(ConsoleSession {
        hash: SessionHash::try_from(hash).map_err(|_| fields.inconsistent("hash"))?,
        key: KeyId::from_raw(fields.get::<&str>()?),
        masked_key_hash: fields.get::<&[u8]>()?.try_into().map_err(|_| fields.inconsistent("masked_key_hash"))?,
        user: fields.get()?,
        created_at: fields.time()?,
        last_seen_at: fields.time()?,
        expires_at: fields.time()?,
    })
}
