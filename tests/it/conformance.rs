//! The OpenAPI document is true: every operation's success, and many refusals, are what the served document says, down to
//! the last member.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use signalbox::sim::{
    self,
    browser::Browser,
    client::Answer,
    sink::{Behaviour, Sink},
    world::Visit,
};
use url::Url;

use crate::support::{App, Connected, Contract, Options, Stage, on_both};

const SOON: Duration = Duration::from_mins(1);

/// Operations whose success this test does not see, and why.
const NOT_HERE: &[(&str, &str, &str)] = &[("GET", "/events/stream", "it never ends; tests/it/api.rs follows it")];

/// A caller that checks every answer against the document.
struct Checker {
    stage: Stage,
    contract: Contract,
    org: Option<&'static str>,
    succeeded: BTreeSet<(String, String)>,
}

impl Checker {
    async fn start(backend: crate::support::Backend, options: Options) -> Self {
        let stage = Stage::set(backend, options).await;
        let contract = Contract::served_by(&stage.app).await;
        Self { stage, contract, org: Some("org"), succeeded: BTreeSet::new() }
    }

    /// Calls an operation with the service key, `fill` in the places of its path. `path` may end in a query.
    async fn call(&mut self, method: &str, path: &str, fill: &[&str], body: Option<Value>) -> Answer {
        let mut headers = vec![("x-api-key", App::service_key()), ("x-user-id", "user_1")];
        headers.extend(self.org.map(|org| ("x-org-id", org)));
        self.send(method, path, fill, &headers, body.map(|body| body.to_string()).unwrap_or_default()).await
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        fill: &[&str],
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let (template, query) =
            path.split_once('?').map_or((path, String::new()), |(path, query)| (path, format!("?{query}")));
        let mut filled = template.to_owned();
        for value in fill {
            let (start, end) = (filled.find('{').expect("a place"), filled.find('}').expect("its end"));
            filled.replace_range(start..=end, value);
        }
        let answer = self.stage.app.send(method, &format!("{filled}{query}"), headers, body).await;
        self.contract.check(method, template, &answer);
        if answer.status < 400 {
            self.succeeded.insert((method.to_owned(), template.to_owned()));
        }
        answer
    }

