//! `POST /connections/{id}/reroute {since?}`: route stored events whose link has appeared.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{auth::Writer, gateway::Gateway, problem::Answer, request_body::ApiBody, schemas},
    get_visible,
};

/// `POST /connections/{id}/reroute {since?}`: routes stored events whose link has appeared.
///
/// # Errors
/// `not_found`, `invalid_json`, `invalid_fields`.
#[utoipa::path(
    post, path = "/connections/{id}/reroute",
    request_body = Option<schemas::RerouteRequest>,
    responses((status = 200, body = schemas::Rerouted)),
)]
pub async fn reroute(
    Writer(caller): Writer,
    id: web::Path<String>,
    body: ApiBody,
    gateway: web::Data<Gateway>,
) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let mut members = body.optional_members()?;
    let since = members.time("since");
    members.finish()?;
    let done = gateway.mending.reroute(&installation.id, since, &caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({
        "status": "rerouted", "considered": done.considered, "routed": done.routed, "filtered": done.filtered,
    })))
}
