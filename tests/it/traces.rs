//! Traces: one from a webhook to each attempt, wherever and whenever the attempt is made.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self,
        sink::{Behaviour, Received, Sink},
    },
};

use crate::support::{App, Connected, Options, Stage, nobody_listening, on_both};

const SOON: Duration = Duration::from_secs(30);
/// A caller's own trace, which is not ours to join.
const FOREIGN_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Every span that came to a collector.
fn spans(received: &[Received]) -> Vec<Value> {
    let mut spans = Vec::new();
    for request in received {
        assert_eq!(request.path, "/v1/traces");
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        for resource in body["resourceSpans"].as_array().expect("resources") {
            assert_eq!(attribute(&resource["resource"], "service.name"), "signalbox");
            for scope in resource["scopeSpans"].as_array().expect("scopes") {
                spans.extend(scope["spans"].as_array().expect("spans").iter().cloned());
            }
        }
    }
    spans
}

fn named<'s>(spans: &'s [Value], name: &str) -> Vec<&'s Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

/// An attribute's value, whatever its type, as text; empty if it is missing.
fn attribute(of: &Value, key: &str) -> String {
    let found = of["attributes"].as_array().expect("attributes").iter().find(|attribute| attribute["key"] == key);
    let value = found.and_then(|found| found["value"].as_object()?.values().next());
    value.map(|value| value.as_str().expect("64-bit numbers are texts").to_owned()).unwrap_or_default()
}

async fn connected(app: &App) -> Connected {
    let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
    app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
    github
}

/// Posts a push as a caller who has a trace of his own; the event's id.
async fn post_with_traceparent(app: &App, to: &Connected) -> String {
    let facts = to.facts(1, SystemClock.now());
    let mut request = to.provider.event("github:push", &facts, to.provider.secret.as_bytes()).expect("a known kind");
    request.headers.push(("traceparent", format!("00-{FOREIGN_TRACE}-b7ad6b7169203331-01")));
    let answer = app.outsider().post_webhook("github", &request).await.expect("an answer").json();
    assert_eq!(answer["outcome"], "routed", "{answer}");
    answer["eventId"].as_str().expect("an id").to_owned()
}

/// Every text in a JSON document that is long enough to be recognised.
fn telling_texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.len() >= 8 => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| telling_texts(item, found)),
        Value::Object(members) => members.values().for_each(|member| telling_texts(member, found)),
        _ => {}
    }
}

