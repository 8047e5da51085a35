//! `GET /connections/{provider}/authorize[?redirect_to=]`: begin to connect.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::super::{
    auth::Writer,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::Query,
    request_frame::note,
    schemas,
};
use crate::actors::connecting::BeginFlow;

/// `GET /connections/{provider}/authorize`: begins to connect. Answers an address for one person's browser, and the state
/// that names the flow.
///
/// # Errors
/// `missing_org_id`, `unknown_provider`, `connecting_not_configured`, `invalid_redirect_to`.
#[utoipa::path(
    get, path = "/connections/{provider}/authorize",
    params(("redirect_to" = Option<String>, Query, description = "Where the browser ends: `inline`, or an address of the console's or localhost's origin.")),
    responses((status = 200, body = schemas::BegunFlow)),
)]
pub async fn authorize(
    Writer(caller): Writer,
    request: HttpRequest,
    provider: web::Path<String>,
    query: Query,
    gateway: web::Data<Gateway>,
) -> Answer {
    let org = caller.require_org()?.clone();
    let Some((known, _)) = gateway.registry.find_enabled(&provider) else {
        return Err(Problem::unknown_provider(&provider));
    };
    note(&request, |notes| notes.provider = Some(known.slug().as_str()));
    let request = BeginFlow {
        provider: provider.into_inner(),
        org,
        redirect_to: query.get("redirect_to").map(str::to_owned),
        actor: caller.actor(),
    };
    let begun = gateway.connecting.begin(request).await?;
    Ok(HttpResponse::Ok().json(json!({"url": begun.url, "state": begun.state.expose_str()})))
}
