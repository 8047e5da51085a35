//! `POST /webhooks/{provider}`: the provider path; and the fork to the service path.
//!
//! **Invariants**: the checks come in the contract's order (provider, size, then everything the router does); every
//! webhook for an enabled provider is counted as received once and ends in one of refused, duplicate, stored, whether or
//! not the client waits for the answer. **Must not know** any provider.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderMap, web};
use serde_json::json;

use super::{
    auth::presented_key,
    error_codes as codes,
    gateway::Gateway,
    ingest,
    problem::{Answer, Problem},
    request_body::{BodyLimits, BudgetShare, read_body},
    request_frame::{RequestIds, note},
    schemas,
};
use crate::{
    actors::webhook_router::{Receipt, RouterHandle},
    config::ServerConfig,
    model::{
        provider::ProviderSlug,
        webhook::{Headers, ReceivedWebhook},
    },
    providers::{Provider, ProviderSettings},
    telemetry::metrics::Metrics,
};

/// Headers that are no business of a provider and must not be kept beside a webhook.
const NOT_KEPT: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

/// `POST /webhooks/{provider}`: takes a provider's webhook. The body is the provider's, signed as the provider signs; 200
/// means that it is committed.
///
/// With a service key (and the scope `write`) the body is a trusted writer's instead, and is not signed.
/// `X-Backfill-Hold: true` then stores the event until the connection's held events are released.
///
/// # Errors
/// `unknown_provider`, `payload_too_large`, `unsupported_content_encoding`, `request_timeout`, `incomplete_body`,
/// `invalid_signature`, `stale_timestamp`, `invalid_payload`, `missing_required_headers`, `temporarily_unavailable`,
/// `store_unavailable`; of a trusted writer also `invalid_json`, `missing_required_fields`, `not_found`, `forbidden`,
/// `invalid_org_id`, `insufficient_scope`.
#[utoipa::path(
    post, path = "/webhooks/{provider}",
    params(("X-Backfill-Hold" = Option<bool>, Header, description = "Hold the event; only with a service key.")),
    request_body(content((serde_json::Value = "*/*"), (schemas::TrustedWebhook = "application/json"))),
    responses((status = 200, body = schemas::WebhookReceipt)),
    security((), ("apiKey" = ["write", "service"]), ("bearer" = ["write", "service"])),
)]
pub async fn receive(
    request: HttpRequest,
    provider: web::Path<String>,
    ids: RequestIds,
    pieces: web::Payload,
    gateway: web::Data<Gateway>,
    router: web::Data<RouterHandle>,
) -> Answer {
    let Some((provider, settings)) = gateway.registry.find_enabled(&provider) else {
        return Err(Problem::unknown_provider(&provider));
    };
    let slug = provider.slug();
    note(&request, |notes| notes.provider = Some(slug.as_str()));
    let limits = limits(provider.as_ref(), settings, &gateway.config.server);
    let mut intake = Intake::begin(slug, Arc::clone(&gateway.metrics), gateway.bodies.share());

    let work = match prepare(&request, slug, ids, pieces, limits, &gateway, &mut intake).await {
        Ok(work) => work,
        Err(problem) => {
            intake.refused(&problem);
            return Err(problem);
        }
    };
    // A task of its own: a client that hangs up must not leave a webhook half counted, nor its bytes uncounted.
    let ending = actix_web::rt::spawn(async move {
        let receipt = match work {
            Work::Provider(webhook) => router.route(webhook).await,
            Work::Service(webhook) => router.route_trusted(webhook).await,
        };
        let receipt = receipt.map_err(Problem::from);
        intake.ended(&receipt);
        receipt
    });
    let answered = ending.await.map_err(|error| Problem::new(&codes::INTERNAL_ERROR).caused_by(error))?;
    let receipt = answered?;
    note(&request, |notes| match &receipt {
        Receipt::Accepted { delivery_id, event, outcome, .. } => {
            notes.provider_delivery_id = Some(delivery_id.to_string());
            notes.event_id = Some(event.to_string());
            notes.outcome = Some(outcome.as_str());
        }
        Receipt::Duplicate { delivery_id, event } => {
            notes.provider_delivery_id = Some(delivery_id.to_string());
            notes.event_id = Some(event.to_string());
            notes.outcome = Some("duplicate");
        }
        Receipt::SetAside { .. } => notes.outcome = Some("set_aside"),
    });
    Ok(answer(&receipt))
}

/// What the body turned out to be.
enum Work {
    Provider(ReceivedWebhook),
    Service(crate::actors::webhook_router::TrustedWebhook),
}

