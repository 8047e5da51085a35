//! `/console/events`: what came, looked for by everything people know of it.

use actix_web::{HttpResponse, http::header, web};
use askama::Template;

use super::{
    event::says,
    filter_field::FilterField,
    layout::{Layout, Pager, Section, segment},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{
        clock::EpochMs,
        event::{Event, EventOutcome},
        ids::{DeliveryId, EventId, InstallationId},
    },
    routes::{Answer, Gateway, Problem, Query, error_codes as codes},
    store::EventFilter,
};

/// What the list is narrowed to.
const OUTCOMES: [&str; 5] = ["routed", "filtered", "unrouted", "ignored", "control"];

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    layout: Layout,
    asked: Asked,
    keys: Vec<&'static str>,
    items: Vec<Row>,
    is_first: bool,
    is_narrowed: bool,
    searched_back_to: Option<EpochMs>,
    pager: Pager,
}

/// The filters, as they were asked for.
struct Asked {
    search: String,
    provider: FilterField,
    connection: FilterField,
    outcome: FilterField,
    key: String,
    since: String,
    until: String,
    held: bool,
}

/// An event in the list.
struct Row {
    event: Event,
    provider: &'static str,
}

/// `GET /console/events`: the events.
pub async fn list(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let search = query.get("search").unwrap_or_default().trim().to_owned();
    if let Some(address) = address_of(&visitor, &search).await? {
        return Ok(HttpResponse::SeeOther().insert_header((header::LOCATION, address)).finish());
    }
    let filter = read_filter(&visitor, &query, &search)?;
    let found = gateway.store.list_events(&filter, query.page(EventId::PREFIX)?).await?;
    let of_provider = |slug: &str| filter.provider.as_deref().is_none_or(|wanted| wanted == slug);
    render(&EventsPage {
        layout: visitor.layout(Section::Events, "Events"),
        asked: Asked {
            search,
            provider: FilterField::of_providers(&query, &gateway.registry),
            connection: FilterField::of_connections(&query, &gateway, visitor.caller.org.as_ref()).await?,
            outcome: FilterField::of_words(&query, "outcome", "Outcome", &OUTCOMES),
            key: query.get("eventKey").unwrap_or_default().to_owned(),
            since: query.get("since").unwrap_or_default().to_owned(),
            until: query.get("until").unwrap_or_default().to_owned(),
            held: filter.held == Some(true),
        },
        keys: (gateway.registry.iter())
            .filter(|(provider, _)| of_provider(provider.slug().as_str()))
            .flat_map(|(provider, _)| provider.events().iter().map(|spec| spec.key))
            .collect(),
        is_first: query.get("cursor").is_none(),
        is_narrowed: query.pairs().any(|(name, value)| name != "org" && name != "fragment" && !value.is_empty()),
        searched_back_to: found.searched_back_to,
        pager: Pager::of_search(&query, &found, visitor.now),
        items: (found.items.into_iter())
            .map(|event| Row { provider: gateway.registry.name_of(event.provider), event })
            .collect(),
    })
}

/// The page of an event that was looked for by one of our ids.
async fn address_of(visitor: &Visitor, search: &str) -> Result<Option<String>, Problem> {
    let base = super::layout::base(&visitor.gateway);
    if search.starts_with(EventId::PREFIX) && search.len() > 20 {
        return Ok(Some(format!("{base}/console/events/{}", segment(search))));
    }
    if !search.starts_with(DeliveryId::PREFIX) {
        return Ok(None);
    }
    let found = visitor.gateway.store.find_delivery(&DeliveryId::from_raw(search)).await?;
    let found = found.filter(|(delivery, _)| visitor.caller.sees(Some(&delivery.org)));
    let (delivery, event) = found.ok_or_else(|| {
        Problem::new(&codes::NOT_FOUND).detail("No delivery has this id, or its event is not kept any more.")
    })?;
    Ok(Some(format!("{base}/console/events/{}#{}", event.id, delivery.id)))
}

fn read_filter(visitor: &Visitor, query: &Query, search: &str) -> Result<EventFilter, Problem> {
    let delivery_id = Some(search).filter(|search| !search.is_empty()).or(query.get("deliveryId"));
    Ok(EventFilter {
        org: visitor.caller.org.clone(),
        provider: query.get("provider").map(str::to_owned),
        installation: query.get("connection").map(InstallationId::from_raw),
        outcome: query.read("outcome", EventOutcome::parse)?,
        key: query.get("eventKey").map(str::to_owned),
        provider_delivery_id: delivery_id.map(str::to_owned),
        since: query.read("since", read_time)?,
        until: query.read("until", read_time)?,
        held: query.flag("held")?,
    })
}

/// A time as links have it, or as a field for times gives it: to the minute, without a zone.
pub(super) fn read_time(text: &str) -> Option<EpochMs> {
    let text = text.replace(' ', "+");
    let zoned = [String::new(), "Z".to_owned(), ":00Z".to_owned()];
    zoned.iter().find_map(|end| EpochMs::parse_rfc3339(&format!("{text}{end}")))
}

/// What an event is called: its key, or else its wire type.
pub(super) fn name_of(event: &Event) -> &str {
    event.key.as_ref().map_or(event.wire_type.as_str(), |key| key.as_str())
}

/// What a field for times takes: to the minute, without a zone.
fn minute(text: &str) -> String {
    read_time(text).map_or_else(String::new, |at| at.to_rfc3339().chars().take(16).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_from_a_link_and_from_a_field() {
        let at = Some(EpochMs(1_771_980_000_000));
        for text in ["2026-02-25T00:40:00Z", "2026-02-25T00:40", "2026-02-25T00:40:00", "2026-02-25T01:40:00 01:00"] {
            assert_eq!(read_time(text), at, "{text}");
        }
        assert_eq!(read_time("yesterday"), None);
        assert_eq!(minute("2026-02-25T00:40:00.000Z"), "2026-02-25T00:40");
    }
}
