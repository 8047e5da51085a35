//! `/console/events/{id}`: one event: its way as a path, its bytes, and each delivery with its attempts.

use actix_web::web;
use askama::Template;
use serde_json::Value;

use super::{
    dead_letters::why,
    events::name_of,
    layout::{Layout, Section, segment},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::{
        delivery::{Attempt, Delivery, DeliveryStatus},
        event::Event,
        ids::EventId,
    },
    routes::{Answer, Gateway, Problem, Query, error_codes as codes, explanation},
};

/// A payload larger than this is not shown whole; it can be downloaded.
const SHOWN_BYTES: usize = 128 * 1024;

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    layout: Layout,
    event: Event,
    provider: &'static str,
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    steps: Vec<Step>,
    integrations: Vec<(String, String)>,
    deliveries: Vec<Shown>,
    payload: Payload,
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
    let body = gateway.store.find_event_body(&id).await?.map(|(_, body)| body).unwrap_or_default();
    let is_raw = query.get("view") == Some("raw");
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
        steps: steps(&detail.event, &explained),
        integrations: integrations(&explained),
        payload: shown_payload(&body, is_raw),
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
    let pretty = (!is_cut).then(|| serde_json::from_slice::<Value>(body).ok()).flatten();
    let text = match (&pretty, is_raw) {
        (Some(value), false) => format!("{value:#}"),
        _ => String::from_utf8_lossy(shown).into_owned(),
    };
    Payload { text, size: size_of(body.len()), is_cut, is_json: pretty.is_some() }
}

/// The integrations that were considered, for a replay to some of them.
fn integrations(explained: &Value) -> Vec<(String, String)> {
    let considered = explained["considered"].as_array().map(Vec::as_slice).unwrap_or_default();
    considered.iter().map(|it| (text_of(&it["integrationId"]), text_of(&it["workspaceId"]))).collect()
}

/// The decision about an event, in sentences.
fn steps(event: &Event, explained: &Value) -> Vec<Step> {
    let step = |tone, title: &str, text: String| Step { tone, title: title.to_owned(), text };
    let mut steps = vec![
        match &explained["verifiedBy"]["secret"]["index"] {
            Value::Number(index) if index.as_u64() == Some(0) => {
                step("good", "Verified", "The newest webhook secret made its signature.".into())
            }
            Value::Number(index) => step(
                "warn",
                "Verified",
                format!(
                    "Webhook secret number {index}, counted from the newest, made its signature: an older one is still in use."
                ),
            ),
            _ => step("good", "Trusted", "It came with a service key, from a trusted writer.".into()),
        },
        if event.possible_replay {
            step("warn", "Seen before?", "The same bytes came before under another delivery id.".into())
        } else {
            step("good", "New", format!("Nothing with the delivery id {} was here before.", event.provider_delivery_id))
        },
        match explained["installation"].as_object() {
            Some(found) => {
                let by = found.get("matchedBy").map(text_of).unwrap_or_default().replace('_', " ");
                let status = found.get("status").map(text_of).unwrap_or_default();
                step("good", "Connection", format!("Found by its {by}; it was {status}."))
            }
            None => step(
                "bad",
                "No connection",
                "No connection has the account that it names. Connect it, then route what waits.".into(),
            ),
        },
    ];
    let resources = explained["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    if explained["installation"].is_object() {
        let names: Vec<_> = resources.iter().map(|it| text_of(&it["providerResourceId"])).collect();
        steps.push(if names.is_empty() {
            step("bad", "No linked resource", "Nothing that it is about is linked.".into())
        } else {
            step("good", "Resources", format!("It is about {}.", names.join(", ")))
        });
    }
    for it in explained["considered"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let (workspace, reason) = (text_of(&it["workspaceId"]), text_of(&it["reason"]));
        let (tone, text) = match reason.as_str() {
            "delivered" => ("good", "delivered.".to_owned()),
            "pending" => ("warn", "on its way.".to_owned()),
            "held" => ("warn", "held until it is released.".to_owned()),
            "dead" => ("bad", "given up: a dead letter.".to_owned()),
            "routed" => ("good", "routed.".to_owned()),
            other => ("plain", format!("not sent: {}.", other.replace(['_', ':'], " "))),
        };
        steps.push(step(tone, &format!("Workspace {workspace}"), text));
    }
    let tone = if event.outcome.as_str() == "routed" { "good" } else { "plain" };
    let reason = event.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", reason.replace('_', " ")));
    steps.push(step(tone, "Outcome", format!("{}{reason}.", event.outcome)));
    steps
}

/// Whether a delivery can be tried again.
fn may_retry(delivery: &Delivery) -> bool {
    delivery.status != DeliveryStatus::Delivered
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
    use super::*;

    #[test]
    fn a_payload_is_readable_raw_on_request_and_cut_where_it_is_long() {
        let shown = shown_payload(b"{\"a\":1}", false);
        assert_eq!((shown.text.as_str(), shown.is_json, shown.is_cut), ("{\n  \"a\": 1\n}", true, false));
        assert_eq!(shown_payload(b"{\"a\":1}", true).text, "{\"a\":1}");
        let long = shown_payload(&vec![b'x'; SHOWN_BYTES + 1], false);
        assert_eq!((long.text.len(), long.is_json, long.is_cut), (SHOWN_BYTES, false, true));
    }
}
