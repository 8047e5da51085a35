//! Orgs and workspaces: nobody writes rows of them, they are what other rows name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Builder, Fields, Session, count, text};
use crate::{
    model::{
        ids::{DestinationId, OrgId, WorkspaceId},
        integration::{IntegrationStatus, SyncRules},
    },
    store::{OrgSummary, Page, PageRequest, StoreResult, WorkspaceSummary},
};

/// Where an org is named, and with what else for it to count.
const NAMING_ORGS: [(&str, &str); 3] =
    [("gw_installations", ""), ("gw_destinations", ""), ("gw_api_keys", " AND revoked_at IS NULL")];

/// Greater than whatever an id has at that place: ids of orgs are ASCII.
const PAST_EVERY_LETTER: char = '\u{7f}';

pub(crate) async fn list_orgs(
    db: &mut Session<'_>,
    prefix: &str,
    request: PageRequest<'_>,
) -> StoreResult<Page<OrgSummary>> {
    let mut names = BTreeSet::new();
    for (table, condition) in NAMING_ORGS {
        let mut sql = Builder::new("SELECT org_id FROM ");
        sql.push(table).push(" WHERE org_id > ").push_bind(&*text(request.cursor.unwrap_or_default())).push(condition);
        if !prefix.is_empty() {
            sql.push(" AND org_id >= ").push_bind(&*text(prefix));
            sql.push(" AND org_id < ").push_bind(format!("{}{PAST_EVERY_LETTER}", text(prefix)));
        }
        sql.push(" GROUP BY org_id ORDER BY org_id LIMIT ").push_bind(super::rows_wanted(request));
        for row in sql.build().fetch_all(&mut *db.conn).await? {
            names.insert(Fields::new(&row).get::<String>()?);
        }
    }
    let page = super::page(names.into_iter().collect(), request, |name: &String| name);
    let items = match (page.items.first(), page.items.last()) {
        (Some(first), Some(last)) => summarize(db, first, last).await?,
        _ => Vec::new(),
    };
    // What lies between two of these names is on the page.
    Ok(Page { items, next_cursor: page.next_cursor })
}

pub(crate) async fn summarize_org(db: &mut Session<'_>, org: &OrgId) -> StoreResult<OrgSummary> {
    let mut found = summarize(db, org.as_str(), org.as_str()).await?;
    Ok(found.pop().unwrap_or_else(|| nothing_of(org.as_str())))
}

fn nothing_of(org: &str) -> OrgSummary {
    OrgSummary { org: OrgId::from_raw(org), installations: BTreeMap::new(), destinations: 0 }
}

/// The orgs from `first` to `last`, by id.
async fn summarize(db: &mut Session<'_>, first: &str, last: &str) -> StoreResult<Vec<OrgSummary>> {
    let mut orgs: BTreeMap<String, OrgSummary> = BTreeMap::new();
    for (select, rest) in [
        ("SELECT org_id, status, COUNT(*) FROM gw_installations", " GROUP BY org_id, status"),
        ("SELECT org_id, NULL, COUNT(*) FROM gw_destinations", " GROUP BY org_id"),
        ("SELECT org_id, NULL, CAST(0 AS BIGINT) FROM gw_api_keys", " AND revoked_at IS NULL GROUP BY org_id"),
    ] {
        let mut sql = Builder::new(select);
        sql.push(" WHERE org_id >= ").push_bind(&*text(first)).push(" AND org_id <= ").push_bind(&*text(last));
        for row in sql.push(rest).build().fetch_all(&mut *db.conn).await? {
            let mut fields = Fields::new(&row);
            let org: String = fields.get()?;
            let summary = orgs.entry(org).or_insert_with_key(|org| nothing_of(org));
            let status = fields.get::<Option<String>>()?;
            let rows = count(fields.get()?);
            match status {
                Some(status) => {
                    summary.installations.insert(status, rows);
                }
                None => summary.destinations += rows,
            }
        }
    }
    Ok(orgs.into_values().collect())
}