async fn prepare(
    request: &HttpRequest,
    slug: ProviderSlug,
    ids: RequestIds,
    pieces: web::Payload,
    limits: BodyLimits,
    gateway: &Gateway,
    intake: &mut Intake,
) -> Result<Work, Problem> {
    if gateway.readiness.is_draining() {
        // No complaint: whoever comes while it stops is told to come again.
        return Err(Problem::new(&codes::TEMPORARILY_UNAVAILABLE));
    }
    let body = read_body(request.headers(), pieces, limits, Some(&mut intake.share)).await?;
    note(request, |notes| notes.body_bytes = Some(body.len()));
    if let Some(presented) = presented_key(request.headers())
        && let Some(key) = gateway.keys.identify(presented).await?
        && key.org.is_none()
    {
        note(request, |notes| notes.key_id = Some(key.id.to_string()));
        if !key.can_write {
            return Err(Problem::new(&codes::INSUFFICIENT_SCOPE));
        }
        return ingest::read_trusted(slug, request.headers(), &body, ids.correlation).map(Work::Service);
    }
    Ok(Work::Provider(ReceivedWebhook {
        provider: slug,
        headers: kept_headers(request.headers()),
        body,
        received_at: gateway.clock.now(),
        correlation_id: ids.correlation,
    }))
}

fn limits(provider: &dyn Provider, settings: &ProviderSettings, server: &ServerConfig) -> BodyLimits {
    BodyLimits {
        max_bytes: server.max_webhook_bytes(settings.max_body_bytes, provider.default_max_body_bytes()),
        idle: server.body_idle_timeout,
        total: server.body_timeout,
    }
}

/// The request's headers, without those that are credentials of somebody else.
fn kept_headers(headers: &HeaderMap) -> Headers {
    let kept = headers.iter().filter(|(name, _)| !NOT_KEPT.contains(&name.as_str()));
    kept.map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

fn answer(receipt: &Receipt) -> HttpResponse {
    HttpResponse::Ok().json(match receipt {
        Receipt::Accepted { delivery_id, event, outcome, held, .. } => {
            let mut body = json!({
                "status": "accepted", "deliveryId": delivery_id, "eventId": event, "outcome": outcome,
            });
            if *held {
                body["held"] = json!(true);
            }
            body
        }
        Receipt::Duplicate { delivery_id, event } => {
            json!({"status": "duplicate", "deliveryId": delivery_id, "eventId": event})
        }
        Receipt::SetAside { quarantine } => json!({"status": "set_aside", "quarantineId": quarantine}),
    })
}

/// One webhook in the books: received when it begins, and ended exactly once, by the receipt that came in time. Everything
/// else is a refusal, also for a client that went away.
struct Intake {
    provider: ProviderSlug,
    metrics: Arc<Metrics>,
    share: BudgetShare,
    open: bool,
}

impl Intake {
    fn begin(provider: ProviderSlug, metrics: Arc<Metrics>, share: BudgetShare) -> Self {
        metrics.webhook_received(provider);
        Self { provider, metrics, share, open: true }
    }

    fn refused(&mut self, problem: &Problem) {
        self.refuse(problem.code().code);
    }

    fn ended(&mut self, receipt: &Result<Receipt, Problem>) {
        match receipt {
            Ok(receipt) => {
                self.open = false;
                receipt.count(self.provider, &self.metrics);
            }
            Err(problem) => self.refused(problem),
        }
    }

    fn refuse(&mut self, code: &'static str) {
        if std::mem::take(&mut self.open) {
            self.metrics.webhook_refused(self.provider, code);
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Dropped with its request while the body was being read (or by a panic).
        self.refuse("client_disconnected");
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::model::{
        event::EventOutcome,
        ids::{EventId, QuarantineId},
        provider::ProviderDeliveryId,
    };

    #[actix_web::test]
    async fn receipts_are_answered_in_the_words_of_the_contract() {
        let (delivery_id, event) = (ProviderDeliveryId::new("5f2c"), EventId::from_raw("evt_1"));
        let accepted = |held| Receipt::Accepted {
            delivery_id: delivery_id.clone(),
            event: event.clone(),
            outcome: EventOutcome::Routed,
            held,
            org: None,
            deliveries: 1,
            took: std::time::Duration::from_millis(3),
        };
        for (receipt, expected) in [
            (
                accepted(false),
                json!({"status": "accepted", "deliveryId": "5f2c", "eventId": "evt_1", "outcome": "routed"}),
            ),
            (
                accepted(true),
                json!({"status": "accepted", "deliveryId": "5f2c", "eventId": "evt_1", "outcome": "routed", "held": true}),
            ),
            (
                Receipt::Duplicate { delivery_id: delivery_id.clone(), event: event.clone() },
                json!({"status": "duplicate", "deliveryId": "5f2c", "eventId": "evt_1"}),
            ),
            (
                Receipt::SetAside { quarantine: QuarantineId::from_raw("qtn_1") },
                json!({"status": "set_aside", "quarantineId": "qtn_1"}),
            ),
        ] {
            let response = answer(&receipt);
            assert_eq!(response.status(), 200);
            let body = actix_web::body::to_bytes(response.into_body()).await.expect("a body");
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).expect("JSON"), expected);
        }
    }

    #[test]
    fn credentials_are_not_kept_with_a_webhook_and_repeated_headers_are() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer sbx_wrong"),
            ("x-api-key", "sbx_wrong"),
            ("cookie", "session=1"),
            ("x-hub-signature-256", "sha256=00"),
            ("x-hub-signature-256", "sha256=01"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = kept_headers(&headers);
        assert_eq!(kept.iter().count(), 2);
        assert_eq!(kept.all("x-hub-signature-256").count(), 2);
    }
}
