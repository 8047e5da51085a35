//! `/admin/quarantine`: webhooks that were wrongly signed or could not be handled.
//!
//! **Invariants**: neither headers nor bodies are shown, they are believed by nobody; a digest tells two apart. They
//! belong to no org, so `X-Org-Id` makes no difference here.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{ServiceReader, ServiceWriter},
    gateway::Gateway,
    problem::Answer,
    query::{Query, page_json},
    request_body::ApiBody,
    schemas,
};
use crate::{model::ids::QuarantineId, store::Quarantined};

fn quarantined_json(webhook: &Quarantined) -> Value {
    json!({
        "id": webhook.id,
        "provider": webhook.provider,
        "cause": webhook.cause,
        "bodySha256": webhook.body_sha256,
        "attempts": webhook.attempts,
        "receivedAt": webhook.received_at.to_rfc3339(),
        "lastAt": webhook.last_at.to_rfc3339(),
    })
}

/// `GET /admin/quarantine?provider`: webhooks that were refused, newest first.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/admin/quarantine",
    params(("provider" = Option<String>, Query), schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::Quarantined>)),
)]
pub async fn list(_caller: ServiceReader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let page = gateway.store.list_quarantined(query.get("provider"), query.page(QuarantineId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, quarantined_json)))
}

/// `POST /admin/quarantine/reverify {provider?}`: checks refused webhooks again; those that verify now become events.
///
/// # Errors
/// `invalid_json`, `invalid_fields`.
#[utoipa::path(
    post, path = "/admin/quarantine/reverify",
    request_body = Option<schemas::ReverifyRequest>,
    responses((status = 200, body = schemas::Reverified)),
)]
pub async fn reverify(ServiceWriter(caller): ServiceWriter, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let mut members = body.optional_members()?;
    let provider = members.text("provider");
    members.finish()?;
    let done = gateway.mending.reverify(provider.as_deref(), &caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({
        "status": "reverified",
        "considered": done.considered,
        "accepted": done.accepted,
        "duplicates": done.duplicates,
        "rejected": done.rejected,
    })))
}
