//! Tokens, sealed, and the claims on refreshing them.

use super::{Builder, Fields, Row, Session, query, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::InstallationId,
        provider::ProviderSlug,
        token::{RefreshClaim, SealedToken, TokenEdit},
    },
    store::StoreResult,
};

pub(super) const FIND: &str = "SELECT installation_id, access_token_sealed, refresh_token_sealed, token_type, scope, \
     expires_at, refresh_expires_at, generation, refreshing_owner, refreshing_until, created_at, updated_at \
     FROM gw_tokens WHERE installation_id = $1";

/// What has ended comes last: tokens that cannot be renewed, however many, do not keep those waiting that can.
pub(super) const LIST_EXPIRING: &str = concat!(
    "SELECT t.installation_id FROM gw_tokens t JOIN gw_installations i ON i.id = t.installation_id \
     WHERE t.expires_at < $1 AND t.expires_at IS NOT NULL AND t.refresh_token_sealed IS NOT NULL \
     AND (t.refreshing_until IS NULL OR t.refreshing_until <= ",
    earlier_now!("$2"),
    ") AND i.status = 'active' AND i.provider = $3 ORDER BY t.expires_at <= $2, t.expires_at LIMIT $4"
);

/// A lapsed claim is nobody's. It holds as long as was asked for by the clock that all nodes have in common: by its own, one
/// that is behind would be overtaken while the provider replaces the pair, and one that is ahead would overtake.
pub(super) const CLAIM: &str = concat!(
    "UPDATE gw_tokens SET refreshing_owner = $3, refreshing_until = ",
    shared_now!("$4"),
    " + $5 - $4 WHERE installation_id = $1 AND generation = $2 AND (refreshing_until IS NULL OR refreshing_until <= ",
    shared_now!("$4"),
    ")"
);

pub(crate) async fn find(db: &mut Session<'_>, installation: &InstallationId) -> StoreResult<Option<SealedToken>> {
    let row = query(FIND).bind(&*text(installation.as_str())).fetch_optional(&mut *db.conn).await?;
    row.as_ref().map(token).transpose()
}

fn token(row: &Row) -> StoreResult<SealedToken> {
    let mut fields = Fields::new(row);
    Ok(SealedToken {
        installation: InstallationId::from_raw(fields.begin("gw_tokens")?),
        access: fields.get()?,
        refresh: fields.get()?,
        token_type: fields.get()?,
        scope: fields.get()?,
        expires_at: fields.maybe_time()?,
        refresh_expires_at: fields.maybe_time()?,
        generation: fields.number("generation")?,
        claim: match (fields.get::<Option<String>>()?, fields.maybe_time()?) {
            (Some(owner), Some(until)) => Some(RefreshClaim { owner, until }),
            _ => None,
        },
        created_at: fields.time()?,
        updated_at: fields.time()?,
    })
}

/// Does to an installation's token what an edit of the installation says.
pub(super) async fn edit(db: &mut Session<'_>, installation: &InstallationId, edit: &TokenEdit) -> StoreResult<()> {
    const DELETE: &str = "DELETE FROM gw_tokens WHERE installation_id = $1";
    match edit {
        TokenEdit::Keep => {}
        TokenEdit::Put(token) => put(db, installation, token).await?,
        TokenEdit::Delete => {
            query(DELETE).bind(installation.as_str()).execute(&mut *db.conn).await?;
        }
    }
    Ok(())
}

