//! `/admin/keys`: API keys.
//!
//! **Invariants**: a key is in the answer that makes it and in no other; a key does not end itself by accident.

use actix_web::{HttpResponse, http::StatusCode, web};
use serde_json::{Value, json};

use super::{
    auth::{Caller, ServiceReader, ServiceWriter, is_org_id},
    connections::time_json,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::{Query, page_json},
    request_body::{ApiBody, Members},
    schemas,
};
use crate::{
    actors::api_keys::{ApiKeys, NewKey},
    model::ids::{KeyId, OrgId},
    store::ApiKey,
};

/// The longest name of a key, bytes.
const MAX_NAME_BYTES: usize = 200;

fn key_json(key: &ApiKey, caller: &Caller) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "orgId": key.org,
        "scope": if key.can_write { "write" } else { "read" },
        "own": key.id == caller.key.id,
        "createdAt": key.created_at.to_rfc3339(),
        "lastUsedAt": time_json(key.last_used_at),
        "revokedAt": time_json(key.revoked_at),
    })
}

fn keys(gateway: &Gateway) -> ApiKeys<'_> {
    ApiKeys { store: gateway.store.as_ref(), ids: &gateway.ids, clock: &gateway.clock }
}

/// `GET /admin/keys`: API keys, newest first, revoked ones included. The keys themselves are not kept. The bootstrap key of
/// the configuration is not among them.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/admin/keys",
    params(schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::ApiKey>)),
)]
pub async fn list(ServiceReader(caller): ServiceReader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let page = gateway.store.list_keys_page(caller.org.as_ref(), query.page(KeyId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, |key| key_json(key, &caller))))
}

/// `POST /admin/keys {name, orgId?, scope?}`: makes a key. It is in the answer and never shown again. Without `orgId` it is bound to the org of
/// `X-Org-Id`; without that, or with `orgId` null, it is a service key. Members that it does not know are refused.
///
/// # Errors
/// `invalid_json`, `missing_required_fields`, `invalid_fields`, `invalid_org_id`, `forbidden`.
#[utoipa::path(
    post, path = "/admin/keys",
    request_body = schemas::NewApiKey,
    responses((status = 201, body = schemas::ApiKey)),
)]
pub async fn create(ServiceWriter(caller): ServiceWriter, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let wanted = read_key(body.members()?, &caller)?;
    let (row, key) = keys(&gateway).create(wanted, &caller.actor()).await?;
    let mut shown = key_json(&row, &caller);
    shown["key"] = json!(key.expose_str());
    // It may have been tried before it was made, and be remembered as wrong.
    gateway.keys.forget();
    Ok(HttpResponse::build(StatusCode::CREATED).json(shown))
}

fn read_key(mut members: Members, caller: &Caller) -> Result<NewKey, Problem> {
    let name = members.required_text("name");
    let names_org = members.has("orgId");
    let org = members.text("orgId");
    let can_write = members.optional("scope", |scope| match scope.as_str() {
        Some("write") => Some(true),
        Some("read") => Some(false),
        _ => None,
    });
    // A misspelt bound would make a key that is bound to nothing.
    members.note_unknown();
    members.finish()?;
    if name.trim().is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(Problem::new(&codes::INVALID_FIELDS).member("fields", json!(["name"])));
    }
    let org = match org {
        Some(org) if !is_org_id(&org) => return Err(Problem::new(&codes::INVALID_ORG_ID)),
        Some(org) => Some(OrgId::from_raw(org)),
        None if names_org => None,
        None => caller.org.clone(),
    };
    if org.as_ref().is_some_and(|org| !caller.sees(Some(org))) {
        return Err(Problem::new(&codes::FORBIDDEN));
    }
    Ok(NewKey { name, org, can_write: can_write.unwrap_or(true) })
}

/// `DELETE /admin/keys/{id}?force`: revokes a key, and ends the sessions that were begun with it. The key that asks does so only with `force`.
///
/// # Errors
/// `not_found`, `own_key`, `invalid_parameter`.
#[utoipa::path(
    delete, path = "/admin/keys/{id}",
    params(("force" = Option<bool>, Query, description = "Revoke the key that asks, too.")),
    responses((status = 200, body = schemas::ApiKeyRevoked)),
)]
pub async fn revoke(
    ServiceWriter(caller): ServiceWriter,
    id: web::Path<String>,
    query: Query,
    gateway: web::Data<Gateway>,
) -> Answer {
    let id = KeyId::from_raw(id.as_str());
    let force = query.flag("force")?.unwrap_or(false);
    let found = keys(&gateway).find_live(&id).await?;
    let found = found.filter(|key| caller.sees(key.org.as_ref())).ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    if id == caller.key.id && !force {
        return Err(Problem::new(&codes::OWN_KEY));
    }
    if !keys(&gateway).revoke(&found, &caller.actor()).await? {
        return Err(Problem::new(&codes::NOT_FOUND));
    }
    gateway.keys.forget();
    Ok(HttpResponse::Ok().json(json!({"status": "revoked", "id": id})))
}
