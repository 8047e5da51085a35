//! `/admin/quarantine`: webhooks that were wrongly signed or could not be handled.
//!
//! **Invariants**: of headers only the names are shown, of a body only the beginning, and only one at a time: they are
//! believed by nobody; a digest tells two apart. Nothing gets out of here without being verified. They belong to no org, so
//! `X-Org-Id` makes no difference here.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{ServiceReader, ServiceWriter},
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::{Query, page_json},
    request_body::ApiBody,
    schemas,
};
use crate::{actors::webhook_router::Reverified, model::ids::QuarantineId, store::Quarantined};

/// How much of a body is shown, bytes.
const SHOWN_BYTES: usize = 16 * 1024;

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

/// The beginning of a body, as text as far as it is text, and whether that is all.
pub fn beginning_of(body: &[u8]) -> (String, bool) {
    let shown = &body[..body.len().min(SHOWN_BYTES)];
    (String::from_utf8_lossy(shown).into_owned(), shown.len() < body.len())
}

/// The names of a quarantined webhook's headers, in the order in which they came.
pub fn header_names(webhook: &Quarantined) -> Vec<String> {
    let headers: Vec<Vec<Value>> = serde_json::from_str(&webhook.headers).unwrap_or_default();
    headers.iter().filter_map(|pair| pair.first()?.as_str().map(str::to_owned)).collect()
}

/// `GET /admin/quarantine/{id}`: one refused webhook with the beginning of its body, at most 16 KiB, and the names of its
/// headers.
///
/// # Errors
/// `not_found`.
#[utoipa::path(get, path = "/admin/quarantine/{id}", responses((status = 200, body = schemas::QuarantinedDetail)))]
pub async fn get(_caller: ServiceReader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let found = gateway.store.find_quarantined(&QuarantineId::from_raw(id.as_str())).await?;
    let webhook = found.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let (body, is_cut) = beginning_of(&webhook.body);
    let mut shown = quarantined_json(&webhook);
    shown["headerNames"] = json!(header_names(&webhook));
    shown["bodyBytes"] = json!(webhook.body.len());
    shown["body"] = json!(body);
    shown["bodyIsCut"] = json!(is_cut);
    Ok(HttpResponse::Ok().json(shown))
}

/// `DELETE /admin/quarantine/{id}`: forgets a refused webhook.
///
/// # Errors
/// `not_found`.
#[utoipa::path(delete, path = "/admin/quarantine/{id}", responses((status = 200, body = schemas::QuarantinedDeleted)))]
pub async fn delete(
    ServiceWriter(caller): ServiceWriter,
    id: web::Path<String>,
    gateway: web::Data<Gateway>,
) -> Answer {
    let id = QuarantineId::from_raw(id.as_str());
    if !gateway.mending.discard_quarantined(&id, &caller.actor()).await? {
        return Err(Problem::new(&codes::NOT_FOUND));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "deleted", "id": id})))
}

/// `POST /admin/quarantine/{id}/reverify`: checks one refused webhook again; if it verifies now it becomes an event.
///
/// # Errors
/// `not_found`.
#[utoipa::path(post, path = "/admin/quarantine/{id}/reverify", responses((status = 200, body = schemas::Reverified)))]
pub async fn reverify_one(
    ServiceWriter(caller): ServiceWriter,
    id: web::Path<String>,
    gateway: web::Data<Gateway>,
) -> Answer {
    let done = gateway.mending.reverify_one(&QuarantineId::from_raw(id.as_str()), &caller.actor()).await?;
    let done = done.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    Ok(HttpResponse::Ok().json(reverified_json(&done)))
}

fn reverified_json(done: &Reverified) -> Value {
    json!({
        "status": "reverified",
        "considered": done.considered,
        "accepted": done.accepted,
        "duplicates": done.duplicates,
        "rejected": done.rejected,
    })
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
    Ok(HttpResponse::Ok().json(reverified_json(&done)))
}
