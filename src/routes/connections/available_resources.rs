//! `GET /connections/{id}/available-resources?cursor`: what the provider lists, to pick from.

use std::collections::HashSet;

use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

use super::{
    super::{
        auth::Reader,
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        query::Query,
        schemas,
    },
    load_visible,
};
use crate::{
    model::{provider::ProviderResourceId, resource::ResourceStatus},
    providers::connector::VisibleResource,
};

/// The longest cursor passed on to a provider.
const MAX_CURSOR_BYTES: usize = 1024;

/// `GET /connections/{id}/available-resources?cursor`: what the provider lists, to pick from. One page; `nextCursor` leads through all of them.
///
/// # Errors
/// `not_found`, `invalid_parameter`, `no_token_found`, `installation_not_active`, `connecting_not_configured`,
/// `connection_expired`, `resource_not_accessible` (the provider does not show the list), `provider_unavailable`.
#[utoipa::path(
    get, path = "/connections/{id}/available-resources",
    params(("cursor" = Option<String>, Query, description = "`nextCursor` of the page before.")),
    responses((status = 200, body = schemas::Page<schemas::AvailableResource>)),
)]
pub async fn list(Reader(caller): Reader, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let record = load_visible(&gateway, &caller, &id).await?;
    let cursor = query.get("cursor");
    if cursor.is_some_and(|cursor| cursor.len() > MAX_CURSOR_BYTES || cursor.chars().any(char::is_control)) {
        return Err(Problem::new(&codes::INVALID_PARAMETER).member("parameter", "cursor"));
    }
    let page = gateway.directory.list_at_provider(&record.installation.id, cursor).await?;
    let linked: HashSet<_> = record
        .resources
        .iter()
        .filter(|resource| resource.status == ResourceStatus::Active)
        .map(|resource| &resource.provider_resource_id)
        .collect();
    let items: Vec<_> = page.items.iter().map(|item| item_json(item, &linked)).collect();
    Ok(HttpResponse::Ok().json(json!({"items": items, "nextCursor": page.next_cursor})))
}

/// Members that the provider says nothing about are left out.
fn item_json(item: &VisibleResource, linked: &HashSet<&ProviderResourceId>) -> Value {
    let optional = [
        ("fullName", item.full_name.clone().map(Value::String)),
        ("slug", item.slug.clone().map(Value::String)),
        ("private", item.private.map(Value::Bool)),
        ("archived", item.archived.map(Value::Bool)),
        ("defaultBranch", item.default_branch.clone().map(Value::String)),
    ];
    let mut shown: Map<String, Value> =
        optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    shown.insert("providerResourceId".into(), json!(item.id));
    shown.insert("name".into(), json!(item.name));
    shown.insert("linked".into(), json!(linked.contains(&item.id)));
    Value::Object(shown)
}