/// Writes a token whatever was there, one generation above it.
pub(super) async fn put(db: &mut Session<'_>, installation: &InstallationId, token: &SealedToken) -> StoreResult<()> {
    let mut sql = Builder::new(
        "INSERT INTO gw_tokens (installation_id, access_token_sealed, refresh_token_sealed, token_type, scope, \
         expires_at, refresh_expires_at, generation, created_at, updated_at) ",
    );
    sql.push_values([token], |mut row, token| {
        row.push_bind(installation.as_str())
            .push_bind(token.access.as_str())
            .push_bind(token.refresh.as_deref())
            .push_bind(token.token_type.as_deref().map(|kind| text(kind).into_owned()))
            .push_bind(token.scope.as_deref().map(|scope| text(scope).into_owned()))
            .push_bind(token.expires_at.map(|at| at.0))
            .push_bind(token.refresh_expires_at.map(|at| at.0))
            .push_bind(generation(token.generation))
            .push_bind(token.created_at.0)
            .push_bind(token.updated_at.0);
    });
    sql.push(
        " ON CONFLICT (installation_id) DO UPDATE SET access_token_sealed = excluded.access_token_sealed, \
         refresh_token_sealed = excluded.refresh_token_sealed, token_type = excluded.token_type, \
         scope = excluded.scope, expires_at = excluded.expires_at, refresh_expires_at = excluded.refresh_expires_at, \
         generation = gw_tokens.generation + 1, refreshing_owner = NULL, refreshing_until = NULL, \
         updated_at = excluded.updated_at",
    );
    sql.build().execute(&mut *db.conn).await?;
    Ok(())
}

/// A generation as its column holds it: one that is too large was never given out, and matches nothing.
fn generation(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

pub(crate) async fn claim_refresh(
    db: &mut Session<'_>,
    installation: &InstallationId,
    from: u64,
    owner: &str,
    now: EpochMs,
    until: EpochMs,
) -> StoreResult<bool> {
    let claiming = query(CLAIM)
        .bind(&*text(installation.as_str()))
        .bind(generation(from))
        .bind(&*text(owner))
        .bind(now.0)
        .bind(until.0);
    Ok(claiming.execute(&mut *db.conn).await?.rows_affected() > 0)
}

pub(crate) async fn save_refreshed(db: &mut Session<'_>, token: &SealedToken, owner: &str) -> StoreResult<bool> {
    const SAVE: &str = "UPDATE gw_tokens SET access_token_sealed = $3, refresh_token_sealed = $4, token_type = $5, \
         scope = $6, expires_at = $7, refresh_expires_at = $8, generation = $9, refreshing_owner = NULL, \
         refreshing_until = NULL, updated_at = $10 \
         WHERE installation_id = $1 AND refreshing_owner = $2 AND generation = $9 - 1";
    let saving = query(SAVE)
        .bind(&*text(token.installation.as_str()))
        .bind(&*text(owner))
        .bind(token.access.as_str())
        .bind(token.refresh.as_deref())
        .bind(token.token_type.as_deref().map(|kind| text(kind).into_owned()))
        .bind(token.scope.as_deref().map(|scope| text(scope).into_owned()))
        .bind(token.expires_at.map(|at| at.0))
        .bind(token.refresh_expires_at.map(|at| at.0))
        .bind(generation(token.generation))
        .bind(token.updated_at.0);
    Ok(saving.execute(&mut *db.conn).await?.rows_affected() > 0)
}

pub(crate) async fn release_refresh(
    db: &mut Session<'_>,
    installation: &InstallationId,
    owner: &str,
) -> StoreResult<()> {
    const RELEASE: &str = "UPDATE gw_tokens SET refreshing_owner = NULL, refreshing_until = NULL \
                           WHERE installation_id = $1 AND refreshing_owner = $2";
    query(RELEASE).bind(&*text(installation.as_str())).bind(&*text(owner)).execute(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn list_expiring(
    db: &mut Session<'_>,
    provider: ProviderSlug,
    before: EpochMs,
    now: EpochMs,
    limit: u32,
) -> StoreResult<Vec<InstallationId>> {
    let found = query(LIST_EXPIRING).bind(before.0).bind(now.0).bind(provider.as_str()).bind(i64::from(limit));
    let rows = found.fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Ok(InstallationId::from_raw(Fields::new(row).get::<&str>()?))).collect()
}