    /// A call that must succeed.
    async fn done(&mut self, method: &str, path: &str, fill: &[&str], body: Option<Value>) -> Value {
        let answer = self.call(method, path, fill, body).await;
        assert!(answer.status < 400, "{method} {path} {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body).unwrap_or(Value::Null) }
    }

    /// A call that must be refused with this code.
    async fn refused(&mut self, method: &str, path: &str, fill: &[&str], body: Option<Value>, code: &str) {
        let answer = self.call(method, path, fill, body).await;
        assert_eq!(answer.json()["error"], code, "{method} {path}");
    }

    async fn process(&mut self) {
        for path in ["/", "/healthz", "/readyz"] {
            self.done("GET", path, &[], None).await;
            self.done("HEAD", path, &[], None).await;
        }
        for path in [
            "/metrics",
            "/openapi.json",
            "/assets/connected.js",
            "/assets/connected.css",
            "/providers",
            "/admin/health",
            "/admin/health?deep=true",
            "/admin/settings",
            "/admin/doctor",
            "/activity",
            "/activity?window=day",
        ] {
            self.done("GET", path, &[], None).await;
        }
        for path in ["/admin/health/providers", "/admin/actors", "/admin/audit"] {
            self.done("GET", path, &[], None).await;
        }
        self.done("POST", "/admin/cache/rebuild", &[], None).await;
        self.refused("GET", "/activity?window=year", &[], None, "invalid_parameter").await;
        self.refused("GET", "/admin/health?deep=maybe", &[], None, "invalid_parameter").await;
        self.refused("GET", "/?x=%00", &[], None, "invalid_parameter").await;
    }

    async fn destinations(&mut self, sink: &Sink) {
        self.destination("/workspaces/{id}/destination", "ws", sink).await;
        self.destination("/orgs/{id}/destination", "org", sink).await;
        self.done("GET", "/destinations", &[], None).await;
        self.done("GET", "/workspaces", &[], None).await;
        self.done("GET", "/orgs", &[], None).await;
        self.refused("GET", "/orgs/{id}/destination", &["no%20org"], None, "invalid_org_id").await;
        self.done("PUT", "/orgs/{id}/destination", &["org"], Some(json!({"url": sink.url("/in")}))).await;
    }

    /// The life of a destination at this path.
    async fn destination(&mut self, path: &str, id: &str, sink: &Sink) {
        let body = json!({"url": sink.url("/in"), "headers": {"x-team": "tides"}});
        self.done("PUT", path, &[id], Some(body.clone())).await;
        self.done("PUT", path, &[id], Some(body.clone())).await;
        self.done("GET", path, &[id], None).await;
        self.done("POST", &format!("{path}/rotate-secret"), &[id], None).await;
        self.done("POST", &format!("{path}/test"), &[id], None).await;
        self.done("GET", path, &[id], None).await;
        for (body, code) in [
            (json!({"url": "ftp://a.example"}), "invalid_destination_url"),
            (json!({"url": "https://a.example", "headers": 7}), "invalid_destination_header"),
            (json!({}), "missing_required_fields"),
        ] {
            self.refused("PUT", path, &[id], Some(body), code).await;
        }
        self.done("DELETE", path, &[id], None).await;
        self.refused("DELETE", path, &[id], None, "not_found").await;
    }

    /// Connects, adopts, links and subscribes; the connection and its integration.
    async fn connection(&mut self) -> (Connected, String) {
        let id = self.connect().await;
        let provider = sim::find("github").expect("simulated");
        let adopt = |account: u32| {
            let facts = provider.facts(account, 0, signalbox::model::clock::EpochMs(1_771_980_000_000));
            json!({"provider": "github", "externalId": facts.external_id, "orgId": "org", "connectedBy": "me", "accountLogin": "harbor"})
        };
        self.done("POST", "/admin/connections", &[], Some(adopt(3))).await;
        let again = self.done("POST", "/admin/connections", &[], Some(adopt(1))).await;
        assert_eq!(again["id"], id.as_str(), "the org has it already");
        self.refused("POST", "/admin/connections", &[], Some(json!({"provider": "github"})), "missing_required_fields")
            .await;
        let resources = "/connections/{id}/resources";
        let linked = self.done("POST", resources, &[&id], Some(json!({"providerResourceId": 99, "name": "a/b"}))).await;
        self.refused("POST", resources, &[&id], Some(json!({"providerResourceId": 99})), "resource_already_linked")
            .await;
        self.refused("POST", resources, &[&id], Some(json!({})), "missing_provider_resource_id").await;
        let resource = linked["resource"]["id"].as_str().expect("an id").to_owned();
        let connections = self.done("GET", "/connections?status=active&limit=100", &[], None).await;
        let listed = connections["items"].as_array().expect("a list");
        assert!(listed.iter().any(|connection| connection["id"] == id.as_str()));
        self.done("GET", "/connections/{id}", &[&id], None).await;
        self.done("DELETE", "/connections/{id}/resources/{resource}", &[&id, &resource], None).await;
        self.refused("DELETE", "/connections/{id}/resources/{resource}", &[&id, &resource], None, "already_removed")
            .await;
        self.refused("GET", "/connections/{id}", &["in_nowhere"], None, "not_found").await;
        self.done("GET", "/connections/{id}/log?limit=2", &[&id], None).await;
        let connected = Connected { provider, account: 1, connection: id };
        let integration = self.integrations(&connected).await;
        (connected, integration)
    }

    async fn integrations(&mut self, github: &Connected) -> String {
        let facts = github.facts(0, signalbox::model::clock::EpochMs(1_771_980_000_000));
        let list = "/workspaces/{id}/integrations";
        let body = |events: Value| {
            json!({"connectionId": github.connection, "events": events,
            "resources": [{"providerResourceId": facts.resource_id, "name": "harborworks/tide-clock"}]})
        };
        let made = self.done("POST", list, &["ws"], Some(body(json!(["github:push"])))).await;
        self.refused("POST", list, &["ws"], Some(body(json!(["nothing"]))), "unknown_event_key").await;
        self.refused("POST", list, &["ws"], Some(json!({"connectionId": "x", "resources": []})), "invalid_resources")
            .await;
        self.done("GET", list, &["ws"], None).await;
        self.refused("GET", &format!("{list}?status=odd"), &["ws"], None, "invalid_parameter").await;
        let id = made["integrations"][0]["id"].as_str().expect("an id").to_owned();
        let one = "/integrations/{id}";
        self.done("GET", one, &[&id], None).await;
        self.done("PATCH", one, &[&id], Some(json!({"autoSync": true, "destination": {"url": "https://a.example/"}})))
            .await;
        self.done("GET", one, &[&id], None).await;
        self.done("PATCH", one, &[&id], Some(json!({"destination": null}))).await;
        self.refused("PATCH", one, &[&id], Some(json!({"autoSync": "yes"})), "invalid_fields").await;
        id
    }

    async fn events(&mut self, github: &Connected, sink: &Sink) {
        let webhooks = "/webhooks/{provider}";
        let facts = github.facts(1, signalbox::model::clock::EpochMs(1_771_980_000_000));
        let push = github.provider.event("github:push", &facts, github.provider.secret.as_bytes()).expect("known");
        let headers: Vec<_> = push.headers.iter().map(|(name, value)| (&**name, value.as_str())).collect();
        let text = String::from_utf8(push.body.to_vec()).expect("text");
        let accepted = self.send("POST", webhooks, &["github"], &headers, text.clone()).await.json();
        assert_eq!(
            self.send("POST", webhooks, &["github"], &headers, text.clone()).await.json()["status"],
            "duplicate"
        );
        assert_eq!(self.send("POST", webhooks, &["github"], &headers, text + " ").await.status, 401);
        self.send("POST", webhooks, &["nobody"], &[], String::new()).await;
        let trusted = json!({"connectionId": github.connection, "orgId": "org", "deliveryId": "backfill-1", "eventType": "push",
            "payload": {}, "receivedAt": 1_771_980_000});
        let held = [("x-api-key", App::service_key()), ("x-backfill-hold", "true")];
        assert_eq!(self.send("POST", webhooks, &["github"], &held, trusted.to_string()).await.json()["held"], true);
        self.refused("POST", webhooks, &["github"], Some(json!({})), "missing_required_fields").await;
        self.done("POST", "/connections/{id}/release-held", &[&github.connection], None).await;
        self.done("POST", "/connections/{id}/reroute", &[&github.connection], None).await;
        self.refused(
            "POST",
            "/connections/{id}/reroute",
            &[&github.connection],
            Some(json!({"since": 1})),
            "invalid_fields",
        )
        .await;
        let refused = self.done("GET", "/admin/quarantine?limit=5", &[], None).await;
        let refused = refused["items"][0]["id"].as_str().expect("the wrongly signed one").to_owned();
        self.done("GET", "/admin/quarantine/{id}", &[&refused], None).await;
        self.done("POST", "/admin/quarantine/{id}/reverify", &[&refused], None).await;
        self.done("DELETE", "/admin/quarantine/{id}", &[&refused], None).await;
        for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/reverify")] {
            self.refused(method, &format!("/admin/quarantine/{{id}}{path}"), &[&refused], None, "not_found").await;
        }
        self.done("POST", "/admin/quarantine/reverify", &[], None).await;

        sink.wait_for(1, SOON).await.expect("delivered");
        let id = accepted["eventId"].as_str().expect("an id").to_owned();
        for path in ["/events/{id}", "/events/{id}/payload", "/events/{id}/explain"] {
            self.done("GET", path, &[&id], None).await;
            self.refused("GET", path, &["evt_nowhere"], None, "not_found").await;
        }
        self.done("GET", "/events?outcome=routed&held=false", &[], None).await;
        self.refused("GET", "/events?cursor=odd", &[], None, "invalid_parameter").await;
        self.done("POST", "/events/{id}/replay", &[&id], None).await;
        self.done("POST", "/events/{id}/replay", &[&id], Some(json!({"integrationIds": []}))).await;
        self.refused("POST", "/events/{id}/replay", &[&id], Some(json!([])), "invalid_json").await;
    }

