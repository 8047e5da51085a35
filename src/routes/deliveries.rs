//! `/deliveries`: events on their way to integrations, searched for, counted, and tried again.
//!
//! **Invariants**: a search and a count look at a bounded number of rows and say when that was not all.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{Caller, Reader, Writer},
    error_codes as codes,
    events::{attempt_json, delivery_json},
    gateway::Gateway,
    problem::{Answer, Problem},
    query::{Query, found_json},
    request_body::{ApiBody, as_text},
    schemas,
};
use crate::{
    model::{
        delivery::{Delivery, DeliveryStatus},
        event::Event,
        ids::{DeliveryId, DestinationId, EventId, InstallationId, IntegrationId, WorkspaceId},
    },
    store::DeliveryFilter,
};

/// How far deliveries are counted.
pub const MAX_COUNT: u32 = 10_000;
/// Deliveries that one request tries again at the most.
pub const MAX_RETRIES: usize = 200;

/// A delivery with what says which event it is of.
pub(super) fn listed_json(delivery: &Delivery, event: &Event) -> Value {
    let mut shown = delivery_json(delivery);
    shown["orgId"] = json!(delivery.org);
    shown["provider"] = json!(event.provider);
    shown["deliveryId"] = json!(event.provider_delivery_id);
    shown["eventId"] = json!(event.id);
    shown["eventType"] = json!(event.wire_type);
    shown["eventKey"] = json!(event.key);
    shown["connectionId"] = json!(event.installation);
    shown["receivedAt"] = json!(event.received_at.to_rfc3339());
    shown
}

/// Reads which deliveries are asked for, of those the caller may see.
///
/// # Errors
/// `invalid_parameter`.
pub fn read_filter(caller: &Caller, query: &Query) -> Result<DeliveryFilter, Problem> {
    Ok(DeliveryFilter {
        org: caller.org.clone(),
        status: query.read("status", DeliveryStatus::parse)?,
        provider: query.get("provider").map(str::to_owned),
        installation: query.get("connection").map(InstallationId::from_raw),
        workspace: query.get("workspace").map(WorkspaceId::from_raw),
        integration: query.get("integration").map(IntegrationId::from_raw),
        destination: query.get("destination").map(DestinationId::from_raw),
        event: query.get("event").map(EventId::from_raw),
        since: query.time("since")?,
        until: query.time("until")?,
    })
}

/// `GET /deliveries?status&provider&connection&workspace&integration&destination&event&since&until`: deliveries, newest first. `since` and `until` are about when they were made. A page may be shorter
/// than `limit`, even empty, and not the last: as long as there is a `nextCursor` there may be more, and `searchedBackTo` says how far was searched.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/deliveries",
    params(schemas::DeliveryQuery, schemas::Paging),
    responses((status = 200, body = schemas::Found<schemas::ListedDelivery>)),
)]
pub async fn list(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let filter = read_filter(&caller, &query)?;
    let found = gateway.store.search_deliveries(&filter, query.page(DeliveryId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(found_json(&found, |(delivery, event)| listed_json(delivery, event))))
}

/// `GET /deliveries/count`: how many deliveries `GET /deliveries` would list. Counted up to 10 000, and as far as is quick: with `more` there are at least so many.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/deliveries/count",
    params(schemas::DeliveryQuery),
    responses((status = 200, body = schemas::BoundedCount)),
)]
pub async fn count(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let filter = read_filter(&caller, &query)?;
    let counted = gateway.store.count_deliveries(&filter, MAX_COUNT).await?;
    Ok(HttpResponse::Ok().json(json!({"count": counted.count, "more": counted.more})))
}

async fn get_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<(Delivery, Event), Problem> {
    let found = gateway.store.find_delivery(&DeliveryId::from_raw(id)).await?;
    found.filter(|(delivery, _)| caller.sees(Some(&delivery.org))).ok_or_else(|| Problem::new(&codes::NOT_FOUND))
}

