//! The HTTP API as its callers meet it: who may call what, methods, ids, lists, shapes, and rows from an import.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock as _, SystemClock},
    sim::{
        self,
        client::Answer,
        operator::Operator,
        sink::{Behaviour, Sink},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{App, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

/// Every route that needs a key: method, path, and who may call it.
const ROUTES: [(&str, &str, Needs); 45] = [
    ("GET", "/providers", Needs::Any),
    ("GET", "/connections", Needs::Any),
    ("GET", "/connections/{in}", Needs::Any),
    ("POST", "/connections/{in}/resources", Needs::Write),
    ("DELETE", "/connections/{in}/resources/{res}", Needs::Write),
    ("GET", "/connections/{in}/log", Needs::Any),
    ("POST", "/connections/{in}/reroute", Needs::Write),
    ("POST", "/connections/{in}/release-held", Needs::Write),
    ("GET", "/workspaces/ws/integrations", Needs::Any),
    ("POST", "/workspaces/ws/integrations", Needs::Write),
    ("GET", "/integrations/{int}", Needs::Any),
    ("PATCH", "/integrations/{int}", Needs::Write),
    ("DELETE", "/integrations/{int}", Needs::Write),
    ("PUT", "/integrations/{int}/destination", Needs::Write),
    ("GET", "/integrations/{int}/destination", Needs::Any),
    ("DELETE", "/integrations/{int}/destination", Needs::Write),
    ("POST", "/integrations/{int}/destination/rotate-secret", Needs::Write),
    ("POST", "/integrations/{int}/destination/test", Needs::Write),
    ("PUT", "/workspaces/ws/destination", Needs::Write),
    ("GET", "/workspaces/ws/destination", Needs::Any),
    ("DELETE", "/workspaces/ws/destination", Needs::Write),
    ("POST", "/workspaces/ws/destination/rotate-secret", Needs::Write),
    ("POST", "/workspaces/ws/destination/test", Needs::Write),
    ("PUT", "/orgs/org/destination", Needs::Write),
    ("GET", "/orgs/org/destination", Needs::Any),
    ("DELETE", "/orgs/org/destination", Needs::Write),
    ("POST", "/orgs/org/destination/rotate-secret", Needs::Write),
    ("POST", "/orgs/org/destination/test", Needs::Write),
    ("GET", "/events", Needs::Any),
    ("GET", "/events/stream", Needs::Any),
    ("GET", "/events/{evt}", Needs::Any),
    ("GET", "/events/{evt}/payload", Needs::Any),
    ("GET", "/events/{evt}/explain", Needs::Any),
    ("POST", "/events/{evt}/replay", Needs::Write),
    ("POST", "/deliveries/{dlv}/retry", Needs::Write),
    ("POST", "/admin/connections", Needs::ServiceWrite),
    ("GET", "/admin/dlq", Needs::Service),
    ("POST", "/admin/dlq/replay", Needs::ServiceWrite),
    ("POST", "/admin/replay/catchup", Needs::ServiceWrite),
    ("GET", "/admin/quarantine", Needs::Service),
    ("POST", "/admin/quarantine/reverify", Needs::ServiceWrite),
    ("GET", "/admin/health", Needs::Service),
    ("GET", "/admin/health/providers", Needs::Service),
    ("GET", "/admin/actors", Needs::Service),
    ("GET", "/admin/audit", Needs::Service),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Any,
    Write,
    Service,
    ServiceWrite,
}

struct Scene {
    app: App,
    sink: Sink,
    github: Connected,
    integration: String,
    event: Value,
}

impl Scene {
    /// A delivered push of org `org`, whose workspace `ws` wants pushes.
    async fn set(app: App) -> Self {
        let sink = Sink::start().await.expect("a port");
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let integration = app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let (_, answer) = app.post_event(&github, "github:push", 1).await;
        sink.wait_for(1, SOON).await.expect("delivered");
        let path = format!("/events/{}", answer.json()["eventId"].as_str().expect("an id"));
        let event = app.operator("org").ask("GET", &path, None).await.expect("the event");
        Self { app, sink, github, integration, event }
    }

    /// A path with this scene's ids.
    fn path(&self, template: &str) -> String {
        template
            .replace("{int}", &self.integration)
            .replace("{in}", &self.github.connection)
            .replace("{evt}", self.event["id"].as_str().expect("an id"))
            .replace("{dlv}", self.event["deliveries"][0]["id"].as_str().expect("an id"))
            .replace("{res}", self.event["deliveries"][0]["resourceId"].as_str().expect("an id"))
    }

    async fn call(&self, key: &str, org: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
        let mut headers = vec![("x-api-key", key), ("content-type", "application/json")];
        headers.extend(org.map(|org| ("x-org-id", org)));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.app.send(method, path, &headers, body).await
    }
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

on_both! {
    async fn every_route_asks_for_the_right_key_and_shows_another_org_nothing(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let reading = scene.app.make_key(&["--scope", "read"]);
        let (own, foreign) = (scene.app.make_key(&["--org", "org"]), scene.app.make_key(&["--org", "other"]));
        for (method, template, needs) in ROUTES {
            let path = scene.path(template);
            let call = |key, org| scene.call(key, org, method, &path, &Value::Null);
            let stranger = scene.app.send(method, &path, &[], "").await;
            assert_eq!(code(&stranger), refused(401, "unauthorized"), "{method} {path}");
            assert!(stranger.headers.get("www-authenticate").is_some(), "{method} {path}");
            assert_eq!(code(&call("wrong", Some("org")).await), refused(401, "unauthorized"), "{method} {path}");
            assert_eq!(code(&call(App::service_key(), Some("no org")).await), refused(400, "invalid_org_id"), "{method} {path}");
            assert_eq!(code(&call(own.as_str(), Some("other")).await), refused(403, "forbidden"), "{method} {path}");
            if matches!(needs, Needs::Write | Needs::ServiceWrite) {
                assert_eq!(code(&call(reading.as_str(), Some("org")).await), refused(403, "insufficient_scope"), "{method} {path}");
            }
            if matches!(needs, Needs::Service | Needs::ServiceWrite) {
                assert_eq!(code(&call(own.as_str(), None).await), refused(403, "service_key_required"), "{method} {path}");
            }
            if template.contains('{') || template.starts_with("/orgs/") {
                for key in [foreign.as_str(), App::service_key()] {
                    let answer = call(key, Some("other")).await;
                    assert_eq!(code(&answer), refused(404, "not_found"), "{method} {path}");
                    let text = String::from_utf8_lossy(&answer.body).into_owned();
                    assert!(!text.contains(&scene.integration) && !text.contains("tide-clock"), "{text}");
                }
            }
        }
        // A foreign org that lists sees an empty world; ids in bodies are checked too.
        for path in ["/connections", "/events", "/workspaces/ws/integrations"] {
            let list = scene.call(&foreign, None, "GET", path, &Value::Null).await.json();
            let items = list.get("items").or(list.get("list")).and_then(Value::as_array).cloned();
            assert_eq!(items, Some(Vec::new()), "{path}");
        }
        let steal = json!({"connectionId": scene.github.connection, "resources": [{"providerResourceId": "1"}]});
        let stolen = scene.call(&foreign, None, "POST", "/workspaces/ws/integrations", &steal).await;
        assert_eq!(code(&stolen), refused(404, "not_found"));
        for (path, body) in [
            ("/admin/replay/catchup", json!({"installationId": scene.github.connection})),
            ("/admin/dlq/replay", json!({"deliveryIds": [{"provider": "github", "deliveryId": scene.event["deliveryId"]}]})),
        ] {
            let answer = scene.call(App::service_key(), Some("other"), "POST", path, &body).await;
            assert_eq!(answer.status, 404, "{path}");
        }
        scene.app.finish().await;
    }

    async fn whoever_tries_keys_is_slowed_down_and_the_right_key_and_webhooks_are_not_refused(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let guesses: Vec<_> = (0..200)
            .map(|guess| {
                let mut client = scene.app.outsider();
                tokio::spawn(async move {
                    let key = format!("a-wrong-key-of-at-least-32-characters-{guess}");
                    client.send("GET", "/connections", &[("x-api-key", &key)], bytes::Bytes::new()).await
                })
            })
            .collect();
        let mut operator = scene.app.operator("org");
        for seed in 100..110 {
            operator.ask("GET", "/connections", None).await.expect("the right key is served beside them");
            let (_, answer) = scene.app.post_event(&scene.github, "github:push", seed).await;
            assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("routed")));
        }
        for guess in guesses {
            assert_eq!(guess.await.expect("no panic").expect("an answer").status, 401);
        }
        scene.app.finish().await;
    }

    async fn a_service_key_that_names_no_org_is_asked_for_one_only_where_one_is_needed(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let key = App::service_key();
        for path in ["/connections", "/events/stream", "/workspaces/ws/integrations", "/workspaces/ws/destination"] {
            let answer = scene.call(key, None, "GET", path, &Value::Null).await;
            assert_eq!(code(&answer), refused(400, "missing_org_id"), "{path}");
        }
        for template in ["/providers", "/connections/{in}", "/integrations/{int}", "/events", "/events/{evt}", "/orgs/org/destination"] {
            let answer = scene.call(key, None, "GET", &scene.path(template), &Value::Null).await;
            assert_eq!(answer.status, 200, "{template}");
        }
        scene.app.finish().await;
    }

    async fn lists_are_clamped_and_paged_and_a_foreign_cursor_is_refused(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        for seed in 2..5 {
            scene.app.post_event(&scene.github, "github:push", seed).await;
        }
        let list = async |query: &str| scene.app.operator("org").ask("GET", &format!("/events{query}"), None).await.expect("a list");
        for (query, count) in [("", 4), ("?limit=0", 1), ("?limit=-5", 1), ("?limit=2", 2), ("?limit=1000", 4), ("?limit=abc", 4), ("?limit=", 4)] {
            assert_eq!(list(query).await["items"].as_array().map(Vec::len), Some(count), "{query}");
        }
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = list(&format!("?limit=3&cursor={cursor}")).await;
            seen.extend(page["items"].as_array().expect("items").iter().map(|event| event["id"].clone()));
            match page["nextCursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        assert_eq!(seen.len(), 4);
        assert!(seen.is_sorted_by(|a, b| a.as_str() > b.as_str()), "newest first, each once: {seen:?}");
        let id = scene.event["id"].as_str().expect("an id").to_owned();
        for path in ["/events?cursor=garbage", "/events?outcome=none", "/events?since=yesterday", "/connections?status=odd",
            &format!("/connections?cursor={id}"), "/workspaces/ws/integrations?status=odd"] {
            let answer = scene.app.operator("org").call("GET", path, None).await.expect("an answer");
            assert_eq!(code(&answer), refused(400, "invalid_parameter"), "{path}");
        }
        let letters = scene.app.operator("org").ask("GET", "/admin/dlq?limit=500&offset=x", None).await.expect("a list");
        assert_eq!(letters, json!({"items": [], "limit": 100, "offset": 0}));
        scene.app.finish().await;
    }

    async fn request_and_correlation_ids_are_echoed_and_the_latter_travels_to_the_destination(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let ids = |answer: &Answer| {
            ["x-request-id", "x-correlation-id"].map(|name| answer.headers.get(name).expect("always there").to_owned())
        };
        let named = scene.app.send("GET", "/", &[("x-request-id", "mine"), ("x-correlation-id", "ours")], "").await;
        assert_eq!(ids(&named), ["mine", "ours"]);
        let alone = scene.app.send("GET", "/nowhere", &[("x-request-id", "mine")], "").await;
        assert_eq!((ids(&alone), alone.json()["requestId"].as_str()), (["mine", "mine"].map(str::to_owned), Some("mine")));
        let odd = "x".repeat(500);
        let [request, correlation] = ids(&scene.app.send("GET", "/", &[("x-request-id", &odd)], "").await);
        assert!(request.starts_with("req_") && request == correlation, "{request} {correlation}");

        let facts = scene.github.facts(9, signalbox::model::clock::EpochMs(1_800_000_000_000));
        let event = scene.github.provider.event("github:push", &facts, scene.github.provider.secret.as_bytes()).expect("known");
        let mut headers: Vec<_> = event.headers.iter().map(|(name, value)| (&**name, value.as_str())).collect();
        headers.push(("x-correlation-id", "trace-7"));
        assert_eq!(scene.app.send("POST", "/webhooks/github", &headers, event.body.clone()).await.status, 200);
        let received = scene.sink.wait_for(2, SOON).await.expect("delivered");
        assert_eq!(received[1].headers.get("x-correlation-id"), Some("trace-7"));
        let listed = scene.app.operator("org").ask("GET", "/events?limit=1", None).await.expect("a list");
        assert_eq!(listed["items"][0]["correlationId"], "trace-7");
        scene.app.finish().await;
    }

    async fn linking_unlinking_and_their_refusals(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let path = format!("/connections/{}/resources", github.connection);
        let mut operator = app.operator("org");
        let not_json = app.send("POST", &path, &[("x-api-key", App::service_key())], "{").await;
        assert_eq!(code(&not_json), refused(400, "invalid_json"));
        let body = json!({"providerResourceId": "7", "resourceName": "octo/hello"});
        let linked = operator.ask("POST", &path, Some(&body)).await.expect("linked");
        let id = linked["resource"]["id"].as_str().expect("an id").to_owned();
        assert_eq!(linked, json!({"status": "linked", "resource": {"id": id, "providerResourceId": "7", "resourceName": "octo/hello"}}));
        let one = format!("{path}/{id}");
        let nowhere = format!("{path}/res_nowhere");
        for (method, path, body, expected, status) in [
            ("POST", &path, Some(json!({})), "missing_provider_resource_id", 400),
            ("POST", &path, Some(json!({"providerResourceId": {}})), "missing_provider_resource_id", 400),
            ("POST", &path, Some(body.clone()), "resource_already_linked", 409),
            ("DELETE", &nowhere, None, "not_found", 404),
            ("DELETE", &one, None, "", 200),
            ("DELETE", &one, None, "already_removed", 400),
        ] {
            let answer = operator.call(method, path, body.as_ref()).await.expect("an answer");
            assert_eq!(code(&answer), refused(status, expected), "{method} {path}");
            if expected == "resource_already_linked" {
                assert_eq!(answer.json()["resourceId"], id.as_str());
            }
        }
        let again = operator.ask("POST", &path, Some(&json!({"providerResourceId": 7}))).await.expect("linked again");
        assert_eq!(again["resource"]["id"], id.as_str(), "the same row is revived");
        let shown = operator.ask("GET", &format!("/connections/{}", github.connection), None).await.expect("there");
        for member in ["id", "provider", "externalId", "accountLogin", "orgId", "status", "hasToken", "tokenExpiresAt", "health",
            "lastEventAt", "resources", "createdAt", "updatedAt"] {
            assert!(shown.get(member).is_some(), "{member} is missing in {shown}");
        }
        for status in ["pending", "suspended", "revoked"] {
            app.write_rows(&format!("UPDATE gw_installations SET status = '{status}'")).await;
            let answer = operator.call("POST", &path, Some(&json!({"providerResourceId": "8"}))).await.expect("an answer");
            assert_eq!(code(&answer), refused(400, "installation_not_active"), "{status}");
        }
        app.finish().await;
    }

    async fn adopting_is_repeatable_for_the_same_org_and_refused_to_another(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let external = github.facts(0, signalbox::model::clock::EpochMs(0)).external_id;
        let body = |org: &str| json!({"provider": "github", "externalId": external, "orgId": org, "connectedBy": "me"});
        let again = app.operator("org").ask("POST", "/admin/connections", Some(&body("org"))).await.expect("the same");
        assert_eq!((&again["id"], &again["connectionId"]), (&json!(github.connection), &json!(github.connection)));
        let taken = app.operator("thief").call("POST", "/admin/connections", Some(&body("thief"))).await.expect("an answer");
        assert_eq!(code(&taken), refused(409, "installation_already_bound"));
        let unknown = json!({"provider": "gitlab", "externalId": "1", "orgId": "org", "connectedBy": "me"});
        let unknown = app.operator("org").call("POST", "/admin/connections", Some(&unknown)).await.expect("an answer");
        assert_eq!(code(&unknown), refused(400, "unknown_provider"));
        let missing = app.operator("org").call("POST", "/admin/connections", Some(&json!({}))).await.expect("an answer");
        assert_eq!((code(&missing), missing.json()["fields"].clone()),
            (refused(400, "missing_required_fields"), json!(["connectedBy", "externalId", "orgId", "provider"])));
        app.write_rows("UPDATE gw_installations SET status = 'revoked'").await;
        let moved = app.operator("heir").ask("POST", "/admin/connections", Some(&body("heir"))).await.expect("free again");
        assert_ne!(moved["id"], json!(github.connection), "a row of its own");
        app.finish().await;
    }

    async fn an_integration_is_created_skipped_reactivated_and_shown_as_the_contract_says(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let mut operator = app.operator("org");
        let body = |events: Value| {
            let mut body = json!({"connectionId": github.connection, "resources": [{"providerResourceId": "7", "name": "octo/hello"}]});
            if !events.is_null() {
                body["events"] = events;
            }
            body
        };
        let path = "/workspaces/ws/integrations";
        let counts = |answer: &Value| [&answer["created"], &answer["reactivated"], &answer["skipped"]].map(Value::as_u64);
        let created = operator.ask("POST", path, Some(&body(Value::Null))).await.expect("created");
        assert_eq!(counts(&created), [Some(1), Some(0), Some(0)]);
        let id = created["integrations"][0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(created["integrations"][0]["events"].as_array().map(Vec::len), Some(13), "the defaults");
        let skipped = operator.ask("POST", path, Some(&body(Value::Null))).await.expect("skipped");
        assert_eq!(counts(&skipped), [Some(0), Some(0), Some(1)]);
        let list = operator.ask("GET", path, None).await.expect("a list");
        assert_eq!((&list["workspaceId"], &list["total"], &list["byType"]), (&json!("ws"), &json!(1), &json!({"github": 1})));
        for member in ["id", "provider", "connectionId", "resourceId", "providerResourceId", "displayName", "status", "statusReason",
            "sourceConfig", "events", "autoSync", "lastEventAt", "createdAt"] {
            assert!(list["list"][0].get(member).is_some(), "{member} is missing in {list}");
        }
        let one = format!("/integrations/{id}");
        assert_eq!(operator.ask("DELETE", &one, None).await.expect("ended")["status"], "disconnected");
        assert_eq!(operator.ask("GET", path, None).await.expect("a list")["total"], 0);
        assert_eq!(operator.ask("GET", "/workspaces/ws/integrations?status=disconnected", None).await.expect("a list")["total"], 1);
        let revived = operator.ask("POST", path, Some(&body(json!([])))).await.expect("reactivated");
        assert_eq!((counts(&revived), &revived["integrations"][0]["id"]), ([Some(0), Some(1), Some(0)], &json!(id)));
        assert_eq!(revived["integrations"][0]["events"], json!([]), "none given is the default, an empty list is nothing");
        let many: Vec<_> = (0..51).map(|id| json!({"providerResourceId": id})).collect();
        for (body, error) in [
            (json!({"connectionId": github.connection, "resources": []}), "invalid_resources"),
            (json!({"connectionId": github.connection, "resources": many}), "invalid_resources"),
            (json!({"resources": [{"providerResourceId": "7"}]}), "missing_required_fields"),
            (body(json!(["pull_request", "github:nothing", "linear:issue.created"])), "unknown_event_key"),
        ] {
            let answer = operator.call("POST", path, Some(&body)).await.expect("an answer");
            assert_eq!(code(&answer), refused(400, error), "{body}");
            if error == "unknown_event_key" {
                assert_eq!(answer.json()["keys"], json!(["github:nothing", "linear:issue.created"]), "the offenders");
            }
        }
        app.finish().await;
    }

    async fn a_workspace_that_had_a_destination_before_its_first_subscription_gets_its_events_there(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        scene.app.set_destination("org", Some("late"), &scene.sink.url("/late")).await;
        scene.app.subscribe("org", "late", &scene.github, Some(&["github:push"])).await;
        scene.app.post_event(&scene.github, "github:push", 2).await;
        let received = scene.sink.wait_for(3, SOON).await.expect("delivered");
        let paths: std::collections::BTreeSet<_> = received[1..].iter().map(|received| received.path.as_str()).collect();
        assert_eq!(paths, ["/in", "/late"].into());
        scene.app.finish().await;
    }

    async fn the_configured_destination_serves_whoever_has_none_and_the_narrower_ones_win(backend) {
        let sink = Sink::start().await.expect("a port");
        let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
        let options = Options::default().with("SIGNALBOX_DELIVERY__URL", &sink.url("/default")).with("SIGNALBOX_DELIVERY__SECRET", secret);
        sink.expect_signed("/default", secret);
        let app = App::start(backend, options).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let integration = app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let mut operator = app.operator("org");
        let own = format!("/integrations/{integration}");
        let its = format!("{own}/destination");
        let steps = [
            ("PUT", "/orgs/org/destination", json!({"url": sink.url("/org")}), "/org"),
            ("PUT", "/workspaces/ws/destination", json!({"url": sink.url("/ws")}), "/ws"),
            ("PATCH", &own, json!({"destination": {"url": sink.url("/own")}}), "/own"),
            ("PATCH", &own, json!({"destination": null}), "/ws"),
            ("PUT", &its, json!({"url": sink.url("/its")}), "/its"),
            ("DELETE", &its, Value::Null, "/ws"),
            ("DELETE", "/workspaces/ws/destination", Value::Null, "/org"),
            ("DELETE", "/orgs/org/destination", Value::Null, "/default"),
        ];
        app.post_event(&github, "github:push", 0).await;
        let first = sink.wait_for(1, SOON).await.expect("delivered");
        assert_eq!((first[0].path.as_str(), first[0].signature), ("/default", sim::sink::SignatureVerdict::Valid));
        for (number, (method, path, body, expected)) in (1_u32..).zip(steps) {
            operator.ask(method, path, (!body.is_null()).then_some(&body)).await.expect("changed");
            app.post_event(&github, "github:push", u64::from(number)).await;
            let received = sink.wait_for(number as usize + 1, SOON).await.expect("delivered");
            assert_eq!(received.last().map(|received| received.path.as_str()), Some(expected), "after {method} {path}");
        }
        app.finish().await;
    }

    async fn a_destinations_secret_is_shown_when_it_is_made_and_when_it_is_rotated(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let integration = app.subscribe("org", "ws", &github, None).await;
        let of_integration = format!("/integrations/{integration}/destination");
        let mut operator = app.operator("org");
        for path in ["/orgs/org/destination", "/workspaces/ws/destination", &of_integration] {
            let body = json!({"url": sink.url("/in"), "headers": {"X-Team": "tides"}});
            let made = operator.ask("PUT", path, Some(&body)).await.expect("made");
            let secret = made["secret"].as_str().expect("shown once").to_owned();
            assert!(secret.starts_with("whsec_"));
            let replaced = operator.ask("PUT", path, Some(&body)).await.expect("replaced");
            let seen = operator.ask("GET", path, None).await.expect("there");
            for shown in [&replaced, &seen] {
                assert!(shown.get("secret").is_none() && !shown.to_string().contains("tides"), "{shown}");
                assert_eq!((&shown["id"], &shown["headerNames"]), (&made["id"], &json!(["X-Team"])));
            }
            let rotated = operator.ask("POST", &format!("{path}/rotate-secret"), None).await.expect("rotated");
            assert_eq!(rotated["id"], made["id"]);
            assert_ne!(rotated["secret"], json!(secret));
            assert!(rotated["previousSecretUntil"].is_string(), "{rotated}");
            let tested = operator.ask("POST", &format!("{path}/test"), None).await.expect("tested");
            assert_eq!((&tested["status"], &tested["statusCode"]), (&json!("delivered"), &json!(200)), "{tested}");
            let received = sink.received();
            let test = received.last().expect("a test envelope");
            assert_eq!((test.headers.get("x-team"), test.headers.get("content-type")), (Some("tides"), Some("application/json")));
            let library = standardwebhooks::Webhook::new(&secret).expect("a secret");
            library.verify(&test.body, &crate::deliveries::signature_headers(test)).expect("the old secret signs along");
        }
        for (body, error) in [
            (json!({"url": "ftp://sink.example/"}), "invalid_destination_url"),
            (json!({"url": "http://user:pass@sink.example/"}), "invalid_destination_url"),
            (json!({"url": "https://169.254.169.254/"}), "invalid_destination_url"),
            (json!({"url": sink.url("/"), "headers": {"webhook-id": "x"}}), "invalid_destination_header"),
            (json!({"headers": {}}), "missing_required_fields"),
        ] {
            let answer = operator.call("PUT", "/orgs/org/destination", Some(&body)).await.expect("an answer");
            assert_eq!(code(&answer), refused(400, error), "{body}");
        }
        let failing = operator.call("POST", "/orgs/org/destination/test", None).await;
        sink.behave("/in", Behaviour::status_only(500));
        assert_eq!(failing.expect("an answer").json()["status"], "delivered");
        let failed = operator.ask("POST", "/orgs/org/destination/test", None).await.expect("tried");
        assert_eq!((&failed["status"], &failed["statusCode"]), (&json!("failed"), &json!(500)));
        app.finish().await;
    }

    async fn a_patch_that_is_refused_changes_nothing_and_one_that_resumes_lifts_an_imported_pause(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let (mut operator, path) = (scene.app.operator("org"), scene.path("/integrations/{int}"));
        let before = operator.ask("GET", &path, None).await.expect("there");
        let reserved = json!({"url": scene.sink.url("/"), "headers": {"webhook-id": "x"}});
        for destination in [json!({"url": "ftp://sink.example"}), reserved] {
            let body = json!({"events": [], "autoSync": false, "destination": destination});
            assert_eq!(operator.call("PATCH", &path, Some(&body)).await.expect("an answer").status, 400);
            assert_eq!(operator.ask("GET", &path, None).await.expect("there"), before);
        }
        scene.app.write_rows("UPDATE workspace_integrations SET status = 'paused'").await;
        let (_, answer) = scene.app.post_event(&scene.github, "github:push", 40).await;
        assert_eq!(answer.json()["outcome"], "filtered");
        let resumed = operator.ask("PATCH", &path, Some(&json!({"autoSync": true}))).await.expect("patched");
        assert_eq!(resumed["status"], "active", "{resumed}");
        let (_, answer) = scene.app.post_event(&scene.github, "github:push", 41).await;
        assert_eq!(answer.json()["outcome"], "routed");
        scene.sink.wait_for(2, SOON).await.expect("delivered");
        scene.app.finish().await;
    }

    async fn a_destinations_url_may_be_long_and_is_shown_as_its_owner_wrote_it(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/", Behaviour::status_only(410));
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let integration = app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let (own, of_org) = (format!("/integrations/{integration}"), "/orgs/org/destination");
        let mut operator = app.operator("org");
        let long = |bytes: usize| format!("{:x<bytes$}", sink.url("/"));
        for (bytes, expected) in [(1025, None), (2048, None), (2049, Some("invalid_destination_url"))] {
            let url = long(bytes);
            let put = operator.call("PUT", of_org, Some(&json!({"url": url}))).await.expect("an answer");
            let patch = json!({"destination": {"url": url}});
            let patched = operator.call("PATCH", &own, Some(&patch)).await.expect("an answer");
            match expected {
                None => {
                    assert_eq!(put.json()["url"], json!(url));
                    assert_eq!(patched.json()["destination"]["url"], json!(url));
                }
                Some(error) => {
                    assert_eq!((code(&put), code(&patched)), (refused(400, error), refused(400, error)), "{bytes}");
                }
            }
        }
        operator.ask("PATCH", &own, Some(&json!({"destination": null}))).await.expect("ended");

        // Without a path: what the attempt found out is noted at the row, and the next owner's word replaces it.
        let bare = sink.url("");
        let put = operator.ask("PUT", of_org, Some(&json!({"url": bare}))).await.expect("put");
        assert_eq!(put["url"], json!(bare));
        app.post_event(&github, "github:push", 1).await;
        let received = sink.wait_for(1, SOON).await.expect("delivered");
        assert_eq!(received[0].path, "/");
        let deadline = Instant::now() + SOON;
        while operator.ask("GET", of_org, None).await.expect("there")["disabledReason"] != "gone" {
            assert!(Instant::now() < deadline, "it is not disabled\n{}", app.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for url in [format!("{bare}/"), bare] {
            let put = operator.ask("PUT", of_org, Some(&json!({"url": url}))).await.expect("put");
            assert_eq!((&put["url"], &put["disabledReason"]), (&json!(url), &Value::Null));
            let seen = operator.ask("GET", of_org, None).await.expect("there");
            assert_eq!(seen["url"], json!(url));
        }
        let rotated = operator.ask("POST", &format!("{of_org}/rotate-secret"), None).await.expect("rotated");
        assert_eq!(rotated["url"], json!(sink.url("")));
        app.finish().await;
    }

    async fn what_came_while_an_integration_was_paused_can_be_replayed(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let path = format!("/integrations/{}", scene.integration);
        let mut operator = scene.app.operator("org");
        let paused = operator.ask("PATCH", &path, Some(&json!({"autoSync": false}))).await.expect("paused");
        assert_eq!((&paused["autoSync"], &paused["events"]), (&json!(false), &json!(["github:push"])), "the rest is kept");
        let (_, answer) = scene.app.post_event(&scene.github, "github:push", 2).await;
        assert_eq!(answer.json()["outcome"], "filtered");
        let event = answer.json()["eventId"].as_str().expect("an id").to_owned();
        let shown = operator.ask("GET", &format!("/events/{event}"), None).await.expect("there");
        assert_eq!((&shown["reason"], &shown["deliveries"]), (&json!("paused"), &json!([])));
        let replayed = operator.ask("POST", &format!("/events/{event}/replay"), None).await.expect("replayed");
        assert_eq!((&replayed["status"], replayed["deliveries"].as_array().map(Vec::len)), (&json!("replayed"), Some(1)));
        scene.sink.wait_for(2, SOON).await.expect("delivered");
        let explain = format!("/events/{event}/explain");
        let explained = async |operator: &mut Operator, deliveries: usize| loop {
            let considered = operator.ask("GET", &explain, None).await.expect("explained")["considered"][0].clone();
            let made = considered["deliveries"].as_array().expect("a list").clone();
            assert_eq!(made.len(), deliveries, "{considered}");
            if made.iter().all(|delivery| delivery["status"] == "delivered") {
                return considered;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(explained(&mut operator, 1).await["reason"], "filtered:paused", "why it got nothing then stays");
        // Paused by its status: named, it gets it as it does unnamed.
        scene.app.write_rows("UPDATE workspace_integrations SET status = 'paused'").await;
        let named = json!({"integrationIds": [scene.integration]});
        let replayed = operator.ask("POST", &format!("/events/{event}/replay"), Some(&named)).await.expect("replayed");
        assert_eq!(replayed["deliveries"].as_array().map(Vec::len), Some(1), "{replayed}");
        assert_eq!(explained(&mut operator, 2).await["reason"], "filtered:paused");
        scene.app.finish().await;
    }

    async fn a_stream_that_is_taken_up_again_begins_a_little_before_the_last_event_that_was_seen(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let mut ids = Vec::new();
        for seed in [2, 3] {
            let (_, answer) = scene.app.post_event(&scene.github, "github:push", seed).await;
            ids.push(answer.json()["eventId"].as_str().expect("an id").to_owned());
        }
        let mut stream = TcpStream::connect(scene.app.address()).await.expect("it listens");
        let request = format!("GET /events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nx-org-id: org\r\n\
            last-event-id: {}\r\n\r\n", App::service_key(), ids[1]);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut read = Vec::new();
        let both = async {
            // The first may have been committed after the second was seen: nobody can tell.
            while !ids.iter().all(|id| String::from_utf8_lossy(&read).contains(&format!("id: {id}"))) {
                assert_ne!(stream.read_buf(&mut read).await.expect("reads"), 0, "the stream ended");
            }
        };
        tokio::time::timeout(SOON, both).await.expect("both are sent");
        scene.app.finish().await;
    }

    async fn a_key_that_follows_too_many_streams_is_refused_another_until_one_ends(backend) {
        let app = App::start(backend, Options::default()).await;
        let key = app.make_key(&["--org", "org", "--scope", "read"]);
        let follow = async |key: &str| {
            let mut stream = TcpStream::connect(app.address()).await.expect("it listens");
            let request = format!("GET /events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nx-org-id: org\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                read.push(stream.read_u8().await.expect("an answer"));
            }
            (String::from_utf8_lossy(&read[9..12]).into_owned(), stream)
        };
        let mut streams = Vec::new();
        for number in 0..100 {
            let (status, stream) = follow(&key).await;
            assert_eq!(status, "200", "stream {number}");
            streams.push(stream);
        }
        let refused = app.send("GET", "/events/stream", &[("x-api-key", &key)], "").await;
        assert_eq!(code(&refused), (429, "too_many_streams".to_owned()));
        let (status, _others) = follow(App::service_key()).await;
        assert_eq!(status, "200", "another key has its own");
        // The end of a connection is noticed when there is something to write, or at once.
        streams.pop();
        let again = async {
            while follow(&key).await.0 != "200" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, again).await.expect("there is a place again");
        app.finish().await;
    }

    async fn imported_rows_are_honoured_category_keys_and_further_rules_included(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let config = r#"{"type":"repository","custom":{"a":1},"sync":{"events":["pull_request"],"autoSync":true,"branches":["main"],"paths":["src/**"]}}"#;
        scene.app.write_rows(&format!("UPDATE workspace_integrations SET source_config = '{config}'")).await;
        for (seed, kind, outcome) in [(5, "github:pull-request.opened", "routed"), (6, "github:push", "filtered")] {
            let (_, answer) = scene.app.post_event(&scene.github, kind, seed).await;
            assert_eq!(answer.json()["outcome"], outcome, "{kind}");
        }
        let path = format!("/integrations/{}", scene.integration);
        let pushes = json!({"events": ["github:push"]});
        let changed = scene.app.operator("org").ask("PATCH", &path, Some(&pushes)).await.expect("changed");
        let expected = json!({"type": "repository", "custom": {"a": 1},
            "sync": {"events": ["github:push"], "autoSync": true, "branches": ["main"], "paths": ["src/**"]}});
        assert_eq!(changed["sourceConfig"], expected, "everything else is kept");
        scene.sink.wait_for(2, SOON).await.expect("delivered");
        let statuses =
            [("needs_reauth", "routed"), ("pending", "unrouted"), ("suspended", "unrouted"), ("revoked", "unrouted")];
        for (seed, (status, outcome)) in (100_u64..).zip(statuses) {
            scene.app.write_rows(&format!("UPDATE gw_installations SET status = '{status}'")).await;
            let (_, answer) = scene.app.post_event(&scene.github, "github:push", seed).await;
            assert_eq!(answer.json()["outcome"], outcome, "{status}");
        }
        scene.sink.wait_for(3, SOON).await.expect("delivered");
        scene.app.finish().await;
    }

    async fn connections_and_integrations_say_when_they_last_heard_something_as_soon_as_it_is_acknowledged(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let mut operator = scene.app.operator("org");
        let last_written = async || {
            scene.app.count("SELECT COALESCE(MAX(last_event_at), 0) FROM gw_installations").await
        };
        for seed in 50..56 {
            let written_before = last_written().await;
            let (_, answer) = scene.app.post_event(&scene.github, "github:push", seed).await;
            let event = answer.json()["eventId"].as_str().expect("an event id").to_owned();
            let mut shown = Vec::new();
            for template in ["/connections/{in}", "/integrations/{int}"] {
                shown.push(operator.ask("GET", &scene.path(template), None).await.expect("there"));
            }
            for (path, rows) in [("/connections", "items"), ("/workspaces/ws/integrations", "list")] {
                shown.push(operator.ask("GET", path, None).await.expect("listed")[rows][0].clone());
            }
            let event = operator.ask("GET", &format!("/events/{event}"), None).await.expect("the event");
            for shown in shown {
                assert_eq!(shown["lastEventAt"], event["receivedAt"], "{shown}");
            }
            // Every other time its row is written before the next comes.
            if seed % 2 == 0 {
                let writing = async {
                    while last_written().await == written_before {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::time::timeout(SOON, writing).await.expect("it is written");
            }
        }
        scene.sink.wait_for(7, SOON).await.expect("delivered");
        scene.app.finish().await;
    }

    async fn an_event_that_is_routed_later_is_the_last_one_of_its_connection_and_integration(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let provider = sim::find("github").expect("simulated");
        let facts = provider.facts(1, 7, SystemClock.now());
        let early = provider.event("github:push", &facts, provider.secret.as_bytes()).expect("known");
        let answer = app.outsider().post_webhook("github", &early).await.expect("an answer").json();
        assert_eq!(answer["outcome"], "unrouted", "{answer}");
        let github = app.connect("org", provider, 1).await;
        let integration = app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let mut operator = app.operator("org");
        let (connection, integration) =
            (format!("/connections/{}", github.connection), format!("/integrations/{integration}"));
        assert_eq!(operator.ask("GET", &integration, None).await.expect("there")["lastEventAt"], Value::Null);
        let reroute = format!("{connection}/reroute");
        operator.ask("POST", &reroute, Some(&json!({}))).await.expect("rerouted");
        let event = format!("/events/{}", answer["eventId"].as_str().expect("an event id"));
        let received_at = operator.ask("GET", &event, None).await.expect("the event")["receivedAt"].clone();
        for path in [connection, integration] {
            assert_eq!(operator.ask("GET", &path, None).await.expect("there")["lastEventAt"], received_at, "{path}");
        }
        sink.wait_for(1, SOON).await.expect("delivered");
        app.finish().await;
    }

    async fn the_admin_routes_show_health_counts_actors_and_what_was_done(backend) {
        let scene = Scene::set(App::start(backend, Options::default()).await).await;
        let mut operator = scene.app.operator("org");
        let forged = scene.github.facts(3, signalbox::model::clock::EpochMs(1_800_000_000_000));
        let forged = scene.github.provider.event("github:push", &forged, b"not the secret").expect("known");
        assert_eq!(scene.app.outsider().post_webhook("github", &forged).await.expect("an answer").status, 401);
        let health = operator.ask("GET", "/admin/health", None).await.expect("healthy");
        assert_eq!((&health["status"], &health["database"]), (&json!("ok"), &json!("connected")));
        assert!(health["uptime_ms"].is_u64(), "{health}");
        let counted = async {
            loop {
                let providers = operator.ask("GET", "/admin/health/providers", None).await.expect("shown");
                let github = providers["items"].as_array().and_then(|all| all.iter().find(|one| one["provider"] == "github"));
                let counts = github.map(|one| ["accepted", "badSignature", "duplicate", "delivered", "dead"].map(|name| one[name].as_u64()));
                if counts == Some([Some(1), Some(1), Some(0), Some(1), Some(0)]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, counted).await.expect("counted");
        let mut operator = scene.app.operator("org");
        let rebuilt = operator.ask("POST", "/admin/cache/rebuild", None).await.expect("rebuilt");
        assert_eq!(rebuilt, json!({"status": "rebuilt", "count": 1}));
        let actors = operator.ask("GET", "/admin/actors", None).await.expect("shown");
        assert_eq!(actors["supervisors"][0]["installationId"], json!(scene.github.connection));
        assert_eq!(actors["dispatcher"]["lanes"].as_array().map(Vec::len), Some(1), "{actors}");
        let of_others = scene.app.operator("elsewhere").ask("GET", "/admin/actors", None).await.expect("shown");
        assert_eq!((&of_others["supervisors"], &of_others["dispatcher"]["lanes"]), (&json!([]), &json!([])));
        let audit = operator.ask("GET", "/admin/audit", None).await.expect("shown");
        let actions: Vec<_> = audit["items"].as_array().expect("items").iter().filter_map(|entry| entry["action"].as_str()).collect();
        for action in ["integration.created", "resource.linked", "destination.created"] {
            assert!(actions.contains(&action), "{action} is not in {actions:?}");
        }
        let log = operator.ask("GET", &scene.path("/connections/{in}/log"), None).await.expect("shown");
        assert!(log["items"].as_array().is_some_and(|items| items.iter().all(|item| item["connectionId"] == scene.github.connection.as_str())));
        scene.app.finish().await;
    }
}

/// Nothing below depends on the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_paths_and_methods_are_problems_and_open_routes_need_no_key() {
    let app = App::start(crate::support::Backend::sqlite(), Options::default()).await;
    for (method, path, status, error) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/connections/in_1/resources/res_1/nowhere", 404, "not_found"),
        ("DELETE", "/events", 405, "method_not_allowed"),
        ("GET", "/webhooks/github", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/webhooks/gitlab", 400, "unknown_provider"),
    ] {
        let answer = app.send(method, path, &[], "").await;
        assert_eq!(code(&answer), refused(status, error), "{method} {path}");
        assert_eq!(answer.headers.get("content-type"), Some("application/problem+json"), "{method} {path}");
        let body = answer.json();
        assert!(body["title"].is_string() && body["requestId"].is_string() && body["status"] == status, "{body}");
        assert_eq!(answer.headers.get("allow").is_some(), status == 405, "{method} {path}");
    }
    for (path, member) in [
        ("/", Some(("service", "signalbox"))),
        ("/healthz", Some(("status", "ok"))),
        ("/readyz", Some(("status", "ready"))),
        ("/metrics", None),
    ] {
        let answer = app.send("GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}");
        if let Some((name, value)) = member {
            assert_eq!(answer.json()[name], value, "{path}");
        }
    }
    for (accepted, answered) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let answer = app.send("GET", "/metrics", &[("accept", accepted)], "").await;
        assert_eq!(answer.headers.get("content-type"), Some(answered), "{accepted}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_shows_every_provider_enabled_or_not_with_its_events() {
    let app = App::start(crate::support::Backend::sqlite(), Options::default()).await;
    let providers = app.operator("org").ask("GET", "/providers", None).await.expect("shown");
    let mut seed = 0;
    for provider in providers["items"].as_array().expect("items") {
        for member in ["slug", "name", "enabled", "resourceLabel", "categories"] {
            assert!(provider.get(member).is_some_and(|value| !value.is_null()), "{member} is missing");
        }
        for event in provider["events"].as_array().expect("events") {
            for member in ["key", "label", "category", "description", "weight", "default"] {
                assert!(event.get(member).is_some_and(|value| !value.is_null()), "{member} is missing in {event}");
            }
            seed += usize::from(event["default"] == true);
        }
    }
    assert_eq!(providers["items"].as_array().map(Vec::len), Some(4));
    assert_eq!(seed, 40, "Lightfast's 41 keys but for vercel:deployment.check-rerequested");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_stream_shows_an_orgs_events_as_they_come() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let scene = Scene::set(App::start(crate::support::Backend::sqlite(), Options::default()).await).await;
    let mut stream = tokio::net::TcpStream::connect(scene.app.address()).await.expect("connects");
    let request =
        format!("GET /events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nx-org-id: org\r\n\r\n", App::service_key());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let mut next = async |wanted: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.expect("reads") {
                if let Some((_, rest)) = line.split_once(wanted) {
                    return rest.to_owned();
                }
            }
            panic!("the stream ended");
        };
        tokio::time::timeout(SOON, found).await.unwrap_or_else(|_| panic!("no {wanted}"))
    };
    assert!(next("content-type: ").await.starts_with("text/event-stream"));
    next(": following").await;
    let (_, answer) = scene.app.post_event(&scene.github, "github:push", 2).await;
    assert_eq!(next("id: ").await, answer.json()["eventId"].as_str().expect("an id"));
    let shown: Value = serde_json::from_str(&next("data: ").await).expect("JSON");
    assert_eq!(
        (&shown["eventKey"], &shown["outcome"], &shown["orgId"]),
        (&json!("github:push"), &json!("routed"), &json!("org"))
    );
    scene.sink.wait_for(2, SOON).await.expect("delivered");
    scene.app.finish().await;
}
