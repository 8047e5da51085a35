//! `GET /connections/{id}/teardown`: what was done to end a connection, when, and how it went.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    super::{
        auth::Reader,
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        schemas,
    },
    get_visible, time_json,
};
use crate::model::teardown::Teardown;

/// `GET /connections/{id}/teardown`: the receipt of a connection's end.
///
/// # Errors
/// `not_found`, also for a connection that nobody ended.
#[utoipa::path(get, path = "/connections/{id}/teardown", responses((status = 200, body = schemas::Teardown)))]
pub async fn get(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let teardown = gateway.store.find_teardown(&installation.id).await?;
    let teardown = teardown.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    Ok(HttpResponse::Ok().json(receipt_json(&teardown)))
}

fn receipt_json(teardown: &Teardown) -> Value {
    let steps: Vec<_> = teardown
        .steps
        .iter()
        .map(|record| {
            json!({
                "step": record.step,
                "status": record.status,
                "attempts": record.attempts,
                "at": time_json(record.at),
                "detail": record.detail,
            })
        })
        .collect();
    json!({
        "installationId": teardown.installation,
        "reason": teardown.reason,
        "status": teardown.status.as_str(),
        "startedAt": teardown.started_at.to_rfc3339(),
        "finishedAt": time_json(teardown.finished_at),
        "steps": steps,
    })
}
