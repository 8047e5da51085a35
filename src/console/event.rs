//! `/console/events/{id}`: one event: its way as a path, its bytes, and each delivery with its attempts.

use actix_web::web;
use askama::Template;
use serde_json::Value;

use super::{
    dead_letters::why,
    events::name_of,
    indented::indented,
    layout::{Layout, Section, segment},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{
        delivery::{Attempt, Delivery, DeliveryStatus},
        event::{Event, EventOutcome},
        ids::EventId,
        installation::InstallationStatus,
        words,
    },
    routes::{Answer, Gateway, Problem, Query, error_codes as codes, explanation},
    store::InstallationRecord,
};

/// A payload larger than this is not shown whole; it can be downloaded.
const SHOWN_BYTES: usize = 128 * 1024;
/// Resources that are named; of more there is the number.
const NAMED: usize = 5;

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    layout: Layout,
    event: Event,
    /// What people call its connection.
    account: Option<String>,
    provider: &'static str,
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    steps: Vec<Step>,
    integrations: Vec<(String, String)>,
    deliveries: Vec<Shown>,
    /// Not in a fragment: the bytes do not change, and may be many.
    payload: Option<Payload>,
    is_raw: bool,
}

/// A step of an event's way, in a sentence.
struct Step {
    tone: &'static str,
    title: String,
    text: String,
}

/// A delivery and its attempts.
struct Shown {
    delivery: Delivery,
    attempts: Vec<Attempt>,
}

/// What is shown of a payload.
struct Payload {
    text: String,
    size: String,
    is_cut: bool,
    is_json: bool,
}