/// `GET /deliveries/{id}`: a delivery and its attempts. The id is the `webhook-id` that the destination got.
///
/// # Errors
/// `not_found`.
#[utoipa::path(get, path = "/deliveries/{id}", responses((status = 200, body = schemas::DeliveryDetail)))]
pub async fn get(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let (delivery, event) = get_visible(&gateway, &caller, &id).await?;
    let attempts = gateway.store.list_attempts(&delivery.id).await?;
    let mut shown = listed_json(&delivery, &event);
    shown["attempts"] = attempts.iter().map(attempt_json).collect();
    Ok(HttpResponse::Ok().json(shown))
}

/// `POST /deliveries/{id}/retry`: makes a delivery due now, from the beginning of its schedule. Its attempts are numbered on.
///
/// # Errors
/// `not_found`, `delivery_not_retryable`.
#[utoipa::path(post, path = "/deliveries/{id}/retry", responses((status = 200, body = schemas::Retried)))]
pub async fn retry(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let (delivery, event) = get_visible(&gateway, &caller, &id).await?;
    if !gateway.mending.retry_delivery(&delivery, &event, &caller.actor()).await? {
        return Err(Problem::new(&codes::DELIVERY_NOT_RETRYABLE).member("deliveryStatus", delivery.status.as_str()));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "pending", "id": delivery.id, "eventId": delivery.event})))
}

/// `POST /deliveries/retry {"deliveryIds": ["dlv_…"]}`: makes up to 200 deliveries due now, each from the beginning of its schedule. Each id has its own result:
/// `pending` (it will be sent), `not_found`, `not_retryable` (it was delivered, is held, or is in flight), or `failed` (the store could not, try again).
///
/// # Errors
/// `invalid_json`, `missing_required_fields`, `invalid_fields`.
#[utoipa::path(
    post, path = "/deliveries/retry",
    request_body = schemas::DeliveriesToRetry,
    responses((status = 200, body = schemas::RetriedDeliveries)),
)]
pub async fn retry_many(Writer(caller): Writer, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let ids = read_ids(&body)?;
    let actor = caller.actor();
    let mut results = Vec::with_capacity(ids.len());
    let mut retried = 0;
    for id in &ids {
        let result = match get_visible(&gateway, &caller, id).await {
            Ok((delivery, event)) => match gateway.mending.retry_delivery(&delivery, &event, &actor).await {
                Ok(true) => "pending",
                Ok(false) => "not_retryable",
                Err(error) => {
                    tracing::warn!(delivery.id = id, %error, "a delivery could not be tried again");
                    "failed"
                }
            },
            Err(problem) if *problem.code() == codes::NOT_FOUND => "not_found",
            Err(problem) => {
                tracing::warn!(delivery.id = id, error = problem.cause(), "a delivery could not be found");
                "failed"
            }
        };
        retried += u64::from(result == "pending");
        results.push(json!({"id": id, "status": result}));
    }
    Ok(HttpResponse::Ok().json(json!({"retried": retried, "results": results})))
}

fn read_ids(body: &ApiBody) -> Result<Vec<String>, Problem> {
    let mut members = body.members()?;
    let given = members.take("deliveryIds");
    let ids: Option<Vec<String>> =
        given.as_ref().and_then(Value::as_array).and_then(|ids| ids.iter().map(as_text).collect());
    match ids {
        Some(ids) if ids.len() > MAX_RETRIES => {
            let detail = format!("deliveryIds holds more than {MAX_RETRIES} ids");
            Err(Problem::new(&codes::INVALID_FIELDS).member("fields", json!(["deliveryIds"])).detail(detail))
        }
        Some(ids) if !ids.is_empty() => Ok(ids),
        _ => Err(Problem::new(&codes::MISSING_REQUIRED_FIELDS).member("fields", json!(["deliveryIds"]))),
    }
}
