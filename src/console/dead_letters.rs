//! `/console/dead-letters`: deliveries that were given up, to be looked at and sent again, many at a time.

use actix_web::web;
use askama::Template;

use super::{
    events::{name_of, read_time},
    filter_field::FilterField,
    layout::{Layout, Pager, Section, segment},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{
        clock::EpochMs,
        delivery::{Delivery, DeliveryStatus},
        event::Event,
        ids::{DeliveryId, InstallationId, WorkspaceId},
        words,
    },
    routes::{Answer, Gateway, Query},
    store::{BoundedCount, DeliveryFilter},
};

/// How far they are counted.
const COUNTED: u32 = 10_000;

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct DeadLettersPage {
    layout: Layout,
    provider: FilterField,
    connection: FilterField,
    workspace: String,
    since: String,
    is_narrowed: bool,
    count: BoundedCount,
    /// What the API lists all of them at, on this page and on the others.
    every: String,
    items: Vec<Row>,
    /// Whether everything that the filters ask for was looked at.
    is_complete: bool,
    pager: Pager,
}

/// A dead letter in the list.
struct Row {
    delivery: Delivery,
    event: Event,
    provider: &'static str,
}

/// `GET /console/dead-letters?provider&connection&workspace&since`: the dead letters.
pub async fn list(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = visitor.caller.org.as_ref();
    let filter = DeliveryFilter {
        org: org.cloned(),
        status: Some(DeliveryStatus::Dead),
        provider: query.get("provider").map(str::to_owned),
        installation: query.get("connection").map(InstallationId::from_raw),
        workspace: query.get("workspace").map(WorkspaceId::from_raw),
        since: query.read("since", read_time)?,
        ..DeliveryFilter::default()
    };
    let found = gateway.store.search_deliveries(&filter, query.page(DeliveryId::PREFIX)?).await?;
    let count = gateway.store.count_deliveries(&filter, COUNTED).await?;
    render(&DeadLettersPage {
        layout: visitor.layout(Section::DeadLetters, "Dead letters"),
        provider: FilterField::of_providers(&query, &gateway.registry),
        connection: FilterField::of_connections(&query, &gateway, org).await?,
        workspace: query.get("workspace").unwrap_or_default().to_owned(),
        since: filter.since.map_or_else(String::new, |at| at.to_rfc3339().chars().take(16).collect()),
        is_narrowed: ["provider", "connection", "workspace", "since"].iter().any(|name| query.get(name).is_some()),
        count,
        every: every(&filter),
        is_complete: found.searched_back_to.is_none(),
        pager: Pager::of_search(&query, &found, visitor.now),
        items: (found.items.into_iter())
            .map(|(delivery, event)| Row { provider: gateway.registry.name_of(event.provider), delivery, event })
            .collect(),
    })
}

/// The search of the API that finds what this page lists.
fn every(filter: &DeliveryFilter) -> String {
    let mut search = form_urlencoded::Serializer::new(String::new());
    let since = filter.since.map(EpochMs::to_rfc3339);
    for (name, value) in [
        ("status", filter.status.map(DeliveryStatus::as_str)),
        ("provider", filter.provider.as_deref()),
        ("connection", filter.installation.as_ref().map(InstallationId::as_str)),
        ("workspace", filter.workspace.as_ref().map(WorkspaceId::as_str)),
        ("since", since.as_deref()),
    ] {
        search.extend_pairs(value.map(|value| (name, value)));
    }
    format!("/deliveries?{}", search.finish())
}

/// Why it was given up, or is not there yet, in words.
pub(super) fn why(delivery: &Delivery) -> String {
    let Some(reason) = delivery.reason.as_deref() else { return "It was given up.".to_owned() };
    words::DELIVERY_REASONS.says(reason).map_or_else(|| reason.replace('_', " "), str::to_owned)
}
