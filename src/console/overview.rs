//! `/console`: how the gateway is doing, at a glance.

use std::collections::BTreeMap;

use actix_web::web;
use askama::Template;

use super::{
    chart::{Chart, Series},
    layout::{Layout, Section, link},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{
        activity::ActivityCounts,
        delivery::DeliveryStatus,
        destination::Destination,
        event::Event,
        installation::{Installation, InstallationStatus},
    },
    routes::{Answer, Bucket, Gateway, Query, Window, chart},
    store::{BoundedCount, DeliveryFilter, EventFilter, Page, PageRequest},
};

/// Events shown.
const EVENTS: u32 = 8;
/// Connections of a status, and destinations, that need somebody and are named; if there are more, that is said.
const NAMED: u32 = 20;
/// In which states a connection needs somebody: it neither works nor was ended on purpose.
const NEEDING: [InstallationStatus; 3] =
    [InstallationStatus::NeedsReauth, InstallationStatus::Suspended, InstallationStatus::Pending];
/// How far open and dead deliveries are counted.
const COUNTED: u32 = 1000;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    layout: Layout,
    window: &'static str,
    by_hour: String,
    by_day: String,
    total: ActivityCounts,
    dead: BoundedCount,
    open: BoundedCount,
    events_chart: Chart,
    deliveries_chart: Chart,
    providers: Vec<ProviderRow>,
    needing: Vec<Needing>,
    /// Of which statuses there are more.
    more_needing: Vec<InstallationStatus>,
    /// Destinations that nothing is sent to any more.
    disabled: Page<Destination>,
    is_connected: bool,
    events: Vec<Event>,
}

/// A provider in the window.
struct ProviderRow {
    slug: &'static str,
    name: &'static str,
    is_enabled: bool,
    counts: ActivityCounts,
    /// In the last five minutes, on this node; for those who see everybody's.
    bad_signatures: Option<u64>,
}

/// A connection that needs somebody.
struct Needing {
    installation: Installation,
    provider: &'static str,
}

/// `GET /console?window`: the overview.
pub async fn show(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = visitor.caller.org.as_ref();
    let window = query.read("window", Window::parse)?.unwrap_or(Window::Hour);
    let buckets = chart(&gateway, org, window).await?;
    let count = async |status| {
        let filter = DeliveryFilter { org: org.cloned(), status: Some(status), ..DeliveryFilter::default() };
        gateway.store.count_deliveries(&filter, COUNTED).await
    };
    let (dead, open) = (count(DeliveryStatus::Dead).await?, count(DeliveryStatus::Pending).await?);
    let filter = EventFilter { org: org.cloned(), ..EventFilter::default() };
    let events = gateway.store.list_events(&filter, PageRequest { limit: EVENTS, cursor: None }).await?.items;
    let one = PageRequest { limit: 1, cursor: None };
    let is_connected = !gateway.store.list_installations(org, None, None, one).await?.items.is_empty();
    let named = PageRequest { limit: NAMED, cursor: None };
    let (mut needing, mut more_needing) = (Vec::new(), Vec::new());
    for status in NEEDING {
        let found = gateway.store.list_installations(org, None, Some(status), named).await?;
        more_needing.extend(found.next_cursor.map(|_| status));
        let rows = found.items.into_iter();
        needing.extend(
            rows.map(|installation| Needing {
                provider: gateway.registry.name_of(installation.provider),
                installation,
            }),
        );
    }
    let disabled = gateway.store.list_disabled_destinations(org, named).await?;
    let sees_everybody = visitor.caller.is_service();
    let (total, by_provider) = sums(&buckets);
    let providers = gateway.registry.iter().map(|(provider, settings)| ProviderRow {
        slug: provider.slug().as_str(),
        name: provider.name(),
        is_enabled: settings.is_some(),
        counts: by_provider.get(provider.slug().as_str()).copied().unwrap_or_default(),
        bad_signatures: sees_everybody.then(|| gateway.metrics.provider_health(provider.slug()).bad_signature),
    });
    render(&OverviewPage {
        layout: visitor.layout(Section::Overview, "Overview"),
        window: if window == Window::Day { "day" } else { "hour" },
        by_hour: link(&query, "window", None),
        by_day: link(&query, "window", Some("day")),
        total,
        dead,
        open,
        events_chart: events_chart(&buckets),
        deliveries_chart: deliveries_chart(&buckets),
        providers: providers.collect(),
        is_connected,
        needing,
        more_needing,
        disabled,
        events,
    })
}

fn sums(buckets: &[Bucket]) -> (ActivityCounts, BTreeMap<&str, ActivityCounts>) {
    let (mut total, mut by_provider) = (ActivityCounts::default(), BTreeMap::<&str, ActivityCounts>::new());
    for bucket in buckets {
        total.add(&bucket.counts);
        for (provider, counts) in &bucket.providers {
            by_provider.entry(provider).or_default().add(counts);
        }
    }
    (total, by_provider)
}

fn events_chart(buckets: &[Bucket]) -> Chart {
    const SERIES: [Series; 3] = [
        Series { label: "routed", tone: "accent" },
        Series { label: "filtered or ignored", tone: "plain" },
        Series { label: "unrouted", tone: "warn" },
    ];
    let columns: Vec<_> = buckets
        .iter()
        .map(|Bucket { at, counts, .. }| {
            (*at, [counts.routed, counts.filtered + counts.ignored + counts.control, counts.unrouted])
        })
        .collect();
    Chart::new("events-chart", "Events", SERIES, &columns)
}

fn deliveries_chart(buckets: &[Bucket]) -> Chart {
    const SERIES: [Series; 2] = [Series { label: "delivered", tone: "good" }, Series { label: "dead", tone: "bad" }];
    let columns: Vec<_> =
        buckets.iter().map(|Bucket { at, counts, .. }| (*at, [counts.delivered, counts.dead])).collect();
    Chart::new("deliveries-chart", "Deliveries", SERIES, &columns)
}

/// How many new events.
fn events_of(counts: &ActivityCounts) -> u64 {
    counts.routed + counts.filtered + counts.unrouted + counts.ignored + counts.control
}

/// How many of the finished deliveries were taken, in percent with one decimal; never rounded up to all of them.
fn success(counts: &ActivityCounts) -> String {
    let finished = counts.delivered + counts.dead;
    if finished == 0 {
        return "–".to_owned();
    }
    let permille = counts.delivered * 1000 / finished;
    if permille == 1000 { "100 %".to_owned() } else { format!("{}.{} %", permille / 10, permille % 10) }
}

/// A number that may be larger.
fn bounded(count: &BoundedCount) -> String {
    format!("{}{}", ui::count(count.count), if count.more { "+" } else { "" })
}

/// What an event is called: its key, or else its wire type.
fn name_of(event: &Event) -> &str {
    event.key.as_ref().map_or(event.wire_type.as_str(), |key| key.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_in_a_million_is_not_all_of_them() {
        let of = |delivered, dead| success(&ActivityCounts { delivered, dead, ..ActivityCounts::default() });
        assert_eq!(of(0, 0), "–");
        assert_eq!(of(7, 0), "100 %");
        assert_eq!(of(999_999, 1), "99.9 %");
        assert_eq!(of(0, 3), "0.0 %");
    }
}
