//! `/console/quarantine` and `/console/quarantine/{id}`: webhooks that were set aside.

use actix_web::web;
use askama::Template;

use super::{
    filter_field::FilterField,
    layout::{Layout, Pager, Section},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::ids::QuarantineId,
    routes::{Answer, Gateway, Problem, Query, beginning_of, error_codes as codes, header_names},
    store::Quarantined,
};

#[derive(Template)]
#[template(path = "quarantine.html")]
struct QuarantinePage {
    layout: Layout,
    provider: FilterField,
    items: Vec<Row>,
    pager: Pager,
}

/// A webhook in the list.
struct Row {
    webhook: Quarantined,
    provider: &'static str,
}

#[derive(Template)]
#[template(path = "quarantined.html")]
struct QuarantinedPage {
    layout: Layout,
    provider: &'static str,
    webhook: Quarantined,
    header_names: Vec<String>,
    body: String,
    is_cut: bool,
}

/// It belongs to no org.
fn only_service_keys(visitor: &Visitor) -> Result<(), Problem> {
    if visitor.caller.is_service() { Ok(()) } else { Err(Problem::new(&codes::SERVICE_KEY_REQUIRED)) }
}

/// `GET /console/quarantine?provider`: the quarantine.
pub async fn list(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    only_service_keys(&visitor)?;
    let page = gateway.store.list_quarantined(query.get("provider"), query.page(QuarantineId::PREFIX)?).await?;
    render(&QuarantinePage {
        layout: visitor.layout(Section::Quarantine, "Quarantine"),
        provider: FilterField::of_providers(&query, &gateway.registry),
        pager: Pager::of(&query, page.next_cursor.as_deref()),
        items: (page.items.into_iter())
            .map(|webhook| Row { provider: gateway.registry.name_of(webhook.provider), webhook })
            .collect(),
    })
}

/// `GET /console/quarantine/{id}`: one of them.
pub async fn show(visitor: Visitor, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    only_service_keys(&visitor)?;
    let found = gateway.store.find_quarantined(&QuarantineId::from_raw(id.as_str())).await?;
    let webhook = found.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let (body, is_cut) = beginning_of(&webhook.body);
    render(&QuarantinedPage {
        layout: visitor.layout(Section::Quarantine, "Quarantined webhook"),
        provider: gateway.registry.name_of(webhook.provider),
        header_names: header_names(&webhook),
        body,
        is_cut,
        webhook,
    })
}

/// What a cause means, and what to do about it.
fn explained(cause: &str) -> &'static str {
    match cause {
        "invalid_signature" => {
            "No live webhook secret made its signature. If the provider is right, configure its secret, restart, and \
             verify again."
        }
        "stale_timestamp" => "Its signed time was too far from ours. Look at the clocks.",
        "invalid_payload" => "It is correctly signed, and nobody can read it. A newer version may.",
        "handling_panicked" => "Handling it failed three times. Report it; a newer version may handle it.",
        _ => "It could not become an event.",
    }
}
