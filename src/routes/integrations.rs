//! Integrations: a workspace's subscriptions, and the rules that filter their events.
//!
//! **Invariants**: what `sync.events` shall hold is expanded and checked against the catalogue before anything is
//! written; a PATCH changes only what it names.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{Caller, Reader, Writer},
    connections::{check_linkable, load_visible, read_link, time_json},
    destinations::{destination_json, read_destination},
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::Query,
    request_body::{ApiBody, Members},
    schemas,
};
use crate::{
    actors::{
        destinations::{DestinationsError, ServedScope},
        directory::{IntegrationPatch, LinkResource, SubscribeWorkspace},
    },
    model::{
        destination::DestinationScope,
        ids::{IntegrationId, WorkspaceId},
        integration::{Integration, IntegrationStatus},
        provider::ProviderSlug,
        resource::Resource,
    },
    providers::Registry,
};

/// How many resources one request may subscribe to.
const MAX_RESOURCES: usize = 50;

/// A workspace id of the path.
///
/// # Errors
/// `invalid_workspace_id`.
pub(super) fn workspace_id(raw: &str) -> Result<WorkspaceId, Problem> {
    if (1..=191).contains(&raw.len()) && !raw.chars().any(char::is_control) {
        Ok(WorkspaceId::from_raw(raw))
    } else {
        Err(Problem::new(&codes::INVALID_WORKSPACE_ID))
    }
}

fn integration_json(gateway: &Gateway, integration: &Integration, resource: &Resource) -> Value {
    json!({
        "id": integration.id,
        "workspaceId": integration.workspace,
        "provider": integration.provider,
        "connectionId": integration.installation,
        "resourceId": integration.resource,
        "providerResourceId": resource.provider_resource_id,
        "displayName": resource.name.as_deref().unwrap_or(resource.provider_resource_id.as_str()),
        "status": integration.status,
        "statusReason": integration.status_reason,
        "sourceConfig": integration.source_config,
        "events": integration.rules().events,
        "autoSync": integration.rules().auto_sync,
        "lastEventAt": time_json(gateway.directory.last_event_of_integration(integration)),
        "createdAt": integration.created_at.to_rfc3339(),
        "updatedAt": integration.updated_at.to_rfc3339(),
    })
}

/// `GET /workspaces/{id}/integrations?status=`: the workspace's integrations. The active ones unless another status, or `all`, is asked for.
///
/// # Errors
/// `missing_org_id`, `invalid_workspace_id`, `invalid_parameter`.
#[utoipa::path(
    get, path = "/workspaces/{id}/integrations",
    params(("status" = Option<String>, Query, description = "A status, or `all`; `active` if absent.")),
    responses((status = 200, body = schemas::Integrations)),
)]
pub async fn list(
    Reader(caller): Reader,
    workspace: web::Path<String>,
    query: Query,
    gateway: web::Data<Gateway>,
) -> Answer {
    let org = caller.require_org()?;
    let workspace = workspace_id(&workspace)?;
    let status = query
        .read("status", |word| if word == "all" { Some(None) } else { IntegrationStatus::parse(word).map(Some) })?
        .unwrap_or(Some(IntegrationStatus::Active));
    let rows = gateway.store.list_workspace_integrations(org, &workspace, status).await?;
    let mut by_type: BTreeMap<&str, u64> = BTreeMap::new();
    for (integration, _) in &rows {
        *by_type.entry(integration.provider.as_str()).or_default() += 1;
    }
    let list: Vec<_> =
        rows.iter().map(|(integration, resource)| integration_json(&gateway, integration, resource)).collect();
    Ok(HttpResponse::Ok().json(json!({
        "workspaceId": workspace, "total": list.len(), "byType": by_type, "list": list,
    })))
}

