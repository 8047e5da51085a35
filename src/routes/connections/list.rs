//! `GET /connections?provider&status`: the org's connections, newest first.

use actix_web::{HttpResponse, web};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    super::{
        auth::Reader,
        gateway::Gateway,
        problem::{Answer, Problem},
        query::Query,
        schemas,
    },
    show,
};
use crate::{
    model::{
        ids::{InstallationId, OrgId},
        installation::{Installation, InstallationStatus},
    },
    store::{Page, PageRequest},
};

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
    let page = find_page(&gateway, Some(caller.require_org()?), &query).await?;
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

/// The page that a query asks for of an org's connections, or of everybody's.
///
/// # Errors
/// `invalid_parameter`.
pub async fn find_page(gateway: &Gateway, org: Option<&OrgId>, query: &Query) -> Result<Page<Installation>, Problem> {
    let status = query.read("status", InstallationStatus::parse)?;
    let page = match (query.page(InstallationId::PREFIX), query.get("cursor")) {
        // An imported connection keeps the id that it had, which has no form of ours: it is a cursor if it is there.
        (Err(problem), Some(cursor)) => {
            let named = gateway.store.find_installation(&InstallationId::from_raw(cursor)).await?;
            if named.is_none_or(|named| org.is_some_and(|org| named.org != *org)) {
                return Err(problem);
            }
            PageRequest { limit: query.limit(), cursor: Some(cursor) }
        }
        (page, _) => page?,
    };
    Ok(gateway.store.list_installations(org, query.get("provider"), status, page).await?)
}
