//! `/console/workspaces/{id}`: what a workspace is subscribed to, and where its deliveries go.

use std::collections::BTreeSet;

use actix_web::web;
use askama::Template;
use serde_json::json;

use super::{
    layout::{Layout, Section, segment},
    render, ui,
    visitor::Visitor,
};
use crate::{
    actors::destinations::ServedScope,
    model::{
        clock::EpochMs,
        destination::{Destination, DestinationScope},
        ids::{InstallationId, IntegrationId, OrgId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        resource::{Resource, ResourceStatus},
    },
    providers::Registry,
    routes::{Answer, Gateway, Problem, Query, error_codes as codes},
    store::PageRequest,
};

/// Connections of a status to choose from.
const CONNECTIONS: u32 = 100;

#[derive(Template)]
#[template(path = "workspace.html")]
struct WorkspacePage {
    layout: Layout,
    name: String,
    /// The id as a segment of an address.
    segment: String,
    own: Option<Destination>,
    own_url: String,
    own_has_headers: bool,
    /// Where the API has its own destination.
    api: String,
    /// What the deletion of its own does.
    consequence: String,
    /// The org's destination.
    org: Option<Destination>,
    has_fallback: bool,
    rows: Vec<Row>,
    /// How many have ended.
    ended: usize,
    shows_all: bool,
    connections: Choices,
    chosen: Option<Chosen>,
}

/// An integration.
struct Row {
    id: IntegrationId,
    name: String,
    provider: &'static str,
    status: IntegrationStatus,
    is_live: bool,
    is_paused: bool,
    reason: Option<String>,
    /// Sorts of events it gets.
    wanted: usize,
    /// Sorts there are.
    known: usize,
    last_event_at: Option<EpochMs>,
}

/// The connections to choose from.
struct Choices {
    items: Vec<Choice>,
    /// Whether there are more.
    has_more: bool,
}

/// A connection to choose.
struct Choice {
    id: InstallationId,
    name: String,
    is_chosen: bool,
}

/// The connection chosen, with what the workspace is not subscribed to.
struct Chosen {
    id: InstallationId,
    name: String,
    /// How many resources are linked, whoever is subscribed to them.
    linked: usize,
    resources: Vec<Offer>,
}

/// A resource to subscribe to.
struct Offer {
    name: String,
    /// As `POST /workspaces/{id}/integrations` takes it.
    body: String,
}

/// `GET /console/workspaces/{id}[?connection=&all=]`: a workspace.
pub async fn show(visitor: Visitor, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = visitor.caller.require_org()?;
    let name = id.into_inner();
    if name.is_empty() || name.len() > 191 || name.chars().any(char::is_control) {
        return Err(Problem::new(&codes::NOT_FOUND));
    }
    let workspace = WorkspaceId::from_raw(name.as_str());
    let integrations = gateway.store.list_workspace_integrations(org, &workspace, None).await?;
    let subscribed: BTreeSet<_> = integrations
        .iter()
        .filter(|(integration, _)| is_live(integration))
        .map(|(integration, _)| integration.resource.clone())
        .collect();
    let shows_all = query.get("all").is_some();
    let ended = integrations.iter().filter(|(integration, _)| has_ended(integration)).count();
    let shown = integrations.iter().filter(|(integration, _)| shows_all || !has_ended(integration));
    let own = gateway.destinations.find(&scope(org, DestinationScope::Workspace, workspace.as_str())).await?;
    let of_org = gateway.destinations.find(&scope(org, DestinationScope::Org, org.as_str())).await?;
    let (installations, has_more) = routing_installations(&gateway, org).await?;
    let wanted = query.get("connection").or_else(|| installations.first().map(|first| first.id.as_str()));
    let chosen = installations.iter().find(|one| wanted == Some(one.id.as_str()));
    let has_fallback = gateway.config.delivery.url.is_some();
    let segment = segment(&name);
    render(&WorkspacePage {
        layout: visitor.layout(Section::Workspaces, &name),
        api: format!("/workspaces/{segment}/destination"),
        consequence: match &of_org {
            Some(view) => format!("Its deliveries go to the org’s destination, {}.", view.destination.url),
            None if has_fallback => "Its deliveries go to the gateway’s default destination.".to_owned(),
            None => "Its deliveries wait until there is a destination again.".to_owned(),
        },
        own_url: own.as_ref().map(|view| view.destination.url.clone()).unwrap_or_default(),
        own_has_headers: own.as_ref().is_some_and(|view| !view.header_names.is_empty()),
        own: own.map(|view| view.destination),
        org: of_org.map(|view| view.destination),
        has_fallback,
        rows: shown.map(|(integration, resource)| row(&gateway.registry, integration, resource)).collect(),
        ended,
        shows_all,
        connections: Choices {
            items: installations.iter().map(|one| choice(&gateway.registry, one, chosen)).collect(),
            has_more,
        },
        chosen: match chosen {
            Some(chosen) => offers(&gateway, chosen, &subscribed).await?,
            None => None,
        },
        name,
        segment,
    })
}

/// A destination's place.
pub(super) fn scope(org: &OrgId, scope: DestinationScope, id: &str) -> ServedScope {
    ServedScope { org: org.clone(), scope, scope_id: id.to_owned() }
}

/// Whether it gets events, or would if it were not paused.
pub(super) fn is_live(integration: &Integration) -> bool {
    matches!(integration.status, IntegrationStatus::Active | IntegrationStatus::Paused)
}

/// Whether nothing but subscribing again brings it back.
fn has_ended(integration: &Integration) -> bool {
    use IntegrationStatus::{Deleted, Disconnected, Removed, Revoked};
    matches!(integration.status, Disconnected | Removed | Deleted | Revoked)
}

/// What people call a resource.
pub(super) fn name_of(resource: &Resource) -> &str {
    resource.name.as_deref().unwrap_or(resource.provider_resource_id.as_str())
}

fn row(registry: &Registry, integration: &Integration, resource: &Resource) -> Row {
    let rules = integration.rules();
    let provider = registry.find(integration.provider.as_str());
    let events = provider.map_or(&[][..], |provider| provider.events());
    Row {
        id: integration.id.clone(),
        name: name_of(resource).to_owned(),
        provider: registry.name_of(integration.provider),
        status: integration.status,
        is_live: is_live(integration),
        is_paused: integration.is_paused(),
        reason: integration.status_reason.clone().filter(|_| integration.status != IntegrationStatus::Active),
        wanted: events.iter().filter(|spec| super::integration::is_wanted(&rules, spec)).count(),
        known: events.len(),
        last_event_at: integration.last_event_at,
    }
}

/// The org's newest connections that route, newest first, and whether it has more.
async fn routing_installations(gateway: &Gateway, org: &OrgId) -> Result<(Vec<Installation>, bool), Problem> {
    let page = PageRequest { limit: CONNECTIONS, cursor: None };
    let (mut found, mut has_more) = (Vec::new(), false);
    for status in InstallationStatus::ALL.into_iter().filter(|status| status.routes()) {
        let of_status = gateway.store.list_installations(Some(org), None, Some(status), page).await?;
        has_more |= of_status.next_cursor.is_some();
        found.extend(of_status.items);
    }
    found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
    Ok((found, has_more))
}

fn choice(registry: &Registry, installation: &Installation, chosen: Option<&Installation>) -> Choice {
    let provider = registry.name_of(installation.provider);
    Choice {
        id: installation.id.clone(),
        name: format!("{provider} · {}", installation.account()),
        is_chosen: chosen.is_some_and(|chosen| chosen.id == installation.id),
    }
}

async fn offers(
    gateway: &Gateway,
    chosen: &Installation,
    subscribed: &BTreeSet<crate::model::ids::ResourceId>,
) -> Result<Option<Chosen>, Problem> {
    let Some(record) = gateway.store.load_installation(&chosen.id).await? else { return Ok(None) };
    let is_linked = |resource: &&Resource| resource.status == ResourceStatus::Active;
    let is_offered = |resource: &&Resource| is_linked(resource) && !subscribed.contains(&resource.id);
    let offer = |resource: &Resource| Offer {
        name: name_of(resource).to_owned(),
        body: json!({"providerResourceId": resource.provider_resource_id}).to_string(),
    };
    Ok(Some(Chosen {
        id: chosen.id.clone(),
        name: chosen.account().to_owned(),
        linked: record.resources.iter().filter(is_linked).count(),
        resources: record.resources.iter().filter(is_offered).map(offer).collect(),
    }))
}
