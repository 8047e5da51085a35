//! `/admin/health`, `/admin/cache`, `/admin/actors`, `/admin/audit`: for operators with a service key.

use actix_web::{HttpResponse, http::StatusCode, web};
use serde_json::{Value, json};

use super::{
    auth::{ServiceProbe, ServiceReader, ServiceWriter},
    connections::log_json,
    gateway::Gateway,
    health::is_store_reachable,
    problem::Answer,
    query::{Query, page_json},
    schemas,
};
use crate::{
    model::ids::{InstallationId, LogId},
    telemetry::provider_health::HEALTH_WINDOW,
};

/// `GET /admin/health[?deep=true]`: whether the gateway is well. 503 while the database does not answer or the counters contradict each other. `deep`
/// counts every row and looks for contradictions among them: for tests and for doubts, not for probes. While the database does not answer, a key
/// is taken that this node knows to have been good within the last day; any other is answered `store_unavailable`.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/admin/health",
    params(("deep" = Option<bool>, Query, description = "Count every row and look for contradictions.")),
    responses(
        (status = 200, body = schemas::Health),
        (status = 503, description = "Not well", body = schemas::Health),
    ),
)]
pub async fn health(ServiceProbe(_caller): ServiceProbe, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let deep = query.flag("deep")?.unwrap_or(false);
    let reachable = is_store_reachable(&gateway).await;
    let ledger = gateway.metrics.ledger();
    let mut is_sound = reachable && ledger.adds_up();
    let mut shown = json!({
        "database": if reachable { "connected" } else { "error" },
        "backend": gateway.store.backend(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(gateway.readiness.uptime().as_millis()).unwrap_or(u64::MAX),
        "draining": gateway.readiness.is_draining(),
        "bodyBytesInHand": gateway.bodies.in_hand(),
        "ledger": ledger,
        "adds_up": ledger.adds_up(),
    });
    if deep && reachable {
        let census = gateway.store.take_census().await?;
        is_sound &= census.contradictions.is_empty();
        shown["census"] = json!({
            "events": census.events, "deliveries": census.deliveries, "contradictions": census.contradictions,
        });
    }
    shown["status"] = json!(if is_sound { "ok" } else { "degraded" });
    let status = if is_sound { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(HttpResponse::build(status).json(shown))
}

/// `GET /admin/health/providers`: the last five minutes of each provider.
///
/// # Errors
/// None of its own.
#[utoipa::path(get, path = "/admin/health/providers", responses((status = 200, body = schemas::ProvidersHealth)))]
pub async fn provider_health(_caller: ServiceReader, gateway: web::Data<Gateway>) -> Answer {
    let items: Vec<Value> = gateway
        .registry
        .iter()
        .map(|(provider, settings)| {
            let counts = gateway.metrics.provider_health(provider.slug());
            json!({
                "provider": provider.slug(),
                "enabled": settings.is_some(),
                "accepted": counts.accepted,
                "badSignature": counts.bad_signature,
                "duplicate": counts.duplicate,
                "delivered": counts.delivered,
                "dead": counts.dead,
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({"windowSeconds": HEALTH_WINDOW.as_secs(), "items": items})))
}

/// `POST /admin/cache/rebuild`: reads the caches anew from the rows.
///
/// # Errors
/// None of its own.
#[utoipa::path(post, path = "/admin/cache/rebuild", responses((status = 200, body = schemas::CacheRebuilt)))]
pub async fn rebuild_cache(_caller: ServiceWriter, gateway: web::Data<Gateway>) -> Answer {
    let count = gateway.directory.rebuild_routes().await?;
    Ok(HttpResponse::Ok().json(json!({"status": "rebuilt", "count": count})))
}

/// `GET /admin/actors`: a copy of every live actor's state; with `X-Org-Id` only the supervisors and the dispatcher's lanes
/// of that org.
///
/// # Errors
/// None of its own.
#[utoipa::path(get, path = "/admin/actors", responses((status = 200, body = schemas::Actors)))]
pub async fn actors(ServiceReader(caller): ServiceReader, gateway: web::Data<Gateway>) -> Answer {
    let mut supervisors = gateway.directory.snapshots().await;
    let mut dispatcher = gateway.dispatcher.snapshot().await;
    if let Some(org) = &caller.org {
        if let Some(lanes) = dispatcher["lanes"].as_array_mut() {
            let own = gateway.store.list_destinations(org).await?;
            lanes.retain(|lane| own.iter().any(|destination| lane["destination"] == destination.id.as_str()));
        }
        let mut visible = Vec::new();
        for snapshot in supervisors {
            let id = snapshot["installationId"].as_str().unwrap_or_default();
            let installation = gateway.store.find_installation(&InstallationId::from_raw(id)).await?;
            if installation.is_some_and(|installation| caller.sees(Some(&installation.org))) {
                visible.push(snapshot);
            }
        }
        supervisors = visible;
    }
    Ok(HttpResponse::Ok().json(json!({
        "supervisors": supervisors,
        "routers": gateway.routers.snapshot(),
        "dispatcher": dispatcher,
    })))
}

/// `GET /admin/audit?connection`: the log of everything, newest first.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/admin/audit",
    params(("connection" = Option<String>, Query, description = "A connection's id."), schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::LogEntry>)),
)]
pub async fn audit(ServiceReader(caller): ServiceReader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let connection = query.get("connection").map(InstallationId::from_raw);
    let page = gateway.store.list_log(caller.org.as_ref(), connection.as_ref(), query.page(LogId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, log_json)))
}
