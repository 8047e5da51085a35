//! `/console`: how the gateway is doing.

use actix_web::web;
use askama::Template;

use super::{
    layout::{Layout, Section},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{event::Event, ids::EventId, installation::Installation},
    routes::{Answer, Gateway, Query},
    store::{EventFilter, PageRequest},
    telemetry::provider_health::ProviderHealth,
};

/// Events shown.
const EVENTS: u32 = 8;
/// Connections looked at.
const CONNECTIONS: u32 = 100;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    layout: Layout,
    providers: Vec<ProviderRow>,
    needing: Vec<Installation>,
    connections: usize,
    events: Vec<Event>,
}

/// A provider in the last minutes.
struct ProviderRow {
    name: &'static str,
    is_enabled: bool,
    counts: ProviderHealth,
}

/// `GET /console`: the overview.
pub async fn show(visitor: Visitor, _query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = visitor.caller.org.as_ref();
    let filter = EventFilter { org: org.cloned(), ..EventFilter::default() };
    let events = gateway.store.list_events(&filter, PageRequest { limit: EVENTS, cursor: None }).await?.items;
    let page = PageRequest { limit: CONNECTIONS, cursor: None };
    let connections = gateway.store.list_installations(org, None, None, page).await?.items;
    let providers = gateway.registry.iter().map(|(provider, settings)| ProviderRow {
        name: provider.name(),
        is_enabled: settings.is_some(),
        counts: gateway.metrics.provider_health(provider.slug()),
    });
    render(&OverviewPage {
        layout: visitor.layout(Section::Overview, "Overview"),
        providers: if visitor.caller.is_service() { providers.collect() } else { Vec::new() },
        connections: connections.len(),
        needing: connections.into_iter().filter(|connection| !is_well(connection)).collect(),
        events,
    })
}

/// Whether a connection needs nobody: it works, or it was ended on purpose.
fn is_well(connection: &Installation) -> bool {
    use crate::model::installation::InstallationStatus::{Active, Revoked};
    matches!(connection.status, Active | Revoked)
}

/// What an event is called: its key, or else its wire type.
fn name_of(event: &Event) -> &str {
    event.key.as_ref().map_or(event.wire_type.as_str(), |key| key.as_str())
}

/// The page of an event.
fn path_of(id: &EventId) -> String {
    format!("/console/events/{id}")
}
