//! `/events`: what came, what became of it, its bytes, and sending it again.
//!
//! **Invariants**: events of no org (unrouted ones) are visible only to a service key that names no org; raw bytes are
//! served so that no browser runs them.

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderValue},
    web,
};
use serde_json::{Value, json};

use super::{
    auth::{Caller, Reader, Writer},
    connections::time_json,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::{Query, found_json},
    request_body::ApiBody,
    schemas,
};
use crate::{
    model::{
        delivery::{Attempt, Delivery},
        event::{Event, EventOutcome},
        ids::{EventId, InstallationId, IntegrationId},
    },
    store::{EventDetail, EventFilter},
};

/// An event as lists and the stream show it.
pub(super) fn event_json(event: &Event) -> Value {
    json!({
        "id": event.id,
        "provider": event.provider,
        "deliveryId": event.provider_delivery_id,
        "eventType": event.wire_type,
        "eventKey": event.key,
        "connectionId": event.installation,
        "orgId": event.org,
        "externalId": event.external_id,
        "providerResourceIds": event.resources,
        "outcome": event.outcome,
        "reason": event.reason,
        "possibleReplay": event.possible_replay,
        "held": event.held,
        "receivedAt": event.received_at.to_rfc3339(),
        "correlationId": event.correlation_id,
    })
}

/// A delivery by itself: what lists and details of deliveries have in common.
pub(super) fn delivery_json(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "integrationId": delivery.integration,
        "workspaceId": delivery.workspace,
        "resourceId": delivery.resource,
        "destinationId": delivery.destination,
        "status": delivery.status,
        "reason": delivery.reason,
        "replay": delivery.replay,
        "attemptCount": delivery.attempts,
        "dueAt": delivery.finished_at.is_none().then(|| delivery.due_at.to_rfc3339()),
        "createdAt": delivery.created_at.to_rfc3339(),
        "finishedAt": time_json(delivery.finished_at),
    })
}

/// A delivery with those of the attempts that are its own.
fn delivery_with_attempts(delivery: &Delivery, attempts: &[Attempt]) -> Value {
    let own = attempts.iter().filter(|attempt| attempt.delivery == delivery.id);
    let mut shown = delivery_json(delivery);
    shown["attempts"] = own.map(attempt_json).collect();
    shown
}

pub(super) fn attempt_json(attempt: &Attempt) -> Value {
    json!({
        "id": attempt.id,
        "number": attempt.number,
        "startedAt": attempt.started_at.to_rfc3339(),
        "durationMs": attempt.duration_ms,
        "result": attempt.result,
        "statusCode": attempt.status_code,
        "error": attempt.error,
        "responseBody": attempt.response_body,
    })
}

/// The event with this id, if the caller may see it.
pub(super) async fn get_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Event, Problem> {
    let found = gateway.store.find_event(&EventId::from_raw(id)).await?;
    found.filter(|event| caller.sees(event.org.as_ref())).ok_or_else(|| Problem::new(&codes::NOT_FOUND))
}

/// The event with this id and everything about it, if the caller may see it.
pub(super) async fn load_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<EventDetail, Problem> {
    let found = gateway.store.find_event_detail(&EventId::from_raw(id)).await?;
    found.filter(|detail| caller.sees(detail.event.org.as_ref())).ok_or_else(|| Problem::new(&codes::NOT_FOUND))
}

/// `GET /events?provider&connection&outcome&eventKey&deliveryId&since&until&held`: events, newest first. A page may be shorter than `limit`, even empty, and not the last: as long as there is a
/// `nextCursor` there may be more, and `searchedBackTo` says how far was searched.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/events",
    params(
        ("provider" = Option<String>, Query),
        ("connection" = Option<String>, Query, description = "A connection's id."),
        ("outcome" = Option<schemas::EventOutcome>, Query),
        ("eventKey" = Option<String>, Query),
        ("deliveryId" = Option<String>, Query, description = "The provider's id of a delivery."),
        ("since" = Option<schemas::Time>, Query),
        ("until" = Option<schemas::Time>, Query),
        ("held" = Option<bool>, Query),
        schemas::Paging,
    ),
    responses((status = 200, body = schemas::Found<schemas::Event>)),
)]
pub async fn list(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let filter = EventFilter {
        org: caller.org.clone(),
        provider: query.get("provider").map(str::to_owned),
        installation: query.get("connection").map(InstallationId::from_raw),
        outcome: query.read("outcome", EventOutcome::parse)?,
        key: query.get("eventKey").map(str::to_owned),
        provider_delivery_id: query.get("deliveryId").map(str::to_owned),
        since: query.time("since")?,
        until: query.time("until")?,
        held: query.flag("held")?,
    };
    let found = gateway.store.list_events(&filter, query.page(EventId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(found_json(&found, event_json)))
}

/// `GET /events/{id}`: an event with its deliveries and their attempts.
///
/// # Errors
/// `not_found`.
#[utoipa::path(get, path = "/events/{id}", responses((status = 200, body = schemas::EventDetail)))]
pub async fn get(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let detail = load_visible(&gateway, &caller, &id).await?;
    let mut shown = event_json(&detail.event);
    let deliveries = detail.deliveries.iter().map(|delivery| delivery_with_attempts(delivery, &detail.attempts));
    shown["contentType"] = json!(detail.content_type);
    shown["headers"] = serde_json::from_str(&detail.headers).unwrap_or(Value::Null);
    shown["deliveries"] = deliveries.collect();
    Ok(HttpResponse::Ok().json(shown))
}

/// `GET /events/{id}/payload`: the raw bytes with their original content type.
///
/// # Errors
/// `not_found`.
#[utoipa::path(
    get, path = "/events/{id}/payload",
    responses((status = 200, description = "The bytes as they came", content_type = "*/*", body = Vec<u8>)),
)]
pub async fn payload(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let event = get_visible(&gateway, &caller, &id).await?;
    let body = gateway.store.find_event_body(&event.id).await?;
    let (content_type, bytes) = body.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let content_type = content_type
        .and_then(|text| HeaderValue::from_str(&text).ok())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    // The bytes are somebody else's: whatever their type says, a browser shall save them and not run them.
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, content_type))
        .insert_header((header::CONTENT_DISPOSITION, "attachment"))
        .insert_header((header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"))
        .body(bytes))
}

/// `POST /events/{id}/replay {integrationIds?}`: new deliveries, whatever came before.
///
/// # Errors
/// `not_found`, `invalid_json`, `invalid_fields`.
#[utoipa::path(
    post, path = "/events/{id}/replay",
    request_body = Option<schemas::ReplayRequest>,
    responses((status = 200, body = schemas::Replayed)),
)]
pub async fn replay(
    Writer(caller): Writer,
    id: web::Path<String>,
    body: ApiBody,
    gateway: web::Data<Gateway>,
) -> Answer {
    let event = get_visible(&gateway, &caller, &id).await?;
    let mut members = body.optional_members()?;
    let only = members.texts("integrationIds");
    members.finish()?;
    let only: Option<Vec<IntegrationId>> = only.map(|ids| ids.into_iter().map(IntegrationId::from_raw).collect());
    let replayed = gateway.mending.replay_event(&event.id, only.as_deref(), &caller.actor()).await?;
    let replayed = replayed.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let deliveries: Vec<_> = (replayed.deliveries.iter())
        .map(|(delivery, integration)| json!({"id": delivery, "integrationId": integration}))
        .collect();
    let status = if deliveries.is_empty() { "empty" } else { "replayed" };
    Ok(HttpResponse::Ok().json(json!({"status": status, "eventId": event.id, "deliveries": deliveries})))
}
