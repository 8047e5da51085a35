//! `GET /connections/{id}/config?resource=&ref=`: the project's config file in a repository.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{
        auth::Reader,
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        query::Query,
        schemas,
    },
    get_visible,
};
use crate::model::provider::ProviderResourceId;

/// The longest resource id or git reference taken, bytes.
const MAX_BYTES: usize = 255;

/// `GET /connections/{id}/config?resource=&ref=`: the project's config file in a repository, the first of the configured names that exists there.
///
/// # Errors
/// `not_found`, `invalid_parameter`, `not_supported`, `config_too_large`, `invalid_config`, `resource_not_accessible`,
/// `no_token_found`, `installation_not_active`, `connecting_not_configured`, `connection_expired`,
/// `provider_unavailable`.
#[utoipa::path(
    get, path = "/connections/{id}/config",
    params(
        ("resource" = String, Query, description = "The provider's id of the repository."),
        ("ref" = Option<String>, Query, description = "A branch, tag or commit; the default branch if absent."),
    ),
    responses((status = 200, body = schemas::ConfigFile)),
)]
pub async fn get(Reader(caller): Reader, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let invalid = |name: &str| Problem::new(&codes::INVALID_PARAMETER).member("parameter", name);
    let is_plain = |text: &str| text.len() <= MAX_BYTES && !text.chars().any(char::is_control);
    let resource = query.get("resource").filter(|text| is_plain(text)).ok_or_else(|| invalid("resource"))?;
    let git_ref = query.read("ref", |text| is_plain(text).then(|| text.to_owned()))?;
    let resource = ProviderResourceId::new(resource);
    let found = gateway.directory.find_config(&installation.id, &resource, git_ref.as_deref()).await;
    let found = found.map_err(|error| Problem::from(error).about_provider(installation.provider))?;
    Ok(HttpResponse::Ok().json(match found {
        Some(file) => json!({"exists": true, "path": file.path, "content": file.content, "sha": file.sha}),
        None => json!({"exists": false, "path": null, "content": null, "sha": null}),
    }))
}
