//! `/connections`: installations, in the wire's word. One file per endpoint.
//!
//! **Invariants**: another org's connection is answered like one that does not exist; what an org key links, the provider
//! must list for the connection: while the gateway cannot ask the provider, an org key links nothing new.

pub mod adopt;
pub mod get;
pub mod link_resource;
pub mod list;
pub mod log;
pub mod release_held;
pub mod reroute;
pub mod unlink_resource;

use serde_json::{Map, Value, json};

use super::{
    auth::Caller,
    error_codes as codes,
    gateway::Gateway,
    problem::Problem,
    request_body::{Members, as_text},
};
use crate::{
    actors::directory::LinkResource,
    model::{
        clock::EpochMs,
        ids::InstallationId,
        installation::{Installation, InstallationStatus},
        log_entry::LogEntry,
        provider::ProviderResourceId,
        resource::{Resource, ResourceStatus},
    },
    store::InstallationRecord,
};

/// Small facts of a resource that a link may bring along, at the most.
const MAX_ATTRS: usize = 20;

/// A time as JSON shows it.
pub(super) fn time_json(at: Option<EpochMs>) -> Value {
    at.map(EpochMs::to_rfc3339).into()
}

/// The connection with this id, if the caller may see it.
///
/// # Errors
/// `not_found`, also for another org's.
pub(super) async fn find_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Installation, Problem> {
    let found = gateway.store.find_installation(&InstallationId::from_raw(id)).await?;
    found.filter(|installation| caller.sees(Some(&installation.org))).ok_or_else(|| Problem::new(&codes::NOT_FOUND))
}

/// The connection with this id and what belongs to it, if the caller may see it.
///
/// # Errors
/// `not_found`, also for another org's.
pub(super) async fn load_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<InstallationRecord, Problem> {
    let found = gateway.store.load_installation(&InstallationId::from_raw(id)).await?;
    found.filter(|record| caller.sees(Some(&record.installation.org))).ok_or_else(|| Problem::new(&codes::NOT_FOUND))
}

/// A connection as it is shown; of its resources only the active ones.
pub(super) fn connection_json(installation: &Installation, resources: &[Resource]) -> Value {
    let active = resources.iter().filter(|resource| resource.status == ResourceStatus::Active);
    json!({
        "id": installation.id,
        "provider": installation.provider,
        "externalId": installation.external_id,
        "accountLogin": installation.account_login,
        "orgId": installation.org,
        "connectedBy": installation.connected_by,
        "status": installation.status,
        "statusReason": installation.status_reason,
        // Tokens come with the OAuth connections; until then no connection has one.
        "hasToken": false,
        "tokenExpiresAt": null,
        "health": health_word(installation.status),
        "lastEventAt": time_json(installation.last_event_at),
        "resources": active.map(resource_json).collect::<Vec<_>>(),
        "createdAt": installation.created_at.to_rfc3339(),
        "updatedAt": installation.updated_at.to_rfc3339(),
    })
}

fn health_word(status: InstallationStatus) -> &'static str {
    match status {
        InstallationStatus::Active => "ok",
        other => other.as_str(),
    }
}

/// A resource as it is shown within its connection.
pub(super) fn resource_json(resource: &Resource) -> Value {
    json!({
        "id": resource.id,
        "providerResourceId": resource.provider_resource_id,
        "resourceName": resource.name,
    })
}

/// An entry of the log as it is shown.
pub(super) fn log_json(entry: &LogEntry) -> Value {
    json!({
        "id": entry.id,
        "at": entry.at.to_rfc3339(),
        "action": entry.action,
        "orgId": entry.org,
        "connectionId": entry.installation,
        "subject": entry.subject,
        "from": entry.from_state,
        "to": entry.to_state,
        "reason": entry.reason,
        "actor": entry.actor,
    })
}

/// Reads a resource to link; complaints stay in `members`. Members beside the known ones become small facts.
pub(super) fn read_link(mut members: Members) -> (LinkResource, Members) {
    let provider_resource_id = members.required_id("providerResourceId");
    let name = members.text("resourceName");
    let name = members.text("name").or(name);
    let slug = members.text("slug");
    let mut attrs = Map::new();
    for (member, attr) in [("private", "isPrivate"), ("archived", "isArchived")] {
        if let Some(fact) = members.flag(member) {
            attrs.insert(attr.to_owned(), Value::Bool(fact));
        }
    }
    for member in ["isPrivate", "isArchived"] {
        if let Some(fact) = members.flag(member) {
            attrs.insert(member.to_owned(), Value::Bool(fact));
        }
    }
    for member in members.names() {
        let fact =
            members.take(&member).filter(|value| value.is_boolean() || value.is_number() || as_text(value).is_some());
        if let Some(fact) = fact
            && attrs.len() < MAX_ATTRS
            && as_text(&Value::from(member.as_str())).is_some()
        {
            attrs.insert(member, fact);
        }
    }
    let link = LinkResource { provider_resource_id: ProviderResourceId::new(provider_resource_id), name, slug, attrs };
    (link, members)
}

/// Fails closed for an org key that links what is not linked: the provider would have to be asked whether it lists the
/// resource for this connection, and the gateway cannot ask it yet. The service key is trusted.
pub(super) fn check_linkable(caller: &Caller, record: &InstallationRecord, link: &LinkResource) -> Result<(), Problem> {
    let linked = || {
        record.resources.iter().any(|resource| {
            resource.status == ResourceStatus::Active && resource.provider_resource_id == link.provider_resource_id
        })
    };
    if caller.is_service() || linked() {
        return Ok(());
    }
    Err(Problem::new(&codes::RESOURCE_NOT_ACCESSIBLE).member("providerResourceId", link.provider_resource_id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_small_facts_and_leaves_the_rest() {
        let body = json!({
            "providerResourceId": 42, "name": "harborworks/tide-clock", "private": true, "defaultBranch": "main",
            "nested": {"a": 1}, "bad": "\u{0}",
        });
        let (link, members) = read_link(Members::new(body.as_object().expect("an object").clone()));
        members.finish().expect("nothing to complain about");
        assert_eq!(link.provider_resource_id.as_str(), "42");
        assert_eq!(link.name.as_deref(), Some("harborworks/tide-clock"));
        assert_eq!(Value::Object(link.attrs), json!({"isPrivate": true, "defaultBranch": "main"}));
    }
}
