//! `POST /connections/{id}/resources {providerResourceId, resourceName?}`

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{
        auth::Writer,
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        request_body::ApiBody,
        schemas,
    },
    check_linkable, load_visible, read_link, resource_json,
};

/// `POST /connections/{id}/resources {providerResourceId, resourceName?}`: links a resource. One that was removed comes
/// back under its id.
///
/// # Errors
/// `not_found`, `invalid_json`, `missing_provider_resource_id`, `invalid_fields`, `resource_not_accessible`,
/// `resource_already_linked`, `installation_not_active`, `connection_expired`, `provider_unavailable`.
#[utoipa::path(
    post, path = "/connections/{id}/resources",
    request_body = schemas::ResourceToLink,
    responses((status = 200, body = schemas::Linked)),
)]
pub async fn link(Writer(caller): Writer, id: web::Path<String>, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let record = load_visible(&gateway, &caller, &id).await?;
    let (mut link, complaints) = read_link(body.members()?);
    if link.provider_resource_id.as_str().is_empty() {
        return Err(Problem::new(&codes::MISSING_PROVIDER_RESOURCE_ID));
    }
    complaints.finish()?;
    check_linkable(&gateway, &caller, &record, std::slice::from_mut(&mut link)).await?;
    let resource = gateway.directory.link_resource(&record.installation.id, link, caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({"status": "linked", "resource": resource_json(&resource)})))
}
