//! Installation records: an installation with its resources, integrations and destinations, loaded and changed as one.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use super::{
    Fields, Session, columns::width, installations, log, notify, query, row_statement::RowStatement, teardowns, text,
    tokens,
};
use crate::{
    model::{
        destination::Destination, ids::InstallationId, integration::Integration, resource::Resource, token::TokenEdit,
    },
    store::{Change, ChangeFn, InstallationRecord, StoreResult},
};

/// The destinations that an installation's integrations can deliver to.
macro_rules! destinations_of_installation {
    () => {
        "gw_destinations x ON x.org_id = i.org_id AND (x.scope = 'org' \
         OR (x.scope = 'workspace' AND x.scope_id IN \
             (SELECT workspace_id FROM workspace_integrations WHERE installation_id = $1)) \
         OR (x.scope = 'integration' AND x.scope_id IN \
             (SELECT id FROM workspace_integrations WHERE installation_id = $1)))"
    };
}

macro_rules! record_columns {
    () => {
        concat!(
            installation_columns!(),
            ", ",
            teardown_columns!(),
            ", ",
            destination_columns!(),
            ", ",
            resource_columns!(),
            ", ",
            integration_columns!()
        )
    };
}

/// Everything about an installation in one statement: it is asked for an installation that is met for the first time, and
/// then the ways to the database and back are what it costs. Rows of three kinds: the installation with each of its
/// destinations, its resources, its integrations. What a kind does not have is joined on nothing, so that all have the same
/// columns. Each table is found by the parameter: a planner that knows nothing of the tables yet would join two of them by
/// reading one whole.
pub(super) const LOAD: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM gw_installations i LEFT JOIN gw_teardowns t ON t.installation_id = $1 LEFT JOIN ",
    destinations_of_installation!(),
    " LEFT JOIN gw_resources r ON r.id = NULL LEFT JOIN workspace_integrations g ON g.id = NULL WHERE i.id = $1 \
     UNION ALL SELECT ",
    record_columns!(),
    " FROM gw_resources r LEFT JOIN workspace_integrations g ON g.id = NULL \
     LEFT JOIN gw_installations i ON i.id = NULL LEFT JOIN gw_teardowns t ON t.installation_id = NULL \
     LEFT JOIN gw_destinations x ON x.id = NULL WHERE r.installation_id = $1 \
     UNION ALL SELECT ",
    record_columns!(),
    " FROM workspace_integrations g LEFT JOIN gw_resources r ON r.id = NULL \
     LEFT JOIN gw_installations i ON i.id = NULL LEFT JOIN gw_teardowns t ON t.installation_id = NULL \
     LEFT JOIN gw_destinations x ON x.id = NULL WHERE g.installation_id = $1"
);

pub(super) const DESTINATIONS: &str = concat!(
    "SELECT ",
    destination_columns!(),
    " FROM gw_installations i JOIN ",
    destinations_of_installation!(),
    " WHERE i.id = $1 ORDER BY x.id"
);

/// Where the columns of each table begin in a row of [`LOAD`].
const TEARDOWN: usize = width(installation_columns!());
const DESTINATION: usize = TEARDOWN + width(teardown_columns!());
const RESOURCE: usize = DESTINATION + width(destination_columns!());
const INTEGRATION: usize = RESOURCE + width(resource_columns!());

const LOCK: &str = concat!("SELECT id FROM gw_installations WHERE id = $1", for_update!());

pub(crate) async fn load(db: &mut Session<'_>, id: &InstallationId) -> StoreResult<Option<InstallationRecord>> {
    let (mut installation, mut teardown) = (None, None);
    // By their ids, which is the order that a record has them in.
    let (mut destinations, mut resources, mut integrations) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let known = db.known;
    for row in query(LOAD).bind(&*text(id.as_str())).fetch_all(&mut *db.conn).await? {
        if installation.is_none() {
            installation = Fields::present(&row, 0, |fields| fields.installation(known))?;
            teardown = Fields::present(&row, TEARDOWN, Fields::teardown)?;
        }
        if let Some(destination) = Fields::present(&row, DESTINATION, Fields::destination)? {
            destinations.insert(destination.id.clone(), destination);
        }
        if let Some(resource) = Fields::present(&row, RESOURCE, Fields::resource)? {
            resources.insert(resource.id.clone(), resource);
        }
        if let Some(integration) = Fields::present(&row, INTEGRATION, |fields| fields.integration(known))? {
            integrations.insert(integration.id.clone(), integration);
        }
    }
    Ok(installation.map(|installation| InstallationRecord {
        installation,
        resources: resources.into_values().collect(),
        integrations: integrations.into_values().collect(),
        destinations: destinations.into_values().collect(),
        teardown,
        token: TokenEdit::Keep,
        log: Vec::new(),
    }))
}

/// The destinations that an installation's integrations, as they are stored now, can deliver to.
async fn list_destinations(db: &mut Session<'_>, of: &InstallationId) -> StoreResult<Vec<Destination>> {
    let rows = query(DESTINATIONS).bind(of.as_str()).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Fields::new(row).destination()).collect()
}

