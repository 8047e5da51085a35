//! `POST /deliveries/{id}/retry`

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    auth::Writer,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
};
use crate::model::{ids::DeliveryId, log_entry::LogEntry};

/// `POST /deliveries/{id}/retry`: due now, its attempts counted anew.
///
/// # Errors
/// `not_found`, `delivery_not_retryable`.
pub async fn retry(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let found = gateway.store.find_delivery(&DeliveryId::from_raw(id.as_str())).await?;
    let (delivery, event) = found
        .filter(|(delivery, _)| caller.sees(Some(&delivery.org)))
        .ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let now = gateway.clock.now();
    let entry = LogEntry {
        id: gateway.ids.log(),
        org: Some(delivery.org.clone()),
        installation: event.installation,
        subject: Some(delivery.id.to_string()),
        action: "delivery.retried".into(),
        from_state: Some(delivery.status.to_string()),
        to_state: Some("pending".into()),
        reason: None,
        actor: caller.actor(),
        at: now,
    };
    if !gateway.store.retry_delivery(&delivery.id, now, &entry).await? {
        return Err(Problem::new(&codes::DELIVERY_NOT_RETRYABLE).member("deliveryStatus", delivery.status.as_str()));
    }
    gateway.dispatcher.nudge(delivery.destination.as_ref());
    Ok(HttpResponse::Ok().json(json!({"status": "pending", "id": delivery.id, "eventId": delivery.event})))
}
