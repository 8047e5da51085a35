//! `DELETE /connections/{id}/resources/{resource}`

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{auth::Writer, gateway::Gateway, problem::Answer, schemas},
    get_visible,
};
use crate::model::ids::ResourceId;

/// `DELETE /connections/{id}/resources/{resource}`: unlinks a resource.
///
/// # Errors
/// `not_found`, `already_removed`.
#[utoipa::path(
    delete, path = "/connections/{id}/resources/{resource}",
    responses((status = 200, body = schemas::Unlinked)),
)]
pub async fn unlink(Writer(caller): Writer, path: web::Path<(String, String)>, gateway: web::Data<Gateway>) -> Answer {
    let (id, resource) = path.into_inner();
    let installation = get_visible(&gateway, &caller, &id).await?;
    let resource = ResourceId::from_raw(resource);
    gateway.directory.unlink_resource(&installation.id, &resource, caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({"status": "removed", "resourceId": resource})))
}