/// `GET /console/events/{id}?view`: an event.
pub async fn show(visitor: Visitor, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let id = EventId::from_raw(id.as_str());
    let found = gateway.store.find_event_detail(&id).await?;
    let found = found.filter(|detail| visitor.caller.sees(detail.event.org.as_ref()));
    let detail = found.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let explained = explanation(&detail)?;
    let record = match &detail.event.installation {
        Some(installation) => gateway.store.load_installation(installation).await?,
        None => None,
    };
    let is_raw = query.get("view") == Some("raw");
    let payload = if visitor.is_fragment {
        None
    } else {
        let found = gateway.store.find_event_body(&id).await?;
        Some(shown_payload(&found.map(|(_, body)| body).unwrap_or_default(), is_raw))
    };
    let headers: serde_json::Map<String, Value> = serde_json::from_str(&detail.headers).unwrap_or_default();
    let mut attempts = detail.attempts;
    let deliveries = detail.deliveries.into_iter().map(|delivery| {
        let (own, others) = std::mem::take(&mut attempts).into_iter().partition(|it| it.delivery == delivery.id);
        attempts = others;
        Shown { delivery, attempts: own }
    });
    render(&EventPage {
        deliveries: deliveries.collect(),
        layout: visitor.layout(Section::Events, name_of(&detail.event)),
        provider: gateway.registry.name_of(detail.event.provider),
        content_type: detail.content_type,
        headers: headers.iter().map(|(name, value)| (name.clone(), text_of(value))).collect(),
        steps: steps(&detail.event, &explained, record.as_ref()),
        account: record.map(|record| record.installation.account().to_owned()),
        integrations: integrations(&explained),
        payload,
        event: detail.event,
        is_raw,
    })
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// As JSON people can read, or as it came; the beginning of what is long.
fn shown_payload(body: &[u8], is_raw: bool) -> Payload {
    let is_cut = body.len() > SHOWN_BYTES;
    let shown = &body[..body.len().min(SHOWN_BYTES)];
    let pretty = if is_cut || is_raw { None } else { indented(body) };
    let is_json = pretty.is_some();
    let text = pretty.unwrap_or_else(|| String::from_utf8_lossy(shown).into_owned());
    Payload { text, size: size_of(body.len()), is_cut, is_json }
}

/// The integrations that were considered, for a replay to some of them.
fn integrations(explained: &Value) -> Vec<(String, String)> {
    let considered = explained["considered"].as_array().map(Vec::as_slice).unwrap_or_default();
    considered.iter().map(|it| (text_of(&it["integrationId"]), text_of(&it["workspaceId"]))).collect()
}

/// The decision about an event, in sentences.
fn steps(event: &Event, explained: &Value, record: Option<&InstallationRecord>) -> Vec<Step> {
    let step = |tone, title: &str, text: String| Step { tone, title: title.to_owned(), text };
    let mut steps = vec![
        match explained["verifiedBy"]["secret"]["index"].as_u64() {
            Some(0) => step("good", "Verified", "The newest webhook secret made its signature.".into()),
            Some(index) => step(
                "warn",
                "Verified",
                format!(
                    "Webhook secret number {}, counted from the newest, made its signature: an older one is still in use.",
                    index + 1
                ),
            ),
            None => step("good", "Trusted", "It came with a service key, from a trusted writer.".into()),
        },
        if event.possible_replay {
            step("warn", "Seen before?", "The same bytes came before under another delivery id.".into())
        } else {
            step("good", "New", format!("Nothing with the delivery id {} was here before.", event.provider_delivery_id))
        },
        connection_step(event, explained, record),
    ];
    if was_looked_up(event, explained) {
        let names = resource_names(explained, record);
        steps.push(if names.is_empty() {
            let tone = if event.outcome == EventOutcome::Unrouted { "bad" } else { "plain" };
            step(tone, "No linked resource", "Nothing that it is about is linked.".into())
        } else {
            step("good", "Resources", format!("It is about {names}."))
        });
    }
    for it in explained["considered"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let (workspace, reason) = (text_of(&it["workspaceId"]), text_of(&it["reason"]));
        let tone = match reason.as_str() {
            "delivered" | "routed" => "good",
            "pending" | "held" => "warn",
            "dead" => "bad",
            _ => "plain",
        };
        let text = words::CONSIDERED_REASONS.says(&reason).map_or(reason.clone(), str::to_owned);
        steps.push(step(tone, &format!("Workspace {workspace}"), text));
    }
    let (tone, text) = outcome(event);
    steps.push(step(tone, "Outcome", text));
    steps
}

/// Whose it was found to be.
fn connection_step(event: &Event, explained: &Value, record: Option<&InstallationRecord>) -> Step {
    let (tone, title, text) = if explained["installation"].is_object() {
        let by = text_of(&explained["installation"]["matchedBy"]).replace('_', " ");
        let status = text_of(&explained["installation"]["status"]);
        let tone = if routed(explained) { "good" } else { "warn" };
        let name = record.map_or("It", |record| record.installation.account());
        (tone, "Connection", format!("{name} was found by its {by}; it was {status}."))
    } else if event.outcome == EventOutcome::Unrouted {
        let text = "No connection has the account that it names. Connect it, then route what waits.";
        ("bad", "No connection", text.to_owned())
    } else {
        ("plain", "No connection", "No connection had the account that it names.".to_owned())
    };
    Step { tone, title: title.to_owned(), text }
}

/// Whether its connection routed when it came.
fn routed(explained: &Value) -> bool {
    let status = explained["installation"]["status"].as_str().and_then(InstallationStatus::parse);
    status.is_some_and(InstallationStatus::routes)
}

/// Whether anybody asked what it is about: not for a test message, not without a name to subscribe to.
fn was_looked_up(event: &Event, explained: &Value) -> bool {
    routed(explained) && event.key.is_some() && event.reason.as_deref() != Some("ping")
}

/// What it is about: names with the ids behind them.
fn resource_names(explained: &Value, record: Option<&InstallationRecord>) -> String {
    let resources = explained["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |it: &Value| {
        let theirs = text_of(&it["providerResourceId"]);
        let known = record.and_then(|record| record.resources.iter().find(|row| it["id"] == row.id.as_str()));
        match known.and_then(|row| row.name.as_deref()) {
            Some(name) => format!("{name} ({theirs})"),
            None => theirs,
        }
    };
    let mut names: Vec<String> = resources.iter().take(NAMED).map(name).collect();
    if resources.len() > NAMED {
        names.push(format!("{} more", resources.len() - NAMED));
    }
    names.join(", ")
}

/// How it ended, and why.
fn outcome(event: &Event) -> (&'static str, String) {
    let why = event.reason.as_deref().map(says).unwrap_or_default();
    match event.outcome {
        EventOutcome::Routed => ("good", format!("Routed. {why}").trim_end().to_owned()),
        EventOutcome::Control if event.installation.is_some() => {
            ("good", "This is about our records, and was applied to them. No workspace gets it.".to_owned())
        }
        EventOutcome::Control => {
            ("plain", "This is about a connection that we do not have. No workspace gets it.".to_owned())
        }
        EventOutcome::Filtered => ("plain", format!("Filtered. {why}")),
        EventOutcome::Unrouted => ("plain", format!("Unrouted. {why}")),
        EventOutcome::Ignored => ("plain", format!("Ignored. {why}")),
    }
}

/// Why an event ended as it did, in a sentence.
pub(super) fn says(reason: &str) -> String {
    words::EVENT_REASONS.says(reason).map_or_else(|| reason.to_owned(), str::to_owned)
}

/// Whether a delivery can be tried again.
fn may_retry(delivery: &Delivery) -> bool {
    !matches!(delivery.status, DeliveryStatus::Delivered | DeliveryStatus::Held)
}

fn is_held(delivery: &Delivery) -> bool {
    delivery.status == DeliveryStatus::Held
}

/// What an attempt met, in a word.
fn result_of(attempt: &Attempt) -> String {
    attempt.status_code.map_or_else(|| attempt.result.replace('_', " "), |code| format!("HTTP {code}"))
}

fn is_good(attempt: &Attempt) -> bool {
    attempt.result == "delivered"
}

fn size_of(bytes: usize) -> String {
    if bytes < 10 * 1024 { format!("{bytes} bytes") } else { format!("{} KiB", bytes / 1024) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::provider::ProviderSlug;

    #[test]
    fn a_payload_is_readable_raw_on_request_and_cut_where_it_is_long() {
        let shown = shown_payload(b"{\"b\":1,\"a\":1e400}", false);
        let readable = "{\n  \"b\": 1,\n  \"a\": 1e400\n}";
        assert_eq!((shown.text.as_str(), shown.is_json, shown.is_cut), (readable, true, false));
        assert_eq!(shown_payload(b"{\"a\":1}", true).text, "{\"a\":1}");
        let long = shown_payload(&vec![b'x'; SHOWN_BYTES + 1], false);
        assert_eq!((long.text.len(), long.is_json, long.is_cut), (SHOWN_BYTES, false, true));
    }

    #[test]
    fn secrets_are_counted_from_one() {
        let event = Event {
            reason: Some("unmapped_event".into()),
            ..Event::ignored(EventId::from_raw("evt_1"), ProviderSlug("acme"))
        };
        let first = |index| {
            let explained = json!({"verifiedBy": {"secret": {"index": index}}});
            steps(&event, &explained, None).swap_remove(0).text
        };
        assert!(first(0).starts_with("The newest"));
        assert!(first(1).starts_with("Webhook secret number 2,"));
    }
}
