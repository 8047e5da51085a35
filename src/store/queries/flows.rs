//! OAuth flows. Each is decided by one statement: of any number of callbacks with the same state, one takes it.

use serde_json::Value;

use super::{Builder, Fields, Row, Session, log, query, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::{InstallationId, OrgId},
        log_entry::LogEntry,
        oauth_flow::{FlowOutcome, FlowStatus, OAuthFlow, TokenHash},
        provider::ProviderSlug,
    },
    store::{StoreResult, known::KnownProviders},
};

macro_rules! flow_columns {
    () => {
        "state_hash, root_hash, provider, org_id, user_id, actor, cookie_hash, pkce_verifier_sealed, redirect_to, \
         context, status, error, installation_id, result, created_at, expires_at, taken_at, finished_at"
    };
}

pub(super) const FIND: &str = concat!("SELECT ", flow_columns!(), " FROM gw_oauth_states WHERE state_hash = $1");

pub(super) const BIND: &str = concat!(
    "UPDATE gw_oauth_states SET cookie_hash = $3 WHERE state_hash = $1 AND provider = $2 AND taken_at IS NULL \
     AND expires_at > $4 AND (cookie_hash IS NULL OR cookie_hash = $3) RETURNING ",
    flow_columns!()
);

pub(super) const TAKE: &str = concat!(
    "UPDATE gw_oauth_states SET taken_at = $4 WHERE state_hash = $1 AND provider = $2 AND cookie_hash = $3 \
     AND taken_at IS NULL AND expires_at > $4 RETURNING ",
    flow_columns!()
);

pub(crate) async fn insert(db: &mut Session<'_>, flow: &OAuthFlow, entry: Option<&LogEntry>) -> StoreResult<()> {
    let owned = |value: &Option<String>| value.as_deref().map(|value| text(value).into_owned());
    let actor = serde_json::json!(flow.actor).to_string();
    let mut sql = Builder::new(concat!("INSERT INTO gw_oauth_states (", flow_columns!(), ") "));
    sql.push_values([flow], |mut row, flow| {
        row.push_bind(flow.state_hash.as_slice())
            .push_bind(flow.root_hash.as_ref().map(TokenHash::as_slice))
            .push_bind(flow.provider.as_str())
            .push_bind(&*text(flow.org.as_str()))
            .push_bind(owned(&flow.user))
            .push_bind(actor.as_str())
            .push_bind(flow.cookie_hash.as_ref().map(TokenHash::as_slice))
            .push_bind(flow.pkce_verifier_sealed.as_deref())
            .push_bind(owned(&flow.redirect_to))
            .push_bind(flow.context.as_ref().map(Value::to_string))
            .push_bind(flow.status.as_str())
            .push_bind(owned(&flow.error))
            .push_bind(flow.installation.as_ref().map(|id| id.as_str().to_owned()))
            .push_bind(Value::Object(flow.result.clone()).to_string())
            .push_bind(flow.created_at.0)
            .push_bind(flow.expires_at.0)
            .push_bind(flow.taken_at.map(|at| at.0))
            .push_bind(flow.finished_at.map(|at| at.0));
    });
    sql.build().execute(&mut *db.conn).await?;
    log::append(db, entry.map_or(&[], std::slice::from_ref)).await
}

pub(crate) async fn find(db: &mut Session<'_>, state: &TokenHash) -> StoreResult<Option<OAuthFlow>> {
    let row = query(FIND).bind(state.as_slice()).fetch_optional(&mut *db.conn).await?;
    row.map(|row| flow(&row, db.known)).transpose()
}

pub(crate) async fn bind(
    db: &mut Session<'_>,
    state: &TokenHash,
    provider: ProviderSlug,
    cookie: &TokenHash,
    now: EpochMs,
) -> StoreResult<Option<OAuthFlow>> {
    decide(db, BIND, state, provider, cookie, now).await
}

pub(crate) async fn take(
    db: &mut Session<'_>,
    state: &TokenHash,
    provider: ProviderSlug,
    cookie: &TokenHash,
    now: EpochMs,
) -> StoreResult<Option<OAuthFlow>> {
    decide(db, TAKE, state, provider, cookie, now).await
}

async fn decide(
    db: &mut Session<'_>,
    sql: &'static str,
    state: &TokenHash,
    provider: ProviderSlug,
    cookie: &TokenHash,
    now: EpochMs,
) -> StoreResult<Option<OAuthFlow>> {
    let deciding = query(sql).bind(state.as_slice()).bind(provider.as_str()).bind(cookie.as_slice()).bind(now.0);
    let row = deciding.fetch_optional(&mut *db.conn).await?;
    row.map(|row| flow(&row, db.known)).transpose()
}

pub(crate) async fn finish(
    db: &mut Session<'_>,
    root: &TokenHash,
    outcome: &FlowOutcome,
    now: EpochMs,
    keep_until: EpochMs,
) -> StoreResult<()> {
    const FINISH: &str = "UPDATE gw_oauth_states SET status = $2, error = $3, installation_id = $4, result = $5, \
                          finished_at = $6, expires_at = $7 WHERE state_hash = $1";
    let ended = outcome.status != FlowStatus::Pending;
    query(FINISH)
        .bind(root.as_slice())
        .bind(outcome.status.as_str())
        .bind(outcome.error.as_deref().map(|error| text(error).into_owned()))
        .bind(outcome.installation.as_ref().map(|id| id.as_str().to_owned()))
        .bind(Value::Object(outcome.result.clone()).to_string())
        .bind(ended.then_some(now.0))
        .bind(keep_until.0)
        .execute(&mut *db.conn)
        .await?;
    Ok(())
}

fn flow(row: &Row, known: &KnownProviders) -> StoreResult<OAuthFlow> {
    let mut fields = Fields::new(row);
    let state: Vec<u8> = fields.get()?;
    fields.table = "gw_oauth_states";
    fields.id = hex::encode(&state);
    Ok(OAuthFlow {
        state_hash: TokenHash::try_from(state).map_err(|_| fields.inconsistent("state_hash"))?,
        root_hash: hash(&mut fields, "root_hash")?,
        provider: fields.word("provider", |word| known.find(word))?,
        org: OrgId::from_raw(fields.get::<&str>()?),
        user: fields.get()?,
        actor: fields.json("actor")?,
        cookie_hash: hash(&mut fields, "cookie_hash")?,
        pkce_verifier_sealed: fields.get()?,
        redirect_to: fields.get()?,
        context: fields.maybe_json("context")?,
        status: fields.word("status", FlowStatus::parse)?,
        error: fields.get()?,
        installation: fields.get::<Option<&str>>()?.map(InstallationId::from_raw),
        result: fields.maybe_json("result")?.unwrap_or_default(),
        created_at: fields.time()?,
        expires_at: fields.time()?,
        taken_at: fields.maybe_time()?,
        finished_at: fields.maybe_time()?,
    })
}

fn hash(fields: &mut Fields<'_>, column: &'static str) -> StoreResult<Option<TokenHash>> {
    let hash: Option<Vec<u8>> = fields.get()?;
    hash.map(|hash| TokenHash::try_from(hash).map_err(|_| fields.inconsistent(column))).transpose()
}
