//! `POST /connections/{id}/release-held`: let held events go, oldest first.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{auth::Writer, gateway::Gateway, problem::Answer, schemas},
    get_visible,
};

/// `POST /connections/{id}/release-held`: lets held events go, oldest first.
///
/// # Errors
/// `not_found`.
#[utoipa::path(post, path = "/connections/{id}/release-held", responses((status = 200, body = schemas::Released)))]
pub async fn release(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let released = gateway.mending.release_held(&installation.id, &caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({"status": "released", "released": released})))
}
