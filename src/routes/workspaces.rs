//! `GET /workspaces`: which workspaces of an org the gateway has heard of.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::Reader,
    gateway::Gateway,
    integrations::workspace_id,
    problem::Answer,
    query::{Query, page_json},
    schemas,
};
use crate::{model::integration::IntegrationStatus, store::WorkspaceSummary};

fn workspace_json(summary: &WorkspaceSummary) -> Value {
    let active = IntegrationStatus::Active.as_str();
    let active: u64 = summary.integrations.values().filter_map(|statuses| statuses.get(active)).sum();
    json!({
        "id": summary.workspace,
        "active": active,
        "integrations": summary.integrations,
        "destinationId": summary.destination,
    })
}

/// `GET /workspaces`: workspaces that have an integration or a destination, by id.
///
/// # Errors
/// `missing_org_id`, `invalid_workspace_id`.
#[utoipa::path(
    get, path = "/workspaces",
    params(schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::Workspace>)),
)]
pub async fn list(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = caller.require_org()?;
    query.get("cursor").map(workspace_id).transpose()?;
    let page = gateway.store.list_workspaces(org, query.page_after_name()).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, workspace_json)))
}
