//! `POST /connections/{id}/validate`: read the account and what it reaches again.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{auth::Writer, gateway::Gateway, problem::Answer, schemas},
    get_visible,
};

/// `POST /connections/{id}/validate`: reads the account at the provider again. Answers how many resources the provider lists now, compared with the last look.
///
/// # Errors
/// `not_found`, `no_token_found`, `installation_not_active`, `connecting_not_configured`, `connection_expired`,
/// `resource_not_accessible` (the provider does not show the account or its list), `provider_unavailable`.
#[utoipa::path(post, path = "/connections/{id}/validate", responses((status = 200, body = schemas::Look)))]
pub async fn validate(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let look = gateway.directory.look_again(&installation.id, caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({"added": look.added, "removed": look.removed, "total": look.total})))
}