on_both! {
    async fn a_webhook_and_its_attempts_are_one_trace_across_a_restart_and_nothing_secret_is_in_it(backend) {
        let (sink, collector) = (Sink::start().await.expect("a port"), Sink::start().await.expect("a port"));
        sink.behave("/in", Behaviour::FailFirst { times: 1, with: Box::new(Behaviour::status_only(500)) });
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "3,3")
            .with("SIGNALBOX_TELEMETRY__OTLP_ENDPOINT", &collector.url(""));
        let mut app = App::start(backend, options).await;
        let secret = app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let event = post_with_traceparent(&app, &github).await;
        sink.wait_for(1, SOON).await.expect("the first attempt");
        app.terminate().await;
        let before = spans(&collector.received());
        assert_eq!((named(&before, "webhook").len(), named(&before, "attempt").len()), (1, 1), "{before:#?}");

        app.restart().await;
        sink.wait_for(2, SOON).await.expect("the second attempt");
        let received = sink.received();
        app.finish().await;
        let requests = collector.received();
        let all = spans(&requests);
        let (webhooks, mut attempts) = (named(&all, "webhook"), named(&all, "attempt"));
        assert_eq!((webhooks.len(), named(&all, "commit").len(), attempts.len()), (1, 1, 2), "{all:#?}");
        let webhook = webhooks[0];
        assert_eq!(webhook.get("parentSpanId"), None);
        assert_ne!(webhook["traceId"], FOREIGN_TRACE);
        for (key, expected) in [
            ("provider", "github"),
            ("event.id", event.as_str()),
            ("event.key", "github:push"),
            ("outcome", "routed"),
            ("deliveries", "1"),
        ] {
            assert_eq!(attribute(webhook, key), expected, "{key}");
        }
        assert!(all.iter().all(|span| span["traceId"] == webhook["traceId"]), "one trace: {all:#?}");
        attempts.sort_by_key(|attempt| attribute(attempt, "delivery.attempt"));
        for (attempt, (number, status)) in attempts.iter().zip([("1", "500"), ("2", "200")]) {
            assert_eq!(attempt["parentSpanId"], webhook["spanId"]);
            assert_eq!(attribute(attempt, "event.id"), event);
            assert_eq!(attribute(attempt, "delivery.id"), received[0].webhook_id);
            assert_eq!(attribute(attempt, "delivery.attempt"), number);
            assert_eq!(attribute(attempt, "http.response.status_code"), status);
            assert!(attribute(attempt, "destination.id").starts_with("dst_"));
            assert!(!attribute(attempt, "result").is_empty());
        }
        assert!(received.iter().all(|request| request.headers.get("traceparent").is_none()));

        let mut forbidden = BTreeSet::from([
            secret,
            "test-service-key".to_owned(),
            github.provider.secret.to_owned(),
            sink.address().to_string(),
        ]);
        telling_texts(&serde_json::from_slice(received[0].payload().expect("a payload")).expect("JSON"), &mut forbidden);
        assert!(forbidden.len() > 10, "the payload says something");
        let exported: String = requests.iter().map(|request| String::from_utf8_lossy(&request.body)).collect();
        for text in forbidden {
            assert!(!exported.contains(&text), "{text} was exported");
        }
    }

    async fn without_an_endpoint_events_are_not_traced_then_or_later(backend) {
        let (sink, collector) = (Sink::start().await.expect("a port"), Sink::start().await.expect("a port"));
        sink.behave("/in", Behaviour::FailFirst { times: 1, with: Box::new(Behaviour::status_only(500)) });
        let mut app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "2,2")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let untraced = post_with_traceparent(&app, &github).await;
        sink.wait_for(1, SOON).await.expect("the first attempt");
        app.terminate().await;
        app.set("SIGNALBOX_TELEMETRY__OTLP_ENDPOINT", &collector.url("/"));
        app.restart().await;
        sink.wait_for(2, SOON).await.expect("the second attempt");
        // The same webhook again: a duplicate is a webhook too, and names the event it was before.
        let request = github.provider.event("github:push", &github.facts(2, SystemClock.now()),
            github.provider.secret.as_bytes()).expect("a known kind");
        for expected in ["accepted", "duplicate"] {
            let answer = app.outsider().post_webhook("github", &request).await.expect("an answer").json();
            assert_eq!(answer["status"], expected);
        }
        sink.wait_for(3, SOON).await.expect("the other event's attempt");
        app.finish().await;
        let all = spans(&collector.received());
        let webhooks = named(&all, "webhook");
        let outcomes: Vec<_> = webhooks.iter().map(|webhook| attribute(webhook, "outcome")).collect();
        assert_eq!(outcomes, ["routed", "duplicate"]);
        assert_eq!(attribute(webhooks[0], "event.id"), attribute(webhooks[1], "event.id"));
        assert_ne!(webhooks[0]["traceId"], webhooks[1]["traceId"]);
        assert!(all.iter().all(|span| attribute(span, "event.id") != untraced), "{all:#?}");
    }

    async fn a_collector_that_is_not_there_costs_one_line_and_nobody_waits_for_it(backend) {
        let (_reserved, closed) = nobody_listening();
        let sink = Sink::start().await.expect("a port");
        let options = Options::default().with("SIGNALBOX_TELEMETRY__OTLP_ENDPOINT", &format!("http://{closed}"));
        let mut app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        for seed in 1..=20 {
            let (_, answer) = app.post_event(&github, "github:push", seed).await;
            assert_eq!(answer.status, 200);
        }
        sink.wait_for(20, SOON).await.expect("all delivered");
        app.terminate().await;
        assert_eq!(app.log_text().matches("telemetry.otlp_endpoint").count(), 1, "{}", app.log_text());
        app.restart().await;
        app.finish().await;
    }

    async fn connecting_and_reading_tokens_leave_no_secret_in_any_trace(backend) {
        let collector = Sink::start().await.expect("a port");
        let options = Options::default().with("SIGNALBOX_TELEMETRY__OTLP_ENDPOINT", &collector.url(""));
        let stage = Stage::set(backend, options).await;
        for provider in ["github", "vercel", "linear", "sentry"] {
            let connection = stage.connect("org", provider, 1).await;
            stage.ask("org", "GET", &format!("/connections/{connection}/token"), None).await;
        }
        let github = connected(&stage.app).await;
        post_with_traceparent(&stage.app, &github).await;
        let issued = stage.world.issued();
        assert!(issued.len() >= 8, "codes and tokens of four providers");
        stage.finish().await;
        let requests = collector.received();
        assert!(!spans(&requests).is_empty(), "traces were exported");
        for request in &requests {
            let body = String::from_utf8_lossy(&request.body);
            assert!(issued.iter().all(|secret| !body.contains(secret.as_str())), "a code or token is in a trace");
        }
    }
}
