//! `GET /connections?provider&status`: the org's connections, newest first.

use actix_web::{HttpResponse, web};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    super::{auth::Reader, gateway::Gateway, problem::Answer, query::Query, schemas},
    show,
};
use crate::model::{ids::InstallationId, installation::InstallationStatus};

/// Connections whose resources are read at the same time.
const READ_AT_ONCE: usize = 4;

/// `GET /connections`: the org's connections, newest first.
///
/// # Errors
/// `missing_org_id`, `invalid_parameter`.
#[utoipa::path(
    get, path = "/connections",
    params(("provider" = Option<String>, Query), ("status" = Option<schemas::ConnectionStatus>, Query), schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::Connection>)),
)]
pub async fn list(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = caller.require_org()?;
    let status = query.read("status", InstallationStatus::parse)?;
    let page = gateway
        .store
        .list_installations(Some(org), query.get("provider"), status, query.page(InstallationId::PREFIX)?)
        .await?;
    let gateway = &gateway;
    let items: Vec<Value> = stream::iter(&page.items)
        .map(|installation| async move {
            let record = gateway.store.load_installation(&installation.id).await?;
            let resources = record.map(|record| record.resources).unwrap_or_default();
            show(gateway, installation, &resources).await
        })
        .buffered(READ_AT_ONCE)
        .try_collect()
        .await?;
    Ok(HttpResponse::Ok().json(json!({"items": items, "nextCursor": page.next_cursor})))
}
