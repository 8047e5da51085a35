//! `/admin/dlq` and `/admin/replay/catchup`: dead letters, and sending them again.

use std::collections::HashSet;

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{ServiceReader, ServiceWriter},
    connections,
    deliveries::listed_json,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::Query,
    request_body::{ApiBody, as_text},
    schemas,
};
use crate::{actors::webhook_router::CatchUp, model::provider::ProviderDeliveryId};

const DEFAULT_BATCH: i64 = 50;
const MAX_BATCH: i64 = 200;

/// `GET /admin/dlq?limit&offset&provider`: dead letters, oldest first.
///
/// # Errors
/// None of its own.
#[utoipa::path(
    get, path = "/admin/dlq",
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100),
        ("offset" = Option<i64>, Query, minimum = 0),
        ("provider" = Option<String>, Query),
    ),
    responses((status = 200, body = schemas::DeadLetters)),
)]
pub async fn list(ServiceReader(caller): ServiceReader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let (limit, offset) = (query.limit(), query.offset());
    let letters = gateway.store.list_dead_letters(caller.org.as_ref(), query.get("provider"), limit, offset).await?;
    let items: Vec<_> = letters.iter().map(|letter| listed_json(&letter.delivery, &letter.event)).collect();
    Ok(HttpResponse::Ok().json(json!({"items": items, "limit": limit, "offset": offset})))
}

/// `POST /admin/dlq/replay {"deliveryIds": [{"provider", "deliveryId"}]}`: sends dead letters again. Each id ends in one of `replayed`, `skipped`
/// (nothing of it is dead), `failed` (the store could not).
///
/// # Errors
/// `invalid_json`, `missing_delivery_ids`, `no_matching_dlq_entries`.
#[utoipa::path(
    post, path = "/admin/dlq/replay",
    request_body = schemas::DeadLetterIds,
    responses((status = 200, body = schemas::DeadLettersReplayed)),
)]
pub async fn replay(ServiceWriter(caller): ServiceWriter, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let requested = body.members()?.take("deliveryIds");
    let pairs = requested.as_ref().and_then(read_pairs).ok_or_else(|| Problem::new(&codes::MISSING_DELIVERY_IDS))?;
    let (mut replayed, mut skipped, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (provider, delivery_id) in &pairs {
        let id = ProviderDeliveryId::new(delivery_id.as_str());
        match gateway.mending.replay_dead(caller.org.as_ref(), provider, &id, &caller.actor()).await {
            Ok(deliveries) if deliveries.is_empty() => skipped.push(delivery_id),
            Ok(_) => replayed.push(delivery_id),
            Err(error) => {
                tracing::warn!(delivery.id = delivery_id, %error, "a dead letter could not be replayed");
                failed.push(delivery_id);
            }
        }
    }
    if replayed.is_empty() && failed.is_empty() {
        return Err(Problem::new(&codes::NO_MATCHING_DLQ_ENTRIES).member("requestedIds", requested.unwrap_or_default()));
    }
    Ok(HttpResponse::Ok().json(json!({
        "status": "replayed", "replayed": replayed, "skipped": skipped, "failed": failed,
    })))
}

/// At least one pair, each complete and once.
fn read_pairs(requested: &Value) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    for pair in requested.as_array()? {
        let pair = (as_text(pair.get("provider")?)?, as_text(pair.get("deliveryId")?)?);
        if seen.insert(pair.clone()) {
            pairs.push(pair);
        }
    }
    Some(pairs).filter(|pairs| !pairs.is_empty())
}

/// `POST /admin/replay/catchup {installationId, batchSize?, provider?, since?, until?}`: sends a batch of a
/// connection's dead letters again, oldest first.
///
/// # Errors
/// `invalid_json`, `missing_required_fields`, `invalid_fields`, `not_found`.
#[utoipa::path(
    post, path = "/admin/replay/catchup",
    request_body = schemas::CatchUpRequest,
    responses((status = 200, body = schemas::CaughtUp)),
)]
pub async fn catch_up(ServiceWriter(caller): ServiceWriter, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let mut members = body.members()?;
    let installation = members.required_text("installationId");
    let batch_size = members.integer("batchSize").unwrap_or(DEFAULT_BATCH).clamp(1, MAX_BATCH);
    let provider = members.text("provider");
    let since = members.time("since");
    let until = members.time("until");
    members.finish()?;
    let installation = connections::get_visible(&gateway, &caller, &installation).await?;
    if provider.is_some_and(|provider| provider != installation.provider.as_str()) {
        return Ok(HttpResponse::Ok().json(json!({"status": "empty"})));
    }
    let request =
        CatchUp { installation: installation.id, batch_size: u32::try_from(batch_size).unwrap_or(1), since, until };
    let done = gateway.mending.catch_up(request, &caller.actor()).await?;
    if done.replayed.is_empty() {
        return Ok(HttpResponse::Ok().json(json!({"status": "empty"})));
    }
    let replayed: Vec<_> = done.replayed.iter().map(|(_, delivery_id)| delivery_id).collect();
    Ok(HttpResponse::Ok().json(json!({
        "status": "replayed", "replayed": replayed, "remaining": done.remaining,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_one_complete_pair_is_needed_and_a_repeated_one_counts_once() {
        let good = json!([
            {"provider": "github", "deliveryId": "d-1"},
            {"provider": "linear", "deliveryId": "d-1"},
            {"provider": "github", "deliveryId": "d-1"},
        ]);
        let expected = vec![("github".into(), "d-1".into()), ("linear".into(), "d-1".into())];
        assert_eq!(read_pairs(&good), Some(expected));
        for bad in
            [json!([]), json!("d-1"), json!(["d-1"]), json!([{"provider": "github"}]), json!([{"deliveryId": ""}])]
        {
            assert_eq!(read_pairs(&bad), None, "{bad}");
        }
    }
}