/// `POST /workspaces/{id}/integrations {connectionId, resources: [{providerResourceId, name?, …}], events?}`:
/// subscribes the workspace to resources, linking them where they are not.
///
/// # Errors
/// `missing_org_id`, `invalid_workspace_id`, `invalid_json`, `missing_required_fields`, `invalid_fields`,
/// `invalid_resources`, `not_found`, `unknown_event_key`, `resource_not_accessible`, `installation_not_active`, `connection_expired`,
/// `provider_unavailable`.
#[utoipa::path(
    post, path = "/workspaces/{id}/integrations",
    request_body = schemas::Subscription,
    responses((status = 200, body = schemas::Subscribed)),
)]
pub async fn create(
    Writer(caller): Writer,
    workspace: web::Path<String>,
    body: ApiBody,
    gateway: web::Data<Gateway>,
) -> Answer {
    caller.require_org()?;
    let workspace = workspace_id(&workspace)?;
    let mut members = body.members()?;
    let connection = members.required_text("connectionId");
    let resources = read_resources(&mut members);
    let events = members.texts("events");
    members.finish()?;
    let mut resources = resources?;

    let record = load_visible(&gateway, &caller, &connection).await?;
    let events = checked_events(&gateway.registry, record.installation.provider, events)?;
    // All of them in one go: the provider is asked once, not once for each.
    check_linkable(&gateway, &caller, &record, &mut resources).await?;
    let request = SubscribeWorkspace { workspace, resources, events };
    let done = gateway.directory.subscribe(&record.installation.id, request, caller.actor()).await?;
    let integrations: Vec<_> = done
        .integrations
        .iter()
        .map(|(integration, resource)| integration_json(&gateway, integration, resource))
        .collect();
    Ok(HttpResponse::Ok().json(json!({
        "created": done.created,
        "reactivated": done.reactivated,
        "skipped": done.skipped,
        "integrations": integrations,
    })))
}

/// Reads `resources`; what is missing in them is noted in `members`.
fn read_resources(members: &mut Members) -> Result<Vec<LinkResource>, Problem> {
    let Some(Value::Array(entries)) = members.take("resources") else {
        members.note_missing("resources");
        return Ok(Vec::new());
    };
    if !(1..=MAX_RESOURCES).contains(&entries.len()) {
        return Err(Problem::new(&codes::INVALID_RESOURCES));
    }
    let mut resources = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let Value::Object(entry) = entry else {
            members.note_missing(format!("resources[{index}].providerResourceId"));
            continue;
        };
        let (link, complaints) = read_link(Members::new(entry));
        if link.provider_resource_id.as_str().is_empty() {
            members.note_missing(format!("resources[{index}].providerResourceId"));
        } else {
            complaints.finish()?;
        }
        resources.push(link);
    }
    Ok(resources)
}

/// What `sync.events` shall hold: the requested keys, checked and expanded, or the provider's defaults if none are
/// given. An empty list is a wish for nothing.
fn checked_events(
    registry: &Registry,
    provider: ProviderSlug,
    requested: Option<Vec<String>>,
) -> Result<Vec<String>, Problem> {
    let provider = registry.find(provider.as_str()).ok_or_else(|| {
        Problem::new(&codes::INTERNAL_ERROR).caused_by(format!("no provider is registered as {provider}"))
    })?;
    match requested {
        None => Ok(Registry::default_event_keys(provider.as_ref())),
        Some(requested) => Registry::expand_event_keys(provider.as_ref(), &requested)
            .map_err(|unknown| Problem::new(&codes::UNKNOWN_EVENT_KEY).member("keys", unknown)),
    }
}

/// The integration with this id, if the caller may see it.
///
/// # Errors
/// `not_found`.
pub(super) async fn get_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Integration, Problem> {
    let found = gateway.store.find_integration(&IntegrationId::from_raw(id)).await?;
    found.filter(|integration| caller.sees(Some(&integration.org))).ok_or_else(|| Problem::new(&codes::NOT_FOUND))
}

/// An integration with its own destination beside it.
async fn with_destination(gateway: &Gateway, integration: &Integration) -> Result<Value, Problem> {
    let record = gateway.store.load_installation(&integration.installation).await?;
    let resource = record.and_then(|record| record.resources.into_iter().find(|row| row.id == integration.resource));
    let resource = resource.ok_or_else(|| {
        Problem::new(&codes::INTERNAL_ERROR).caused_by(format!("{} has no resource row", integration.id))
    })?;
    let destination = gateway.destinations.find(&served_by(integration)).await?;
    let mut shown = integration_json(gateway, integration, &resource);
    shown["destination"] = destination.map_or(Value::Null, |view| destination_json(&view, None));
    Ok(shown)
}

/// The place of its own destination.
pub(super) fn served_by(integration: &Integration) -> ServedScope {
    ServedScope {
        org: integration.org.clone(),
        scope: DestinationScope::Integration,
        scope_id: integration.id.to_string(),
    }
}

/// `GET /integrations/{id}`: an integration and its own destination.
///
/// # Errors
/// `not_found`.
#[utoipa::path(get, path = "/integrations/{id}", responses((status = 200, body = schemas::Integration)))]
pub async fn get(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let integration = get_visible(&gateway, &caller, &id).await?;
    Ok(HttpResponse::Ok().json(with_destination(&gateway, &integration).await?))
}