pub(crate) async fn change(
    db: &mut Session<'_>,
    id: &InstallationId,
    change: ChangeFn,
) -> StoreResult<Option<InstallationRecord>> {
    // The lock first: what is read after it is what nobody else changes until the commit.
    query(LOCK).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    teardowns::lock(db, id).await?;
    let Some(before) = load(db, id).await? else { return Ok(None) };
    let mut after = before.clone();
    if !change(&mut after) {
        return Ok(Some(before));
    }
    if after.installation != before.installation {
        installations::replace(db, &after.installation).await?;
    }
    // Resources before the integrations that refer to them.
    save_resources(db, &changed(&before.resources, &after.resources, |resource| &resource.id)).await?;
    save_integrations(db, &changed(&before.integrations, &after.integrations, |integration| &integration.id)).await?;
    if after.integrations.len() > before.integrations.len() {
        // A workspace that is new here may have had a destination all along.
        after.destinations = list_destinations(db, id).await?;
    }
    if let Some(teardown) = after.teardown.as_ref().filter(|teardown| before.teardown.as_ref() != Some(*teardown)) {
        teardowns::save(db, teardown).await?;
    }
    // What was given to another installation is in that one's record.
    after.integrations.retain(|integration| integration.installation == *id);
    tokens::edit(db, id, &std::mem::take(&mut after.token)).await?;
    log::append(db, &after.log).await?;
    notify(db.conn, &Change::Installation(id.clone())).await?;
    after.log.clear();
    Ok(Some(after))
}

/// Those rows of `after` that were not there before, or were other.
fn changed<'r, T: PartialEq, K: Eq + Hash>(before: &[T], after: &'r [T], id: impl Fn(&T) -> &K) -> Vec<&'r T> {
    let known: HashMap<&K, &T> = before.iter().map(|row| (id(row), row)).collect();
    after.iter().filter(|row| known.get(id(row)) != Some(row)).collect()
}

static SAVE_RESOURCES: RowStatement = RowStatement::new(
    "INSERT INTO gw_resources (id, installation_id, provider_resource_id, kind, slug, resource_name, attrs, \
     status, status_reason, control_at, created_at, updated_at) SELECT * FROM",
    12,
    "ON CONFLICT (id) DO UPDATE SET provider_resource_id = excluded.provider_resource_id, kind = excluded.kind, \
     slug = excluded.slug, resource_name = excluded.resource_name, attrs = excluded.attrs, \
     status = excluded.status, status_reason = excluded.status_reason, control_at = excluded.control_at, \
     updated_at = excluded.updated_at",
);

async fn save_resources(db: &mut Session<'_>, resources: &[&Resource]) -> StoreResult<()> {
    SAVE_RESOURCES
        .execute(db.conn, resources, |row, resource| {
            row.bind(resource.id.as_str())
                .bind(resource.installation.as_str())
                .bind(&*text(resource.provider_resource_id.as_str()))
                .bind(resource.kind.as_str())
                .bind(resource.slug.as_deref().map(|slug| text(slug).into_owned()))
                .bind(resource.name.as_deref().map(|name| text(name).into_owned()))
                .bind(serde_json::Value::Object(resource.attrs.clone()).to_string())
                .bind(resource.status.as_str())
                .bind(resource.status_reason.as_deref().map(|reason| text(reason).into_owned()))
                .bind(resource.control_at.map(|at| at.0))
                .bind(resource.created_at.0)
                .bind(resource.updated_at.0);
        })
        .await?;
    Ok(())
}

/// Writes integrations. When one last had an event is left alone if the row exists: `touch_last_event` moves that without
/// the installation's lock, and what was read before must not move it back.
static SAVE_INTEGRATIONS: RowStatement = RowStatement::new(
    "INSERT INTO workspace_integrations (id, org_id, workspace_id, provider, installation_id, resource_id, \
     source_config, status, status_reason, last_event_at, created_at, updated_at) SELECT * FROM",
    12,
    "ON CONFLICT (id) DO UPDATE SET workspace_id = excluded.workspace_id, installation_id = excluded.installation_id, \
     resource_id = excluded.resource_id, \
     source_config = excluded.source_config, status = excluded.status, status_reason = excluded.status_reason, \
     updated_at = excluded.updated_at",
);

async fn save_integrations(db: &mut Session<'_>, integrations: &[&Integration]) -> StoreResult<()> {
    SAVE_INTEGRATIONS
        .execute(db.conn, integrations, |row, integration| {
            row.bind(integration.id.as_str())
                .bind(integration.org.as_str())
                .bind(&*text(integration.workspace.as_str()))
                .bind(integration.provider.as_str())
                .bind(integration.installation.as_str())
                .bind(integration.resource.as_str())
                .bind(serde_json::Value::Object(integration.source_config.clone()).to_string())
                .bind(integration.status.as_str())
                .bind(integration.status_reason.as_deref().map(|reason| text(reason).into_owned()))
                .bind(integration.last_event_at.map(|at| at.0))
                .bind(integration.created_at.0)
                .bind(integration.updated_at.0);
        })
        .await?;
    Ok(())
}
