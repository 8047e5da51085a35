//! `/connections`: installations, in the wire's word. One file per endpoint.
//!
//! **Invariants**: another org's connection is answered like one that does not exist; what an org key links, the provider
//! must list for the connection: when the provider cannot be asked, an org key links nothing new.

pub mod adopt;
pub mod available_resources;
pub mod backfill_runs;
pub mod config;
pub mod delete;
pub mod get;
pub mod link_resource;
pub mod list;
pub mod log;
pub mod proxy;
pub mod release_held;
pub mod reroute;
pub mod teardown;
pub mod token;
pub mod unlink_resource;
pub mod validate;

use serde_json::{Map, Value, json};

use super::{
    auth::Caller,
    error_codes as codes,
    gateway::Gateway,
    problem::Problem,
    request_body::{Members, as_text},
};
use crate::{
    actors::{AskError, directory::LinkResource, installation::installation_health, provider_calls::ProviderCallError},
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
pub(super) async fn get_visible(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Installation, Problem> {
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

/// How many of a connection's newest events its usual rhythm is judged by.
const RHYTHM_EVENTS: u32 = 50;

/// What is known of a connection beside its row.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Whether there is a token, or one would be made on demand.
    pub has_token: bool,
    /// Whether a token is kept; what is made on demand is not.
    pub keeps_token: bool,
    /// When the kept token ends; `None` if it does not, or none is kept.
    pub token_expires_at: Option<EpochMs>,
    /// How it is doing, in a word.
    pub health: &'static str,
}

/// What is known of a connection beside its row.
///
/// # Errors
/// If it cannot be read.
pub async fn facts_of(gateway: &Gateway, installation: &Installation) -> Result<ConnectionFacts, Problem> {
    let token = gateway.store.find_token(&installation.id).await?;
    let provider_health = gateway.store.find_provider_health(&installation.id).await?;
    let rhythm = gateway.store.find_rhythm(&installation.id, RHYTHM_EVENTS).await?;
    let now = gateway.clock.now();
    // What is minted on demand is as good as kept, as long as it can be minted.
    let is_minted = matches!(gateway.registry.find_connector(installation.provider), Some(Ok(connector)) if !connector.keeps_tokens());
    let has_token = installation.status != InstallationStatus::Revoked
        && (token.is_some() || (is_minted && installation.status == InstallationStatus::Active));
    Ok(ConnectionFacts {
        has_token,
        keeps_token: token.is_some(),
        token_expires_at: token.filter(|_| has_token).and_then(|token| token.expires_at),
        health: installation_health(installation.status, provider_health.as_ref(), rhythm.as_ref(), now),
    })
}

/// A connection as it is shown; of its resources only the active ones.
///
/// # Errors
/// If what is known of its token and its health cannot be read.
pub(super) async fn show(
    gateway: &Gateway,
    installation: &Installation,
    resources: &[Resource],
) -> Result<Value, Problem> {
    let facts = facts_of(gateway, installation).await?;
    let active = resources.iter().filter(|resource| resource.status == ResourceStatus::Active);
    Ok(json!({
        "id": installation.id,
        "provider": installation.provider,
        "externalId": installation.external_id,
        "accountLogin": installation.account_login,
        "orgId": installation.org,
        "connectedBy": installation.connected_by,
        "status": installation.status,
        "statusReason": installation.status_reason,
        "hasToken": facts.has_token,
        "tokenExpiresAt": time_json(facts.token_expires_at),
        "health": facts.health,
        "lastEventAt": time_json(gateway.directory.last_event_of_installation(installation)),
        "resources": active.map(resource_json).collect::<Vec<_>>(),
        "createdAt": installation.created_at.to_rfc3339(),
        "updatedAt": installation.updated_at.to_rfc3339(),
    }))
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

/// Lets the provider vouch for what an org key is about to link, and fill in what the caller did not say. The service key
/// is trusted: for it the provider is asked for facts only, and links whether it answers or not.
///
/// # Errors
/// `resource_not_accessible` for what the provider does not list, or if there is no token to ask it with; what keeps the
/// provider from being asked.
pub(super) async fn check_linkable(
    gateway: &Gateway,
    caller: &Caller,
    record: &InstallationRecord,
    links: &mut [LinkResource],
) -> Result<(), Problem> {
    if caller.is_service() {
        gateway.directory.fill_in_links(record, links).await;
        return Ok(());
    }
    let refused = |id: &ProviderResourceId| {
        Problem::new(&codes::RESOURCE_NOT_ACCESSIBLE).member("providerResourceId", id.as_str())
    };
    let nobody_vouches_for = match gateway.directory.vouch_for_links(record, links).await {
        Ok(not_listed) => not_listed.into_iter().next(),
        Err(AskError::Reply(ProviderCallError::NoToken | ProviderCallError::NotConfigured(_))) => {
            links.first().map(|link| link.provider_resource_id.clone())
        }
        Err(error) => return Err(error.into()),
    };
    nobody_vouches_for.map_or(Ok(()), |id| Err(refused(&id)))
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
