//! `/console/destinations`: where envelopes are posted.

use actix_web::web;
use askama::Template;

use super::{
    layout::{Layout, Pager, Section, segment},
    render, ui,
    visitor::Visitor,
    workspace::scope,
};
use crate::{
    actors::destinations::DestinationView,
    model::{clock::EpochMs, destination::DestinationScope, ids::DestinationId},
    routes::{Answer, Gateway, Query},
};

#[derive(Template)]
#[template(path = "destinations.html")]
struct DestinationsPage {
    layout: Layout,
    rows: Vec<Row>,
    pager: Pager,
    /// Whether this is the list's first page.
    is_first: bool,
    /// Whether the whole org has one.
    has_org_wide: bool,
    has_fallback: bool,
    /// Where the API has the org's.
    org_api: String,
}

/// A destination.
struct Row {
    id: DestinationId,
    whose: String,
    /// The page of what it serves; empty for the org.
    path: String,
    /// Where the API has it.
    api: String,
    url: String,
    headers: Vec<String>,
    disabled: Option<String>,
    failing_since: Option<EpochMs>,
    /// What this node thinks of it, if that is not that it is well.
    circuit: Option<&'static str>,
    previous_until: Option<EpochMs>,
    updated_at: EpochMs,
    /// What its deletion does.
    consequence: &'static str,
}

impl Row {
    /// The id of the dialog that changes it.
    fn dialog(&self) -> String {
        format!("change-{}", self.id)
    }
}

/// `GET /console/destinations`: the org's destinations.
pub async fn show(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let layout = visitor.layout(Section::Destinations, "Destinations");
    let has_fallback = gateway.config.delivery.url.is_some();
    let is_first = query.get("cursor").is_none();
    let Some(org) = &visitor.caller.org else {
        let pager = Pager::of(&query, None);
        let (rows, org_api) = (Vec::new(), String::new());
        return render(&DestinationsPage { layout, rows, pager, is_first, has_org_wide: false, has_fallback, org_api });
    };
    let page = gateway.destinations.list(org, query.page(DestinationId::PREFIX)?).await?;
    let of_org = gateway.destinations.find(&scope(org, DestinationScope::Org, org.as_str())).await?;
    render(&DestinationsPage {
        layout,
        pager: Pager::of(&query, page.next_cursor.as_deref()),
        rows: page.items.into_iter().map(|view| row(&gateway, view, has_fallback, visitor.now)).collect(),
        is_first,
        has_org_wide: of_org.is_some(),
        has_fallback,
        org_api: format!("/orgs/{org}/destination"),
    })
}

fn row(gateway: &Gateway, view: DestinationView, has_fallback: bool, now: EpochMs) -> Row {
    let DestinationView { destination: it, header_names } = view;
    let segment = segment(&it.scope_id);
    let (whose, path, api) = match it.scope {
        DestinationScope::Org => ("The whole org".to_owned(), String::new(), format!("/orgs/{segment}/destination")),
        DestinationScope::Workspace => (
            format!("Workspace {}", it.scope_id),
            format!("/console/workspaces/{segment}"),
            format!("/workspaces/{segment}/destination"),
        ),
        DestinationScope::Integration => (
            format!("Integration {}", it.scope_id),
            format!("/console/integrations/{segment}"),
            format!("/integrations/{segment}/destination"),
        ),
    };
    let consequence = match it.scope {
        DestinationScope::Org if has_fallback => "Deliveries without a narrower one go to the gateway’s default.",
        DestinationScope::Org => "Deliveries without a narrower one wait until there is one again.",
        DestinationScope::Workspace if has_fallback => {
            "The workspace’s deliveries go to the org’s destination, or to the gateway’s default if it has none."
        }
        DestinationScope::Workspace => {
            "The workspace’s deliveries go to the org’s destination, or wait if it has none."
        }
        DestinationScope::Integration => {
            "The integration’s deliveries go to its workspace’s destination, or where that one’s go if it has none."
        }
    };
    Row {
        circuit: gateway.dispatcher.circuit(&it.id).filter(|circuit| *circuit != "closed"),
        whose,
        path,
        api,
        consequence,
        id: it.id,
        url: it.url,
        headers: header_names,
        disabled: it.disabled_reason,
        failing_since: it.failing_since,
        previous_until: it.previous_until.filter(|until| *until > now),
        updated_at: it.updated_at,
    }
}
