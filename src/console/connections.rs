//! `/console/connections`: the org's connections, and the way to another.

use actix_web::web;
use askama::Template;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    filter_field::FilterField,
    layout::{Layout, Pager, Section},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{installation::Installation, resource::ResourceStatus},
    routes::{Answer, ConnectionFacts, Gateway, Problem, Query, facts_of, list_connections},
};

/// What the list is narrowed to.
const STATUSES: [&str; 5] = ["active", "needs_reauth", "pending", "suspended", "revoked"];
/// Connections whose facts are read at the same time.
const READ_AT_ONCE: usize = 8;

#[derive(Template)]
#[template(path = "connections.html")]
struct ConnectionsPage {
    layout: Layout,
    providers: Vec<Connectable>,
    provider: FilterField,
    status: FilterField,
    items: Vec<Row>,
    pager: Pager,
}

/// A provider, as something to connect.
pub(super) struct Connectable {
    /// Its slug.
    pub slug: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Whether it is configured.
    pub is_enabled: bool,
    /// What keeps accounts from being connected: the setting.
    pub missing: Option<String>,
}

/// A connection in the list.
struct Row {
    installation: Installation,
    facts: ConnectionFacts,
    provider: &'static str,
    resources: usize,
}

/// `GET /console/connections?provider&status`: the connections.
pub async fn list(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let page = list_connections(&gateway, visitor.caller.org.as_ref(), &query).await?;
    let gateway = &gateway;
    let items = stream::iter(page.items).map(|installation| row(gateway, installation));
    render(&ConnectionsPage {
        layout: visitor.layout(Section::Connections, "Connections"),
        providers: connectable(gateway),
        provider: FilterField::of_providers(&query, &gateway.registry),
        status: FilterField::of_words(&query, "status", "Status", &STATUSES),
        items: items.buffered(READ_AT_ONCE).try_collect().await?,
        pager: Pager::of(&query, page.next_cursor.as_deref()),
    })
}

async fn row(gateway: &Gateway, installation: Installation) -> Result<Row, Problem> {
    let facts = facts_of(gateway, &installation).await?;
    let record = gateway.store.load_installation(&installation.id).await?;
    let resources = record.map(|record| record.resources).unwrap_or_default();
    Ok(Row {
        provider: gateway.registry.name_of(installation.provider),
        resources: resources.iter().filter(|resource| resource.status == ResourceStatus::Active).count(),
        facts,
        installation,
    })
}

/// Every provider, as something to connect.
pub(super) fn connectable(gateway: &Gateway) -> Vec<Connectable> {
    let providers = gateway.registry.iter().map(|(provider, settings)| Connectable {
        slug: provider.slug().as_str(),
        name: provider.name(),
        is_enabled: settings.is_some(),
        missing: match gateway.registry.find_connector(provider.slug()) {
            Some(Err(missing)) => Some(missing.to_string()),
            Some(Ok(_)) | None => None,
        },
    });
    providers.collect()
}
