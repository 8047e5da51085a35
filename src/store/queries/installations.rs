//! Installations, one row at a time. Whole records are in `records.rs`.

use serde_json::Value;

use super::{
    Builder, Fields, Session, list as id_list, log, notify, page, push_given, query, row_statement::RowStatement,
    rows_wanted, text, tokens,
};
use crate::{
    model::{
        clock::EpochMs,
        ids::{InstallationId, IntegrationId, OrgId},
        installation::{Installation, InstallationStatus},
        log_entry::LogEntry,
        provider::{ExternalId, ProviderResourceId, ProviderSlug},
        token::SealedToken,
    },
    store::{Change, Page, PageRequest, StoreResult},
};

const FIND: &str = concat!("SELECT ", installation_columns!(), " FROM gw_installations i WHERE i.id = $1");

pub(super) const FIND_BY_EXTERNAL_ID: &str = concat!(
    "SELECT ",
    installation_columns!(),
    " FROM gw_installations i WHERE i.provider = $1 AND i.external_id = $2 AND i.status <> 'revoked'"
);

pub(super) const FIND_BY_ALTERNATE_ID: &str = concat!(
    "SELECT ",
    installation_columns!(),
    " FROM gw_installations i WHERE i.provider = $1 AND i.alternate_external_id = $2 AND i.status <> 'revoked' \
     ORDER BY i.id DESC LIMIT 1"
);

pub(super) const FIND_BY_RESOURCE: &str = concat!(
    "SELECT ",
    installation_columns!(),
    " FROM gw_resources r JOIN gw_installations i ON i.id = r.installation_id \
     WHERE r.provider_resource_id = $2 AND r.status = 'active' AND i.provider = $1 \
     AND i.status IN ('active', 'needs_reauth') ORDER BY i.id"
);

pub(super) const FIND_ENDED: &str = concat!(
    "SELECT ",
    installation_columns!(),
    " FROM gw_installations i WHERE i.provider = $1 AND i.external_id = $2 AND i.status = 'revoked' \
     AND (i.org_id = $3 OR $3 IS NULL) \
     ORDER BY i.id DESC LIMIT 1"
);

pub(crate) async fn insert(
    db: &mut Session<'_>,
    installation: &Installation,
    token: Option<&SealedToken>,
    entry: &LogEntry,
) -> StoreResult<()> {
    save(db, installation, "").await?;
    if let Some(token) = token {
        tokens::put(db, &installation.id, token).await?;
    }
    log::append(db, std::slice::from_ref(entry)).await?;
    notify(db.conn, &Change::Installation(installation.id.clone())).await
}

/// Replaces the row of that id.
pub(super) async fn replace(db: &mut Session<'_>, installation: &Installation) -> StoreResult<()> {
    const ON_CONFLICT: &str = " ON CONFLICT (id) DO UPDATE SET external_id = excluded.external_id, \
         alternate_external_id = excluded.alternate_external_id, account_login = excluded.account_login, \
         org_id = excluded.org_id, connected_by = excluded.connected_by, status = excluded.status, \
         status_reason = excluded.status_reason, metadata = excluded.metadata, \
         provider_account_info = excluded.provider_account_info, control_at = excluded.control_at, \
         last_event_at = excluded.last_event_at, updated_at = excluded.updated_at";
    save(db, installation, ON_CONFLICT).await
}

async fn save(db: &mut Session<'_>, installation: &Installation, on_conflict: &'static str) -> StoreResult<()> {
    let mut sql = Builder::new(
        "INSERT INTO gw_installations (id, provider, external_id, alternate_external_id, account_login, org_id, \
         connected_by, status, status_reason, metadata, provider_account_info, control_at, last_event_at, created_at, \
         updated_at) ",
    );
    sql.push_values([installation], |mut row, installation| {
        row.push_bind(installation.id.as_str())
            .push_bind(installation.provider.as_str())
            .push_bind(&*text(installation.external_id.as_str()))
            .push_bind(installation.alternate_external_id.as_ref().map(|id| text(id.as_str()).into_owned()))
            .push_bind(installation.account_login.as_deref().map(|login| text(login).into_owned()))
            .push_bind(installation.org.as_str())
            .push_bind(&*text(&installation.connected_by))
            .push_bind(installation.status.as_str())
            .push_bind(installation.status_reason.as_deref().map(|reason| text(reason).into_owned()))
            .push_bind(serde_json::Value::Object(installation.metadata.clone()).to_string())
            .push_bind(installation.provider_account_info.as_ref().map(ToString::to_string))
            .push_bind(installation.control_at.map(|at| at.0))
            .push_bind(installation.last_event_at.map(|at| at.0))
            .push_bind(installation.created_at.0)
            .push_bind(installation.updated_at.0);
    });
    sql.push(on_conflict).build().execute(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn find(db: &mut Session<'_>, id: &InstallationId) -> StoreResult<Option<Installation>> {
    let row = query(FIND).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).installation(db.known)).transpose()
}

pub(crate) async fn find_live(
    db: &mut Session<'_>,
    provider: ProviderSlug,
    external_id: &ExternalId,
) -> StoreResult<Option<Installation>> {
    for sql in [FIND_BY_EXTERNAL_ID, FIND_BY_ALTERNATE_ID] {
        let found = query(sql).bind(provider.as_str()).bind(&*text(external_id.as_str()));
        if let Some(row) = found.fetch_optional(&mut *db.conn).await? {
            return Fields::new(&row).installation(db.known).map(Some);
        }
    }
    Ok(None)
}