/// `PATCH /integrations/{id} {events?, autoSync?, destination?}`: changes what is named. `destination` is `{url, headers?}`, or `null` to
/// deliver where the workspace does. A destination that is new answers its secret, once.
///
/// # Errors
/// `not_found`, `invalid_json`, `missing_required_fields`, `invalid_fields`, `unknown_event_key`,
/// `invalid_destination_url`, `invalid_destination_header`.
#[utoipa::path(
    patch, path = "/integrations/{id}",
    request_body = schemas::IntegrationChange,
    responses((status = 200, body = schemas::Integration)),
)]
pub async fn patch(
    Writer(caller): Writer,
    id: web::Path<String>,
    body: ApiBody,
    gateway: web::Data<Gateway>,
) -> Answer {
    let integration = get_visible(&gateway, &caller, &id).await?;
    let mut members = body.members()?;
    let events = members.texts("events");
    let auto_sync = members.flag("autoSync");
    let ends_destination = members.has("destination");
    let destination = members.optional("destination", |value| match value {
        Value::Object(members) => Some(Members::new(members)),
        _ => None,
    });
    members.finish()?;
    let destination = destination.map(read_destination).transpose()?;
    let events = events.map(|keys| checked_events(&gateway.registry, integration.provider, Some(keys))).transpose()?;

    if let Some((url, headers)) = &destination {
        // Before anything is changed.
        gateway.destinations.check(url, headers)?;
    }
    let integration = if events.is_some() || auto_sync.is_some() {
        let patch = IntegrationPatch { events, auto_sync };
        gateway.directory.patch_integration(&integration.installation, &integration.id, patch, caller.actor()).await?
    } else {
        integration
    };
    let mut shown = with_destination(&gateway, &integration).await?;
    // Last, because nothing may fail any more once there is a secret to be shown, this once.
    let scope = served_by(&integration);
    if let Some((url, headers)) = destination {
        let put = gateway.destinations.put(&scope, &url, headers, &caller.actor()).await?;
        shown["destination"] = destination_json(&put.view, put.secret.as_ref());
    } else if ends_destination {
        match gateway.destinations.delete(&scope, &caller.actor()).await {
            Ok(_) | Err(DestinationsError::NotFound) => shown["destination"] = Value::Null,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(HttpResponse::Ok().json(shown))
}

/// `DELETE /integrations/{id}`: ends an integration.
///
/// # Errors
/// `not_found`.
#[utoipa::path(delete, path = "/integrations/{id}", responses((status = 200, body = schemas::IntegrationEnded)))]
pub async fn end(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let integration = get_visible(&gateway, &caller, &id).await?;
    let ended = gateway
        .directory
        .end_integration(&integration.installation, &integration.id, IntegrationStatus::Disconnected, caller.actor())
        .await?;
    Ok(HttpResponse::Ok().json(json!({"status": ended.status, "id": ended.id, "integrationId": ended.id})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Value) -> (Result<Vec<LinkResource>, Problem>, Members) {
        let mut members = Members::new(body.as_object().expect("an object").clone());
        let resources = read_resources(&mut members);
        (resources, members)
    }

    #[test]
    fn one_to_fifty_resources_are_read_and_each_needs_its_id() {
        let fifty: Vec<_> = (1..=50).map(|id| json!({"providerResourceId": id})).collect();
        let (resources, members) = read(&json!({"resources": fifty}));
        assert_eq!(resources.expect("fifty").len(), 50);
        members.finish().expect("nothing to complain about");

        for count in [0, 51] {
            let (resources, _) = read(&json!({"resources": vec![json!({"providerResourceId": "1"}); count]}));
            assert_eq!(resources.expect_err("refused").code(), &codes::INVALID_RESOURCES, "{count}");
        }
        let (_, members) = read(&json!({"resources": [{"providerResourceId": "1"}, {"name": "x"}, 7]}));
        assert_eq!(
            members.finish().expect_err("refused").to_json("")["fields"],
            json!(["resources[1].providerResourceId", "resources[2].providerResourceId"])
        );
    }

    #[test]
    fn workspace_ids_are_opaque_but_not_anything() {
        assert!(workspace_id("wörk space/1").is_ok());
        for bad in ["", "a\nb", &"w".repeat(192)] {
            assert_eq!(workspace_id(bad).expect_err("refused").code(), &codes::INVALID_WORKSPACE_ID);
        }
    }
}