pub(crate) async fn list_workspaces(
    db: &mut Session<'_>,
    org: &OrgId,
    request: PageRequest<'_>,
) -> StoreResult<Page<WorkspaceSummary>> {
    let mut names = BTreeSet::new();
    for (select, condition) in [
        ("SELECT workspace_id FROM workspace_integrations WHERE org_id = ", " AND workspace_id > "),
        ("SELECT scope_id FROM gw_destinations WHERE scope = 'workspace' AND org_id = ", " AND scope_id > "),
    ] {
        let mut sql = Builder::new(select);
        sql.push_bind(&*text(org.as_str())).push(condition).push_bind(&*text(request.cursor.unwrap_or_default()));
        sql.push(" GROUP BY 1 ORDER BY 1 LIMIT ").push_bind(super::rows_wanted(request));
        for row in sql.build().fetch_all(&mut *db.conn).await? {
            names.insert(Fields::new(&row).get::<String>()?);
        }
    }
    let page = super::page(names.into_iter().collect(), request, |name: &String| name);
    let mut workspaces: BTreeMap<String, WorkspaceSummary> = BTreeMap::new();
    for name in &page.items {
        let workspace = WorkspaceId::from_raw(name.as_str());
        let summary = WorkspaceSummary { workspace, integrations: BTreeMap::new(), destination: None };
        workspaces.insert(name.clone(), summary);
    }
    if let (Some(first), Some(last)) = (page.items.first(), page.items.last()) {
        count_integrations(db, org, (first, last), &mut workspaces).await?;
        find_destinations(db, org, (first, last), &mut workspaces).await?;
    }
    Ok(Page { items: workspaces.into_values().collect(), next_cursor: page.next_cursor })
}

/// Counts by status. One that is active and has `autoSync: false` gets nothing: it counts as paused.
async fn count_integrations(
    db: &mut Session<'_>,
    org: &OrgId,
    between: (&str, &str),
    workspaces: &mut BTreeMap<String, WorkspaceSummary>,
) -> StoreResult<()> {
    let mut sql = Builder::new("SELECT workspace_id, provider, status, COUNT(*)");
    push_integrations(&mut sql, org, between);
    for row in sql.push(" GROUP BY workspace_id, provider, status").build().fetch_all(&mut *db.conn).await? {
        let mut fields = Fields::new(&row);
        let (workspace, provider, status): (String, String, String) = (fields.get()?, fields.get()?, fields.get()?);
        if let Some(summary) = workspaces.get_mut(&workspace) {
            summary.integrations.entry(provider).or_default().insert(status, count(fields.get()?));
        }
    }
    let mut sql = Builder::new("SELECT workspace_id, provider, source_config");
    push_integrations(&mut sql, org, between);
    // Few rows, found by how we write JSON; what they say is read as everywhere else.
    sql.push(" AND status = 'active' AND source_config LIKE '%\"autoSync\":false%'");
    for row in sql.build().fetch_all(&mut *db.conn).await? {
        let mut fields = Fields::new(&row);
        let (workspace, provider): (String, String) = (fields.get()?, fields.get()?);
        let statuses = workspaces.get_mut(&workspace).and_then(|summary| summary.integrations.get_mut(&provider));
        let rules = SyncRules::from_source_config(&fields.json("source_config")?);
        if let (Some(statuses), false) = (statuses, rules.auto_sync) {
            move_one(statuses, IntegrationStatus::Active, IntegrationStatus::Paused);
        }
    }
    Ok(())
}

/// Counts one as something else.
fn move_one(statuses: &mut BTreeMap<String, u64>, from: IntegrationStatus, to: IntegrationStatus) {
    if let Some(counted) = statuses.get_mut(from.as_str()) {
        *counted -= 1;
        if *counted == 0 {
            statuses.remove(from.as_str());
        }
        *statuses.entry(to.as_str().to_owned()).or_default() += 1;
    }
}

/// ` FROM …`: the integrations of the workspaces from the first to the last.
fn push_integrations(sql: &mut Builder, org: &OrgId, (first, last): (&str, &str)) {
    sql.push(" FROM workspace_integrations WHERE org_id = ").push_bind(text(org.as_str()).into_owned());
    sql.push(" AND workspace_id >= ").push_bind(text(first).into_owned());
    sql.push(" AND workspace_id <= ").push_bind(text(last).into_owned());
}

async fn find_destinations(
    db: &mut Session<'_>,
    org: &OrgId,
    (first, last): (&str, &str),
    workspaces: &mut BTreeMap<String, WorkspaceSummary>,
) -> StoreResult<()> {
    let mut sql = Builder::new("SELECT scope_id, id FROM gw_destinations WHERE scope = 'workspace' AND org_id = ");
    sql.push_bind(&*text(org.as_str()));
    sql.push(" AND scope_id >= ").push_bind(&*text(first)).push(" AND scope_id <= ").push_bind(&*text(last));
    for row in sql.build().fetch_all(&mut *db.conn).await? {
        let mut fields = Fields::new(&row);
        let workspace: String = fields.get()?;
        if let Some(summary) = workspaces.get_mut(&workspace) {
            summary.destination = Some(DestinationId::from_raw(fields.get::<&str>()?));
        }
    }
    Ok(())
}