    /// Deliveries that die are dead letters, and can be sent again in three ways.
    async fn dead_letters(&mut self, github: &Connected, sink: &Sink) {
        sink.behave("/in", Behaviour::status_only(500));
        let first = self.dead_letter(github, 7).await;
        let second = self.dead_letter(github, 8).await;
        let letters = self.done("GET", "/admin/dlq", &[], None).await;
        // A replay from before may have died with them.
        assert!(letters["items"].as_array().is_some_and(|items| items.len() >= 2), "{letters}");
        sink.behave("/in", Behaviour::ok());
        let delivery = first["deliveries"][0]["id"].as_str().expect("an id").to_owned();
        self.done("GET", "/deliveries/{id}", &[&delivery], None).await;
        self.refused("GET", "/deliveries/{id}", &["dlv_nowhere"], None, "not_found").await;
        self.done("GET", "/deliveries?status=dead&provider=github&limit=1", &[], None).await;
        self.refused("GET", "/deliveries?status=odd", &[], None, "invalid_parameter").await;
        self.done("GET", "/deliveries/count?status=dead", &[], None).await;
        self.done("POST", "/deliveries/{id}/retry", &[&delivery], None).await;
        let many = |ids: Value| Some(json!({"deliveryIds": ids}));
        self.done("POST", "/deliveries/retry", &[], many(json!([second["deliveries"][0]["id"], "dlv_nowhere"]))).await;
        self.refused("POST", "/deliveries/retry", &[], many(json!([])), "missing_required_fields").await;
        self.refused("POST", "/deliveries/retry", &[], many(json!(vec!["dlv_x"; 201])), "invalid_fields").await;
        for letter in [&first, &second] {
            self.until_delivered(&letter["deliveries"][0]["id"]).await;
        }
        sink.behave("/in", Behaviour::status_only(500));
        let second = self.dead_letter(github, 9).await;
        sink.behave("/in", Behaviour::ok());
        let replay = |id: &Value| Some(json!({"deliveryIds": [{"provider": "github", "deliveryId": id}]}));
        self.done("POST", "/admin/dlq/replay", &[], replay(&second["deliveryId"])).await;
        self.refused("POST", "/admin/dlq/replay", &[], replay(&json!("?")), "no_matching_dlq_entries").await;
        self.refused("POST", "/admin/dlq/replay", &[], Some(json!({})), "missing_delivery_ids").await;
        self.done("POST", "/admin/replay/catchup", &[], Some(json!({"installationId": github.connection}))).await;
        self.refused("POST", "/admin/replay/catchup", &[], Some(json!({"installationId": "in_nowhere"})), "not_found")
            .await;
    }