pub(crate) async fn find_ended(
    db: &mut Session<'_>,
    provider: ProviderSlug,
    external_id: &ExternalId,
    org: Option<&OrgId>,
) -> StoreResult<Option<Installation>> {
    let org = org.map(|org| text(org.as_str()).into_owned());
    let found = query(FIND_ENDED).bind(provider.as_str()).bind(&*text(external_id.as_str())).bind(org);
    let row = found.fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).installation(db.known)).transpose()
}

pub(crate) async fn save_visible(
    db: &mut Session<'_>,
    id: &InstallationId,
    resources: &[ProviderResourceId],
    at: EpochMs,
) -> StoreResult<()> {
    const SAVE: &str = "UPDATE gw_installations SET visible_resources = $2, visible_at = $3 WHERE id = $1";
    let visible = id_list(resources.iter().map(ProviderResourceId::as_str));
    query(SAVE).bind(&*text(id.as_str())).bind(visible).bind(at.0).execute(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn find_visible(
    db: &mut Session<'_>,
    id: &InstallationId,
) -> StoreResult<Option<Vec<ProviderResourceId>>> {
    const FIND_VISIBLE: &str = "SELECT id, visible_resources FROM gw_installations WHERE id = $1";
    read_json(db, FIND_VISIBLE, id, "visible_resources").await
}

pub(crate) async fn save_health(db: &mut Session<'_>, id: &InstallationId, health: Option<&Value>) -> StoreResult<()> {
    const SAVE: &str = "UPDATE gw_installations SET provider_health = $2 WHERE id = $1";
    query(SAVE).bind(&*text(id.as_str())).bind(health.map(Value::to_string)).execute(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn find_health(db: &mut Session<'_>, id: &InstallationId) -> StoreResult<Option<Value>> {
    const FIND_HEALTH: &str = "SELECT id, provider_health FROM gw_installations WHERE id = $1";
    read_json(db, FIND_HEALTH, id, "provider_health").await
}

async fn read_json<T: serde::de::DeserializeOwned>(
    db: &mut Session<'_>,
    sql: &'static str,
    id: &InstallationId,
    column: &'static str,
) -> StoreResult<Option<T>> {
    let Some(row) = query(sql).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await? else {
        return Ok(None);
    };
    let mut fields = Fields::new(&row);
    fields.begin("gw_installations")?;
    fields.maybe_json(column)
}

pub(crate) async fn find_by_resource(
    db: &mut Session<'_>,
    provider: ProviderSlug,
    resource: &ProviderResourceId,
) -> StoreResult<Vec<Installation>> {
    let found = query(FIND_BY_RESOURCE).bind(provider.as_str()).bind(&*text(resource.as_str()));
    let rows = found.fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).installation(db.known)).collect()
}

pub(crate) async fn list(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    provider: Option<&str>,
    status: Option<InstallationStatus>,
    request: PageRequest<'_>,
) -> StoreResult<Page<Installation>> {
    let mut sql =
        Builder::new(concat!("SELECT ", installation_columns!(), " FROM gw_installations i WHERE i.id IS NOT NULL"));
    let conditions = [
        (" AND i.org_id = ", org.map(OrgId::as_str)),
        (" AND i.provider = ", provider),
        (" AND i.status = ", status.map(InstallationStatus::as_str)),
        (" AND i.id < ", request.cursor),
    ];
    push_given(&mut sql, conditions);
    sql.push(" ORDER BY i.id DESC LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(|row| Fields::new(row).installation(db.known)).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |installation: &Installation| installation.id.as_str()))
}

pub(crate) async fn list_routing(db: &mut Session<'_>) -> StoreResult<Vec<InstallationId>> {
    const LIST: &str = "SELECT id FROM gw_installations WHERE status IN ('active', 'needs_reauth') ORDER BY id";
    let rows = query(LIST).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Ok(InstallationId::from_raw(Fields::new(row).get::<&str>()?))).collect()
}

pub(crate) async fn touch_last_event(
    db: &mut Session<'_>,
    installations: Vec<(InstallationId, EpochMs)>,
    integrations: Vec<(IntegrationId, EpochMs)>,
) -> StoreResult<()> {
    static INSTALLATIONS: RowStatement =
        RowStatement::new("UPDATE gw_installations SET last_event_at = v.column2 FROM", 2, IF_LATER);
    static INTEGRATIONS: RowStatement =
        RowStatement::new("UPDATE workspace_integrations SET last_event_at = v.column2 FROM", 2, IF_LATER);
    const IF_LATER: &str = "AND id = v.column1 AND (last_event_at IS NULL OR last_event_at < v.column2)";
    touch(db, &INSTALLATIONS, installations.iter().map(|(id, at)| (id.as_str(), at.0)).collect()).await?;
    touch(db, &INTEGRATIONS, integrations.iter().map(|(id, at)| (id.as_str(), at.0)).collect()).await
}

async fn touch(
    db: &mut Session<'_>,
    statement: &'static RowStatement,
    mut touched: Vec<(&str, i64)>,
) -> StoreResult<()> {
    // One order for everybody, so that two nodes that touch the same rows do not wait for each other in a circle.
    touched.sort_unstable();
    statement
        .execute(db.conn, &touched, |row, (id, at)| {
            row.bind(*id).bind(*at);
        })
        .await?;
    Ok(())
}
