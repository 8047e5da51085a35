//! `/`, `/healthz`, `/readyz`, `/metrics`: for load balancers and scrapers, open to everybody.
//!
//! **Invariants**: nothing here is a secret or names an org; readiness goes down before anything else does.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde_json::json;

use super::{
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    schemas,
};
use crate::telemetry::metrics::Metrics;

/// How long a probe of the store may take.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// `GET /`: who answers here.
#[utoipa::path(method(get, head), path = "/", responses((status = 200, body = schemas::Name)))]
pub async fn name() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "service": "signalbox", "version": env!("CARGO_PKG_VERSION"), "status": "ok",
    }))
}

/// `GET /healthz`: the process runs.
#[utoipa::path(method(get, head), path = "/healthz", responses((status = 200, body = schemas::Status)))]
pub async fn is_alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// `GET /readyz`: the process wants requests, the store answers, and its migrations are applied.
///
/// # Errors
/// `not_ready` with a reason.
#[utoipa::path(method(get, head), path = "/readyz", responses((status = 200, body = schemas::Status)))]
pub async fn is_ready(gateway: web::Data<Gateway>) -> Answer {
    let refuse = |reason: &str| Err(Problem::new(&codes::NOT_READY).member("reason", reason));
    if gateway.readiness.is_draining() {
        return refuse("draining");
    }
    match tokio::time::timeout(PROBE_LIMIT, gateway.store.count_pending_migrations()).await {
        Ok(Ok(0)) => Ok(HttpResponse::Ok().json(json!({"status": "ready"}))),
        Ok(Ok(_)) => refuse("migrations_pending"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store does not answer the readiness probe");
            refuse("store_unreachable")
        }
        Err(_) => refuse("store_unreachable"),
    }
}

/// Whether the store answers in time.
pub(super) async fn is_store_reachable(gateway: &Gateway) -> bool {
    match tokio::time::timeout(PROBE_LIMIT, gateway.store.ping()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store does not answer");
            false
        }
        Err(_) => false,
    }
}

/// `GET /metrics`: counters by provider, status and error code; no ids, no names.
#[utoipa::path(
    get, path = "/metrics",
    responses((status = 200, content((String = "text/plain"), (String = "application/openmetrics-text")))),
)]
pub async fn metrics(request: HttpRequest, gateway: web::Data<Gateway>) -> HttpResponse {
    let accepts = request.headers().get_all(header::ACCEPT).filter_map(|accept| accept.to_str().ok());
    let is_open = accepts.into_iter().any(|accept| accept.contains("application/openmetrics-text"));
    let content_type = if is_open { Metrics::OPENMETRICS } else { Metrics::PROMETHEUS };
    HttpResponse::Ok().content_type(content_type).body(gateway.metrics.render())
}