    /// Waits until a delivery is delivered.
    async fn until_delivered(&mut self, id: &Value) {
        let deadline = Instant::now() + SOON;
        while self.done("GET", "/deliveries/{id}", &[id.as_str().expect("an id")], None).await["status"] != "delivered"
        {
            assert!(Instant::now() < deadline, "it is not delivered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// API keys, made, seen and ended.
    async fn keys(&mut self) {
        let made = self.done("POST", "/admin/keys", &[], Some(json!({"name": "test", "scope": "read"}))).await;
        assert_eq!(made["orgId"], "org", "it is bound to the org that is acted for");
        let service = self.done("POST", "/admin/keys", &[], Some(json!({"name": "test", "orgId": null}))).await;
        assert_eq!(service["orgId"], Value::Null);
        self.refused("POST", "/admin/keys", &[], Some(json!({})), "missing_required_fields").await;
        self.refused("POST", "/admin/keys", &[], Some(json!({"name": "x", "scope": "all"})), "invalid_fields").await;
        self.refused("POST", "/admin/keys", &[], Some(json!({"name": "x", "org": "a"})), "invalid_fields").await;
        self.refused("POST", "/admin/keys", &[], Some(json!({"name": "x", "orgId": "a b"})), "invalid_org_id").await;
        self.refused("POST", "/admin/keys", &[], Some(json!({"name": "x", "orgId": "other"})), "forbidden").await;
        self.done("GET", "/admin/keys", &[], None).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        self.done("DELETE", "/admin/keys/{id}", &[&id], None).await;
        self.refused("DELETE", "/admin/keys/{id}", &[&id], None, "not_found").await;
    }

    /// A new event, once its delivery is dead.
    async fn dead_letter(&mut self, github: &Connected, seed: u64) -> Value {
        let accepted = self.stage.app.post_event(github, "github:push", seed).await.1.json();
        let event = accepted["eventId"].as_str().expect("an id").to_owned();
        let deadline = Instant::now() + SOON;
        loop {
            let detail = self.done("GET", "/events/{id}", &[&event], None).await;
            if detail["deliveries"][0]["status"] == "dead" {
                return detail;
            }
            assert!(Instant::now() < deadline, "it does not die: {detail}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connects an account by hand, every hop of the browser checked; the connection's id.
    async fn connect(&mut self) -> String {
        self.refused("GET", "/connections/{provider}/authorize", &["nobody"], None, "unknown_provider").await;
        let elsewhere = "/connections/{provider}/authorize?redirect_to=https://evil.example";
        self.refused("GET", elsewhere, &["github"], None, "invalid_redirect_to").await;
        let begun = self.done("GET", "/connections/{provider}/authorize", &["github"], None).await;
        let state = begun["state"].as_str().expect("a state").to_owned();
        let status = "/connections/oauth/status";
        self.refused("GET", status, &[], None, "missing_state").await;
        assert_eq!(self.done("GET", &format!("{status}?state={state}"), &[], None).await["status"], "pending");
        assert_eq!(self.done("GET", &format!("{status}?state=unknown"), &[], None).await["status"], "expired");

        let launch = "/connect/{provider}/{state}";
        let launched = self.send("GET", launch, &["github", &state], &[], String::new()).await;
        let cookie =
            launched.headers.get("set-cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_owned();
        let mut location = launched.headers.get("location").expect("a location").to_owned();
        let origin = format!("http://{}", self.stage.app.address());
        for _leg in 0..2 {
            let mut browser = Browser::new().stopping_at(&origin).with_visit(Visit::of_account(1));
            let page = browser.visit(&location).await.expect("a page");
            let callback = Url::parse(page.url.as_str()).expect("a URL");
            let path = format!("/connections/{{provider}}/callback?{}", callback.query().expect("a query"));
            let hop = self.send("GET", &path, &["github"], &[("cookie", &cookie)], String::new()).await;
            assert_eq!(hop.status, 302, "{}", String::from_utf8_lossy(&hop.body));
            hop.headers.get("location").expect("a location").clone_into(&mut location);
        }
        let completed = self.done("GET", &format!("{status}?state={state}"), &[], None).await;
        assert_eq!(completed["status"], "completed", "{completed} at {location}");

        for (path, fill) in [("/connections/{provider}/callback", &["github"][..]), (launch, &["github", &state])] {
            let answer = self.send("GET", path, fill, &[], String::new()).await;
            assert_eq!(answer.json()["error"], "invalid_or_expired_state");
            let page = self.send("GET", path, fill, &[("accept", "text/html")], String::new()).await;
            assert_eq!((page.status, page.headers.get("content-type")), (400, Some("text/html; charset=utf-8")));
        }
        completed["connectionId"].as_str().expect("an id").to_owned()
    }

    /// Everything that asks the provider.
    async fn access(&mut self, github: &Connected) {
        let id = [github.connection.as_str()];
        for path in ["/connections/{id}/token", "/connections/{id}/proxy/endpoints"] {
            self.done("GET", path, &id, None).await;
            self.refused("GET", path, &["in_nowhere"], None, "not_found").await;
        }
        self.done("POST", "/connections/{id}/validate", &id, None).await;
        let available = self.done("GET", "/connections/{id}/available-resources", &id, None).await;
        let resource = available["items"][0]["providerResourceId"].as_str().expect("an id").to_owned();
        self.done("GET", &format!("/connections/{{id}}/config?resource={resource}"), &id, None).await;
        self.refused("GET", "/connections/{id}/config", &id, None, "invalid_parameter").await;

        let endpoints = self.done("GET", "/connections/{id}/proxy/endpoints", &id, None).await;
        let plain =
            endpoints["items"].as_array().expect("a list").iter().find(|endpoint| {
                endpoint["method"] == "GET" && !endpoint["path"].as_str().expect("a path").contains('{')
            });
        let call = json!({"endpointId": plain.expect("one without parameters")["id"]});
        self.done("POST", "/connections/{id}/proxy/execute", &id, Some(call)).await;
        self.refused(
            "POST",
            "/connections/{id}/proxy/execute",
            &id,
            Some(json!({"endpointId": "?"})),
            "unknown_endpoint",
        )
        .await;

        let runs = "/connections/{id}/backfill-runs";
        let run = self
            .done("POST", runs, &id, Some(json!({"status": "running", "depth": 30, "entityTypes": ["issue"]})))
            .await;
        let report = json!({"id": run["id"], "status": "completed", "counts": {"issue": 7}});
        self.done("POST", runs, &id, Some(report)).await;
        let back = json!({"id": run["id"], "status": "running"});
        self.refused("POST", runs, &id, Some(back), "invalid_backfill_transition").await;
        self.done("GET", runs, &id, None).await;

        self.done("POST", "/admin/heal", &[], Some(json!({"provider": "github"}))).await;
        self.refused("POST", "/admin/heal", &[], Some(json!({"provider": "nobody"})), "unknown_provider").await;
        self.refused("POST", "/admin/heal", &[], Some(json!({"provider": "linear"})), "not_supported").await;
        self.done("GET", "/admin/heal?provider=github", &[], None).await;

        self.refused("GET", "/connections/{id}/teardown", &id, None, "not_found").await;
        self.done("DELETE", "/connections/{id}", &id, None).await;
        self.done("GET", "/connections/{id}/teardown", &id, None).await;
        self.done("DELETE", "/connections/{provider}/{id}", &["github", id[0]], None).await;
        self.refused("DELETE", "/connections/{provider}/{id}", &["linear", id[0]], None, "not_found").await;
        self.refused("GET", "/connections/{id}/token", &id, None, "installation_not_active").await;
    }

    /// Every operation succeeded, or it is said why not.
    fn is_complete(&self) {
        self.contract.was_kept();
        for operation in self.contract.operations() {
            let was_seen = self.succeeded.contains(&(operation.method.clone(), operation.path.clone()));
            let is_excused = NOT_HERE
                .iter()
                .any(|(method, path, _)| (operation.method.as_str(), operation.path.as_str()) == (*method, *path));
            assert!(
                was_seen != is_excused,
                "{} {}: seen to succeed {was_seen}, excused {is_excused}",
                operation.method,
                operation.path
            );
        }
    }
}

on_both! {
    async fn what_the_gateway_answers_is_what_its_document_says(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut checker = Checker::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")).await;
        checker.process().await;
        checker.destinations(&sink).await;
        let (github, integration) = checker.connection().await;
        checker.destination("/integrations/{id}/destination", &integration, &sink).await;
        checker.events(&github, &sink).await;
        checker.dead_letters(&github, &sink).await;
        checker.done("DELETE", "/integrations/{id}", &[&integration], None).await;
        checker.access(&github).await;
        checker.keys().await;
        checker.is_complete();
        checker.stage.finish().await;
    }
}
