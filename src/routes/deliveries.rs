//! `POST /deliveries/{id}/retry`

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    auth::Writer,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    schemas,
};
use crate::model::ids::DeliveryId;

/// `POST /deliveries/{id}/retry`: makes a delivery due now, its attempts counted anew.
///
/// # Errors
/// `not_found`, `delivery_not_retryable`.
#[utoipa::path(post, path = "/deliveries/{id}/retry", responses((status = 200, body = schemas::Retried)))]
pub async fn retry(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let found = gateway.store.find_delivery(&DeliveryId::from_raw(id.as_str())).await?;
    let (delivery, event) = found
        .filter(|(delivery, _)| caller.sees(Some(&delivery.org)))
        .ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    if !gateway.mending.retry_delivery(&delivery, &event, &caller.actor()).await? {
        return Err(Problem::new(&codes::DELIVERY_NOT_RETRYABLE).member("deliveryStatus", delivery.status.as_str()));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "pending", "id": delivery.id, "eventId": delivery.event})))
}
