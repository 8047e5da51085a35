//! `GET /connections/{id}/log`: who did what, newest first.

use actix_web::{HttpResponse, web};

use super::{
    super::{
        auth::Reader,
        gateway::Gateway,
        problem::Answer,
        query::{Query, page_json},
        schemas,
    },
    get_visible, log_json,
};
use crate::model::ids::LogId;

/// `GET /connections/{id}/log`: the connection's log, newest first.
///
/// # Errors
/// `not_found`, `invalid_parameter`.
#[utoipa::path(
    get, path = "/connections/{id}/log",
    params(schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::LogEntry>)),
)]
pub async fn list(Reader(caller): Reader, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let page =
        gateway.store.list_log(Some(&installation.org), Some(&installation.id), query.page(LogId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, log_json)))
}
