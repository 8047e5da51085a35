//! Integrations, as their workspace sees them.

use super::{Builder, Fields, Session, push_given, query, text};
use crate::{
    model::{
        ids::{IntegrationId, OrgId, WorkspaceId},
        integration::{Integration, IntegrationStatus},
        resource::Resource,
    },
    store::StoreResult,
};

const FIND: &str = concat!("SELECT ", integration_columns!(), " FROM workspace_integrations g WHERE g.id = $1");

pub(crate) async fn find(db: &mut Session<'_>, id: &IntegrationId) -> StoreResult<Option<Integration>> {
    let row = query(FIND).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).integration(db.known)).transpose()
}

pub(crate) async fn list_of_workspace(
    db: &mut Session<'_>,
    org: &OrgId,
    workspace: &WorkspaceId,
    status: Option<IntegrationStatus>,
) -> StoreResult<Vec<(Integration, Resource)>> {
    let mut sql = Builder::new(concat!(
        "SELECT ",
        integration_columns!(),
        ", ",
        resource_columns!(),
        " FROM workspace_integrations g JOIN gw_resources r ON r.id = g.resource_id WHERE g.workspace_id = "
    ));
    sql.push_bind(&*text(workspace.as_str())).push(" AND g.org_id = ").push_bind(&*text(org.as_str()));
    push_given(&mut sql, [(" AND g.status = ", status.map(IntegrationStatus::as_str))]);
    let rows = sql.push(" ORDER BY g.id").build().fetch_all(&mut *db.conn).await?;
    rows.iter()
        .map(|row| {
            let mut fields = Fields::new(row);
            Ok((fields.integration(db.known)?, fields.resource()?))
        })
        .collect()
}
