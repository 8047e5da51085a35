//! `POST /connections/{id}/release-held`: let held events go, oldest first.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{auth::Writer, gateway::Gateway, problem::Answer},
    find_visible,
};

/// `POST /connections/{id}/release-held`
///
/// # Errors
/// `not_found`.
pub async fn release(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let installation = find_visible(&gateway, &caller, &id).await?;
    let released = gateway.mending.release_held(&installation.id, &caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({"status": "released", "released": released})))
}
