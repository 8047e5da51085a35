//! What a provider is answered: every row of the tables of bad input, duplicates, and what is stored of each.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock, EpochMs, SystemClock},
    sim::{self, Encoding, SignedRequest, sink::Sink},
};

use crate::support::{App, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

/// How many events the gateway stores.
async fn stored(app: &App) -> usize {
    let events = app.operator("org").ask("GET", "/events?limit=100", None).await.expect("a list");
    events["items"].as_array().expect("items").len()
}

async fn refused(app: &App, provider: &str, request: &SignedRequest, status: u16, error: &str) {
    let answer = app.outsider().post_webhook(provider, request).await.expect("an answer");
    let body = answer.json();
    assert_eq!((answer.status, body["error"].as_str()), (status, Some(error)), "{body}");
    assert_eq!(body["status"], json!(status), "{body}");
    assert!(body["requestId"].is_string() && body["title"].is_string(), "{body}");
}

/// A genuine request whose signature was made by the provider's secret over any bytes at all.
fn signed(provider: &str, headers: Vec<(&'static str, String)>, body: impl Into<Vec<u8>>) -> SignedRequest {
    let provider = sim::find(provider).expect("simulated");
    provider.signing.sign(headers, body, provider.secret.as_bytes(), Encoding::Json)
}

fn github_headers(id: &str) -> Vec<(&'static str, String)> {
    vec![("x-github-event", "push".to_owned()), ("x-github-delivery", id.to_owned())]
}

on_both! {
    async fn every_refusal_names_its_cause_and_stores_no_event(backend) {
        let app = App::start(backend, Options::default().with("SIGNALBOX_SERVER__MAX_BODY_BYTES", "65536")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let facts = github.facts(1, SystemClock.now());
        let genuine = github.provider.event("github:push", &facts, github.provider.secret.as_bytes()).expect("known");

        refused(&app, "gitlab", &genuine, 400, "unknown_provider").await;
        refused(&app, "github", &genuine.clone().with_header("x-hub-signature-256", None), 401, "invalid_signature").await;
        let uppercase = genuine.header("x-hub-signature-256").expect("signed").to_uppercase();
        refused(&app, "github", &genuine.clone().with_header("x-hub-signature-256", Some(&uppercase)), 401, "invalid_signature").await;
        let mut tampered = genuine.clone();
        let mut body = tampered.body.to_vec();
        body[10] ^= 1;
        tampered.body = Bytes::from(body);
        refused(&app, "github", &tampered, 401, "invalid_signature").await;
        let foreign = github.provider.event("github:push", &facts, b"another secret").expect("known");
        refused(&app, "github", &foreign, 401, "invalid_signature").await;
        refused(&app, "github", &genuine.clone().with_header("x-github-event", None), 400, "missing_required_headers").await;
        let neither = github.provider.signing.sign(Vec::new(), "[]", github.provider.secret.as_bytes(), Encoding::Json);
        refused(&app, "github", &neither, 400, "invalid_payload").await;
        refused(&app, "github", &genuine.clone().with_header("x-github-delivery", None), 400, "missing_required_headers").await;
        refused(&app, "github", &genuine.clone().with_header("content-encoding", Some("gzip")), 415, "unsupported_content_encoding").await;
        for body in [&b""[..], b"[]", b"\"text\"", b"12", b"{", b"{}}", b"\xff\xfe{}", b"null"] {
            refused(&app, "github", &signed("github", github_headers("bad-1"), body), 400, "invalid_payload").await;
        }
        let large = signed("github", github_headers("large"), format!("{{\"a\":\"{}\"}}", "x".repeat(70_000)));
        refused(&app, "github", &large, 413, "payload_too_large").await;

        let linear = sim::find("linear").expect("simulated");
        let mut stale = linear.facts(1, 5, EpochMs(SystemClock.now().0 - 120_000));
        refused(&app, "linear", &linear.event("linear:issue.created", &stale, linear.secret.as_bytes()).expect("known"), 401, "stale_timestamp").await;
        stale.at = EpochMs(SystemClock.now().0 + 120_000);
        refused(&app, "linear", &linear.event("linear:issue.created", &stale, linear.secret.as_bytes()).expect("known"), 401, "stale_timestamp").await;

        assert_eq!(stored(&app).await, 0, "nothing refused is an event");
        app.finish().await;
    }

    async fn odd_but_genuine_json_is_accepted_and_delivered_byte_for_byte(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let facts = github.facts(1, SystemClock.now());
        let identity = format!(
            r#""installation":{{"id":{}}},"repository":{{"id":{}}}"#,
            facts.external_id, facts.resource_id
        );
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let odd = [
            format!(r#"{{ {identity} , "lone":"\ud800", "nul":"\u0000","huge":1e400,"big":123456789012345678901234567890}}"#),
            format!(r#"{{{identity},"deep":{deep}}}"#),
            format!("{{\n\t{identity},\"text\":\"h\u{e9}\u{1f600}\"}}\n"),
        ];
        for (number, body) in odd.iter().enumerate() {
            let request = signed("github", github_headers(&format!("odd-{number}")), body.as_str());
            let answer = app.outsider().post_webhook("github", &request).await.expect("an answer");
            assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("routed")), "{}", answer.json());
        }
        let received = sink.wait_for(odd.len(), SOON).await.expect("delivered");
        for (number, body) in odd.iter().enumerate() {
            let id = format!("\"deliveryId\":\"odd-{number}\"");
            let mine = received.iter().find(|r| String::from_utf8_lossy(&r.body).contains(&id)).expect("delivered");
            let expected = format!(",\"payload\":{body}}}");
            assert!(mine.body.ends_with(expected.as_bytes()), "the payload of odd-{number} was changed");
        }
        app.finish().await;
    }

    async fn a_duplicate_webhook_is_acknowledged_but_not_delivered_twice(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        for provider in sim::PROVIDERS {
            let connected = app.connect("org", provider, 1).await;
            app.subscribe("org", "ws", &connected, None).await;
            let facts = connected.facts(7, SystemClock.now());
            let kind = provider.keys[0];
            let request = provider.event(kind, &facts, provider.secret.as_bytes()).expect("known");
            let copies = 16;
            let mut answers = Vec::new();
            for copy in 0..copies {
                let (address, request) = (app.address(), request.clone());
                let slug = provider.slug;
                answers.push(tokio::spawn(async move {
                    let mut client = sim::client::Client::new(address);
                    // What a provider changes between attempts does not make another event.
                    let request = match slug {
                        "sentry" => request.with_header("request-id", Some(&format!("{copy:032x}"))),
                        "vercel" => request.with_header("x-vercel-id", Some(&format!("fra1::{copy}"))),
                        _ => request,
                    };
                    client.post_webhook(slug, &request).await.expect("an answer").json()
                }));
            }
            let mut bodies: Vec<Value> = Vec::new();
            for answer in answers {
                bodies.push(answer.await.expect("no panic"));
            }
            let accepted = bodies.iter().filter(|body| body["status"] == "accepted").count();
            assert_eq!(accepted, 1, "{}: {bodies:?}", provider.slug);
            assert!(bodies.iter().all(|body| body["eventId"] == bodies[0]["eventId"]), "{bodies:?}");
        }
        let received = sink.wait_for(sim::PROVIDERS.len(), SOON).await.expect("delivered");
        let mut ids: Vec<_> = received.iter().map(|r| r.webhook_id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), sim::PROVIDERS.len());
        app.finish().await;
        assert_eq!(sink.total(), sim::PROVIDERS.len(), "every event was delivered once");
    }

    async fn a_form_encoded_github_webhook_is_its_payload_field(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let facts = github.facts(3, SystemClock.now());
        let secret = github.provider.secret.as_bytes();
        let form = github.provider.event_encoded("github:push", &facts, secret, Encoding::Form).expect("known");
        let plain = github.provider.event("github:push", &facts, secret).expect("known");
        let answer = app.outsider().post_webhook("github", &form).await.expect("an answer").json();
        assert_eq!(answer["outcome"], "routed", "{answer}");
        let received = sink.wait_for(1, SOON).await.expect("delivered");
        assert_eq!(received[0].payload(), Some(&plain.body[..]));
        let path = format!("/events/{}/payload", answer["eventId"].as_str().expect("an id"));
        let kept = app.operator("org").call("GET", &path, None).await.expect("an answer");
        assert_eq!(kept.body, form.body, "the raw bytes are kept as they came");
        app.finish().await;
    }

    async fn a_body_under_another_unsigned_id_is_flagged_as_a_possible_replay(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let facts = github.facts(3, SystemClock.now());
        let request = github.provider.event("github:push", &facts, github.provider.secret.as_bytes()).expect("known");
        let first = app.outsider().post_webhook("github", &request).await.expect("an answer").json();
        let captured = request.with_header("x-github-delivery", Some("another-id"));
        let second = app.outsider().post_webhook("github", &captured).await.expect("an answer").json();
        assert_eq!(second["status"], "accepted");
        for (answer, flagged) in [(first, false), (second, true)] {
            let path = format!("/events/{}", answer["eventId"].as_str().expect("an id"));
            let event = app.operator("org").ask("GET", &path, None).await.expect("the event");
            let member = event.get("possibleReplay").or_else(|| event["event"].get("possibleReplay"));
            assert_eq!(member, Some(&json!(flagged)), "{event}");
        }
        app.finish().await;
    }

    async fn a_retry_of_linear_under_another_id_and_with_another_time_is_noticed(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let linear = app.connect("org", sim::find("linear").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &linear, Some(&["linear:issue.updated"])).await;
        let facts = linear.facts(3, SystemClock.now());
        let request = linear.provider.event("linear:issue.updated", &facts, b"unused").expect("known");
        let mut body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let post = async |id: &str, body: &Value| {
            let headers = vec![("linear-event", "Issue".to_owned()), ("linear-delivery", id.to_owned())];
            let answer = app.outsider().post_webhook("linear", &signed("linear", headers, body.to_string())).await;
            let answer = answer.expect("an answer").json();
            assert_eq!((&answer["status"], &answer["deliveryId"]), (&json!("accepted"), &json!(id)), "{answer}");
            let path = format!("/events/{}", answer["eventId"].as_str().expect("an id"));
            let event = app.operator("org").ask("GET", &path, None).await.expect("the event");
            json!([answer["outcome"], event["reason"], event["possibleReplay"]])
        };
        assert_eq!(post("first", &body).await, json!(["routed", null, false]));
        body["webhookTimestamp"] = json!(SystemClock.now().0 + 1);
        assert_eq!(post("its retry", &body).await, json!(["routed", null, true]), "delivered, and flagged");
        // The same issue, changed again a moment later.
        body["createdAt"] = json!(EpochMs(facts.at.0 + 1).to_rfc3339());
        assert_eq!(post("another", &body).await, json!(["routed", null, false]));
        sink.wait_for(3, SOON).await.expect("all are delivered");
        app.finish().await;
    }

    async fn a_ping_and_an_unlisted_event_are_acknowledged_and_ignored(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let (_, ping) = app.post_event(&github, "github:ping", 1).await;
        assert_eq!((ping.status, ping.json()["outcome"].as_str()), (200, Some("ignored")));
        let facts = github.facts(3, SystemClock.now());
        let body = format!(r#"{{"action":"brewed","installation":{{"id":{}}}}}"#, facts.external_id);
        let headers = vec![("x-github-event", "coffee".to_owned()), ("x-github-delivery", "c-1".to_owned())];
        let unlisted = app.outsider().post_webhook("github", &signed("github", headers, body)).await.expect("an answer");
        assert_eq!((unlisted.status, unlisted.json()["outcome"].as_str()), (200, Some("ignored")));
        app.finish().await;
    }

    async fn the_service_path_checks_its_fields_and_ends_in_the_same_rows(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let facts = github.facts(1, SystemClock.now());
        let event = github.provider.event("github:pull-request.opened", &facts, b"unused").expect("known");
        let payload: Value = serde_json::from_slice(&event.body).expect("JSON");
        let mut operator = app.operator("org");

        let body = |changes: &[(&str, Value)]| {
            let mut body = json!({"connectionId": github.connection, "orgId": "org", "deliveryId": "b-1",
                "eventType": "pull_request", "payload": payload, "receivedAt": 1_771_980_000});
            for (name, value) in changes {
                if value.is_null() {
                    body.as_object_mut().expect("an object").remove(*name);
                } else {
                    body[*name] = value.clone();
                }
            }
            body
        };
        let cases = [
            (body(&[("connectionId", Value::Null)]), 400, "missing_required_fields", Some("connectionId")),
            (body(&[("payload", json!([]))]), 400, "missing_required_fields", Some("payload")),
            (body(&[("receivedAt", json!("now"))]), 400, "missing_required_fields", Some("receivedAt")),
            (body(&[("deliveryId", json!(7))]), 400, "missing_required_fields", Some("deliveryId")),
            (body(&[("eventType", json!(7))]), 400, "missing_required_fields", Some("eventType")),
            (body(&[("connectionId", json!("in_nowhere"))]), 404, "not_found", None),
            (body(&[("orgId", json!("another"))]), 403, "forbidden", None),
        ];
        for (body, status, error, field) in cases {
            let answer = operator.call("POST", "/webhooks/github", Some(&body)).await.expect("an answer");
            let refusal = answer.json();
            assert_eq!((answer.status, refusal["error"].as_str()), (status, Some(error)), "{refusal}");
            if let Some(field) = field {
                assert!(refusal["fields"].as_array().is_some_and(|fields| fields.contains(&json!(field))), "{refusal}");
            }
        }
        let accepted = operator.ask("POST", "/webhooks/github", Some(&body(&[]))).await.expect("accepted");
        assert_eq!((accepted["status"].as_str(), accepted["outcome"].as_str()), (Some("accepted"), Some("routed")), "{accepted}");
        let again = operator.ask("POST", "/webhooks/github", Some(&body(&[]))).await.expect("accepted");
        assert_eq!(again["status"], "duplicate");
        let received = sink.wait_for(1, SOON).await.expect("delivered");
        let envelope: Value = serde_json::from_slice(&received[0].body).expect("JSON");
        assert_eq!(envelope["receivedAt"], json!(1_771_980_000_000_i64), "seconds became milliseconds");
        assert_eq!(envelope["eventKey"], "github:pull-request.opened");

        let path = format!("/events/{}/payload", accepted["eventId"].as_str().expect("an id"));
        let kept = operator.call("GET", &path, None).await.expect("an answer");
        assert_eq!(kept.headers.get("content-type"), Some("application/json"));
        assert_eq!(kept.json(), payload);

        let mut held = operator_with_hold(&app, &body(&[("deliveryId", json!("b-2"))])).await;
        assert_eq!((held["status"].take(), held["held"].take()), (json!("accepted"), json!(true)));
        let path = format!("/connections/{}/release-held", github.connection);
        operator.ask("POST", &path, None).await.expect("released");
        sink.wait_for(2, SOON).await.expect("delivered after its release");

        let wrong = app.send("POST", "/webhooks/github", &[("x-api-key", "wrong"), ("content-type", "application/json")],
            body(&[]).to_string()).await;
        assert_eq!((wrong.status, wrong.json()["error"].as_str()), (401, Some("invalid_signature")), "a wrong key is a provider's request");
        app.finish().await;
    }
}

async fn operator_with_hold(app: &App, body: &Value) -> Value {
    let key = App::service_key();
    let headers = [("x-api-key", key), ("content-type", "application/json"), ("x-backfill-hold", "true")];
    app.send("POST", "/webhooks/github", &headers, body.to_string()).await.json()
}
