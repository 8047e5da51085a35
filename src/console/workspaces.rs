//! `/console/workspaces`: who subscribes.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, http::header, web};
use askama::Template;

use super::{
    layout::{Layout, Pager, Section, base, segment},
    render, ui,
    visitor::Visitor,
    workspace::scope,
};
use crate::{
    model::{destination::DestinationScope, integration::IntegrationStatus},
    providers::Registry,
    routes::{Answer, Gateway, Query},
    store::WorkspaceSummary,
};

#[derive(Template)]
#[template(path = "workspaces.html")]
struct WorkspacesPage {
    layout: Layout,
    rows: Vec<Row>,
    pager: Pager,
}

/// A workspace.
struct Row {
    name: String,
    path: String,
    providers: Vec<ProviderCount>,
    /// Where its deliveries go; empty is nowhere.
    goes_to: &'static str,
    /// Whether nothing is sent there any more.
    is_disabled: bool,
}

/// Its integrations with a provider.
struct ProviderCount {
    name: String,
    /// How many there are of each sort, in words.
    counted: String,
}

/// `GET /console/workspaces[?open=]`: the org's workspaces.
pub async fn show(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    if let Some(wanted) = query.get("open").map(str::trim).filter(|wanted| !wanted.is_empty()) {
        let address = format!("{}/console/workspaces/{}", base(&gateway), segment(wanted));
        return Ok(HttpResponse::SeeOther().insert_header((header::LOCATION, address)).finish());
    }
    let layout = visitor.layout(Section::Workspaces, "Workspaces");
    let Some(org) = &visitor.caller.org else {
        return render(&WorkspacesPage { layout, rows: Vec::new(), pager: Pager::of(&query, None) });
    };
    let page = gateway.store.list_workspaces(org, query.page_after_name()).await?;
    let of_org = gateway.destinations.find(&scope(org, DestinationScope::Org, org.as_str())).await?;
    let otherwise = match of_org {
        Some(view) => ("the org’s destination", view.destination.disabled_reason.is_some()),
        None if gateway.config.delivery.url.is_some() => ("the gateway’s default", false),
        None => ("", false),
    };
    let mut rows = Vec::with_capacity(page.items.len());
    for summary in &page.items {
        let goes_to = match &summary.destination {
            Some(own) => {
                let own = gateway.store.find_destination(own).await?;
                ("its own destination", own.is_some_and(|own| own.disabled_reason.is_some()))
            }
            None => otherwise,
        };
        rows.push(row(&gateway.registry, summary, goes_to));
    }
    render(&WorkspacesPage { layout, pager: Pager::of(&query, page.next_cursor.as_deref()), rows })
}

fn row(registry: &Registry, summary: &WorkspaceSummary, (goes_to, is_disabled): (&'static str, bool)) -> Row {
    let of_provider = |slug: &String| registry.find(slug).map_or(slug.clone(), |found| found.name().to_owned());
    let providers = summary
        .integrations
        .iter()
        .map(|(slug, statuses)| ProviderCount { name: of_provider(slug), counted: counted(statuses) });
    Row {
        name: summary.workspace.to_string(),
        path: format!("/console/workspaces/{}", segment(summary.workspace.as_str())),
        providers: providers.collect(),
        goes_to,
        is_disabled,
    }
}

/// `2 active, 1 paused, 3 not in use`; what there is none of is not said.
fn counted(statuses: &BTreeMap<String, u64>) -> String {
    let of = |status: IntegrationStatus| statuses.get(status.as_str()).copied().unwrap_or_default();
    let (active, paused) = (of(IntegrationStatus::Active), of(IntegrationStatus::Paused));
    let others = statuses.values().sum::<u64>() - active - paused;
    let words = [(active, "active"), (paused, "paused"), (others, "not in use")];
    let said = words.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    said.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrations_are_counted_by_whether_they_get_events() {
        let counts = |counts: &[(&str, u64)]| {
            counted(&counts.iter().map(|(status, count)| ((*status).to_owned(), *count)).collect())
        };
        assert_eq!(
            counts(&[("active", 2), ("paused", 1), ("removed", 2), ("suspended", 1)]),
            "2 active, 1 paused, 3 not in use"
        );
        assert_eq!(counts(&[("paused", 1)]), "1 paused");
    }
}
