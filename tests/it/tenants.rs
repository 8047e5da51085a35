//! S5: nobody sees or changes what is another org's. The walk takes every operation of the served document: without a key,
//! with a key that may only read, with an org's key where a service key is asked for, and with another org's real ids in
//! every place that takes one, which must be answered like ids that do not exist.
//!
//! The tables below say what stands in each place. A place they do not know fails the test: a new route cannot escape.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use signalbox::sim::{self, client::Answer, sink::Sink};

use crate::support::{App, Contract, Operation, Options, on_both};

/// Operations open to everybody. Webhooks vouch for themselves by their signature.
const PUBLIC: &[(&str, &str)] = &[
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/healthz"),
    ("HEAD", "/healthz"),
    ("GET", "/readyz"),
    ("HEAD", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", "/webhooks/{provider}"),
    // The state, and the browser's cookie, say who it is.
    ("GET", "/connect/{provider}/{state}"),
    ("GET", "/connections/{provider}/callback"),
    ("GET", "/assets/connected.js"),
    ("GET", "/assets/connected.css"),
];

/// What an id belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    Resource,
    ProviderResource,
    Integration,
    Event,
    Delivery,
    ProviderDelivery,
    BackfillRun,
    Destination,
    Key,
    State,
    /// A name of the caller's own: every org may have one of the same name.
    Workspace,
    Org,
    /// Not an org's: the same for everybody.
    Shared(&'static str),
}

/// What stands at the places of paths; the path up to there names the place.
const PATHS: &[(&str, Kind)] = &[
    ("/webhooks/{provider}", Kind::Shared("github")),
    ("/connections/{provider}", Kind::Shared("github")),
    ("/connections/{provider}/{id}", Kind::Connection),
    ("/connect/{provider}", Kind::Shared("github")),
    ("/connect/{provider}/{state}", Kind::State),
    ("/connections/{id}", Kind::Connection),
    ("/connections/{id}/resources/{resource}", Kind::Resource),
    ("/workspaces/{id}", Kind::Workspace),
    ("/orgs/{id}", Kind::Org),
    ("/integrations/{id}", Kind::Integration),
    ("/events/{id}", Kind::Event),
    ("/deliveries/{id}", Kind::Delivery),
    ("/admin/keys/{id}", Kind::Key),
    // They belong to no org.
    ("/admin/quarantine/{id}", Kind::Shared("qtn_00000000000000000000000000")),
];

/// What queries name that bodies call otherwise.
const QUERIES: &[(&str, Kind)] = &[
    ("destination", Kind::Destination),
    ("event", Kind::Event),
    ("integration", Kind::Integration),
    ("workspace", Kind::Workspace),
];

/// Members that name something in one operation only.
const OWN_MEMBERS: &[(&str, &str, &str, Kind)] = &[("POST", "/deliveries/retry", "deliveryIds", Kind::Delivery)];

/// What queries and bodies name: the parameter or member, wherever it is.
const MEMBERS: &[(&str, Kind)] = &[
    ("connection", Kind::Connection),
    ("connectionId", Kind::Connection),
    ("installationId", Kind::Connection),
    ("integrationIds", Kind::Integration),
    ("deliveryId", Kind::ProviderDelivery),
    ("orgId", Kind::Org),
    ("providerResourceId", Kind::ProviderResource),
    ("resource", Kind::ProviderResource),
    ("state", Kind::State),
    // Of a body: only the backfill service's reports have one.
    ("id", Kind::BackfillRun),
];

/// Queries and members that name nothing of an org's.
const HARMLESS: &[&str] = &[
    "limit",
    "cursor",
    "offset",
    "provider",
    "status",
    "outcome",
    "eventKey",
    "since",
    "until",
    "held",
    "deep",
    "window",
    "prefix",
    "force",
    "scope",
    "resources",
    "events",
    "name",
    "resourceName",
    "slug",
    "private",
    "archived",
    "url",
    "headers",
    "destination",
    "autoSync",
    "code",
    "error",
    "redirect_to",
    "ref",
    "depth",
    "entityTypes",
    "counts",
    "startedAt",
    "finishedAt",
    "endpointId",
    "pathParams",
    "queryParams",
    "body",
    "eventType",
    "payload",
    "receivedAt",
    "deliveryIds",
    "batchSize",
    "accountLogin",
    "connectedBy",
    "externalId",
    "alternateExternalId",
];

/// Places where a foreign id is no secret, and why: the walk leaves them out.
const EXCUSED: &[(&str, &str, &str, &str)] = &[
    ("POST", "/admin/connections", "orgId", "403 for an org that is not the one acted for, whether it exists or not"),
    ("POST", "/workspaces/{id}/integrations", "providerResourceId", "the provider's id: any org may name it"),
    ("POST", "/connections/{id}/resources", "providerResourceId", "the provider's id: any org may name it"),
];

/// The ids of an org that has one of everything.
#[derive(Debug)]
struct World {
    org: &'static str,
    workspace: &'static str,
    connection: String,
    resource: String,
    provider_resource: String,
    integration: String,
    event: String,
    delivery: String,
    provider_delivery: String,
    backfill_run: String,
    destination: String,
    key: String,
    state: String,
}

impl World {
    async fn make(app: &App, sink: &Sink, org: &'static str, workspace: &'static str, account: u32) -> Self {
        app.set_destination(org, None, &sink.url("/in")).await;
        app.set_destination(org, Some(workspace), &sink.url("/in")).await;
        let github = app.connect(org, sim::find("github").expect("simulated"), account).await;
        let integration = app.subscribe(org, workspace, &github, Some(&["github:push"])).await;
        let own = json!({"url": sink.url("/in")});
        app.operator(org)
            .ask("PUT", &format!("/integrations/{integration}/destination"), Some(&own))
            .await
            .expect("set");
        let (facts, answer) = app.post_event(&github, "github:push", u64::from(account)).await;
        let event = answer.json()["eventId"].as_str().expect("an id").to_owned();
        let detail = app.operator(org).ask("GET", &format!("/events/{event}"), None).await.expect("there");
        let runs = format!("/connections/{}/backfill-runs", github.connection);
        let run = app.operator(org).ask("POST", &runs, Some(&json!({"status": "running"}))).await.expect("a run");
        let begun = app.operator(org).ask("GET", "/connections/github/authorize", None).await.expect("begun");
        let key = json!({"name": "test", "orgId": org});
        let key = app.operator(org).ask("POST", "/admin/keys", Some(&key)).await.expect("a key");
        let text = |member: &str| detail["deliveries"][0][member].as_str().expect("an id").to_owned();
        Self {
            org,
            workspace,
            connection: github.connection,
            resource: text("resourceId"),
            provider_resource: facts.resource_id,
            integration,
            delivery: text("id"),
            provider_delivery: detail["deliveryId"].as_str().expect("an id").to_owned(),
            event,
            backfill_run: run["id"].as_str().expect("an id").to_owned(),
            destination: text("destinationId"),
            key: key["id"].as_str().expect("an id").to_owned(),
            state: begun["state"].as_str().expect("a state").to_owned(),
        }
    }

    /// Ids that nobody has.
    fn nowhere() -> Self {
        let id = |prefix: &str| format!("{prefix}_00000000000000000000000000");
        Self {
            org: "org-nowhere",
            workspace: "ws-nowhere",
            connection: id("in"),
            resource: id("res"),
            provider_resource: "999999999".into(),
            integration: id("int"),
            event: id("evt"),
            delivery: id("dlv"),
            provider_delivery: "00000000-0000-0000-0000-000000000000".into(),
            backfill_run: id("bfr"),
            destination: id("dst"),
            key: id("key"),
            state: "A".repeat(43),
        }
    }

    fn id(&self, kind: Kind) -> &str {
        match kind {
            Kind::Connection => &self.connection,
            Kind::Resource => &self.resource,
            Kind::ProviderResource => &self.provider_resource,
            Kind::Integration => &self.integration,
            Kind::Event => &self.event,
            Kind::Delivery => &self.delivery,
            Kind::ProviderDelivery => &self.provider_delivery,
            Kind::BackfillRun => &self.backfill_run,
            Kind::Destination => &self.destination,
            Kind::Key => &self.key,
            Kind::State => &self.state,
            Kind::Workspace => self.workspace,
            Kind::Org => self.org,
            Kind::Shared(word) => word,
        }
    }

    /// What must never be in an answer to another org.
    fn secrets(&self) -> [&str; 9] {
        [
            &self.destination,
            &self.key,
            &self.backfill_run,
            &self.connection,
            &self.resource,
            &self.integration,
            &self.event,
            &self.delivery,
            &self.provider_delivery,
        ]
    }
}

/// A place of an operation that takes an id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The parameter or member.
    name: String,
    in_path: bool,
    in_query: bool,
    kind: Kind,
}

/// Every place of an operation, known or not at all.
fn places(contract: &Contract, operation: &Operation) -> Vec<Place> {
    let mut places = Vec::new();
    let mut upto = String::new();
    for segment in operation.path.split('/').skip(1) {
        let _ = write!(upto, "/{segment}");
        if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            let known = PATHS.iter().find(|(path, _)| *path == upto);
            let (_, kind) =
                known.unwrap_or_else(|| panic!("the walk does not know what stands at {upto}: add it to PATHS"));
            places.push(Place { name: name.to_owned(), in_path: true, in_query: false, kind: *kind });
        }
    }
    let mut members = BTreeSet::new();
    if let Some(schema) = operation.body() {
        contract.member_names(schema, &mut members);
    }
    let queries = operation.parameters("query").into_iter().map(|name| (name, true));
    for (name, in_query) in queries.chain(members.into_iter().map(|name| (name, false))) {
        let named = MEMBERS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let asked_for = QUERIES.iter().find(|(known, _)| in_query && *known == name).map(|(_, kind)| *kind);
        let own = OWN_MEMBERS.iter().find(|(method, path, known, _)| {
            (operation.method.as_str(), operation.path.as_str(), name.as_str()) == (*method, *path, *known)
        });
        match own.map(|(.., kind)| *kind).or(asked_for).or(named) {
            Some(kind) => places.push(Place { name, in_path: false, in_query, kind }),
            None => assert!(
                HARMLESS.contains(&name.as_str()),
                "the walk does not know what {name} of {} {} names: add it to MEMBERS or HARMLESS",
                operation.method,
                operation.path
            ),
        }
    }
    places
}

impl App {
    /// Waits until an event's delivery is recorded as delivered.
    async fn wait_delivered(&self, org: &str, event: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let detail = self.operator(org).ask("GET", &format!("/events/{event}"), None).await.expect("there");
            if detail["deliveries"][0]["status"] == "delivered" {
                return;
            }
            assert!(Instant::now() < deadline, "it is not delivered: {detail}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Nobody listens there: what would ask the provider is refused at once, and the rest does not need it.
fn unreachable_provider() -> Options {
    Options::default()
        .with("SIGNALBOX_PROVIDERS__GITHUB__API_URL", "http://127.0.0.1:9")
        .with("SIGNALBOX_PROVIDERS__GITHUB__WEB_URL", "http://127.0.0.1:9")
}

struct Walk {
    app: App,
    contract: Contract,
    victim: World,
    thief: World,
    nowhere: World,
    thief_key: String,
}

impl Walk {
    async fn set(app: App, sink: &Sink) -> Self {
        let contract = Contract::served_by(&app).await;
        let victim = World::make(&app, sink, "victim", "ws-of-victim", 1).await;
        let thief = World::make(&app, sink, "thief", "ws-of-thief", 2).await;
        for world in [&victim, &thief] {
            app.wait_delivered(world.org, &world.event).await;
        }
        let thief_key = app.make_key(&["--org", "thief"]);
        Self { app, contract, victim, thief, nowhere: World::nowhere(), thief_key }
    }

    /// Calls an operation; `choose` names whose id stands in each place.
    async fn call(&self, operation: &Operation, headers: &[(&str, &str)], choose: &dyn Fn(&Place) -> String) -> Answer {
        let places = places(&self.contract, operation);
        let mut path = operation.path.clone();
        for place in places.iter().filter(|place| place.in_path) {
            path = path.replacen(&format!("{{{}}}", place.name), &choose(place), 1);
        }
        let queries: Vec<_> = places
            .iter()
            .filter(|place| place.in_query)
            .map(|place| format!("{}={}", place.name, choose(place)))
            .collect();
        let query = if queries.is_empty() { String::new() } else { format!("?{}", queries.join("&")) };
        let member = |name: &str| {
            let place = places.iter().find(|place| !place.in_path && !place.in_query && place.name == name);
            match (place, name) {
                (Some(place), name) if name.ends_with("Ids") => Some(json!([choose(place)])),
                (Some(place), _) => Some(json!(choose(place))),
                (None, "provider") => Some(json!("github")),
                // Nobody listens there.
                (None, "url") => Some(json!("http://127.0.0.1:9/")),
                (None, "headers") => Some(json!({})),
                _ => None,
            }
        };
        let body = operation.body().map(|schema| self.contract.sample(schema, &member).to_string());
        self.app.send(&operation.method, &format!("{path}{query}"), headers, body.unwrap_or_default()).await
    }

    async fn refused(&self, operation: &Operation, headers: &[(&str, &str)], expected: (u16, &str)) {
        let answer = self.call(operation, headers, &|place| self.victim.id(place.kind).to_owned()).await;
        let got = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answer.status, got.as_str()), expected, "{} {} with {headers:?}", operation.method, operation.path);
        self.contract.check(&operation.method, &operation.path, &answer);
    }

    /// The victim's id in one place, the thief's own in the others: answered like an id that nobody has.
    async fn looks_missing(&self, operation: &Operation, places: &[Place], at: usize, headers: &[(&str, &str)]) {
        let place = &places[at];
        let ask = async |theirs: &World| {
            let whose = |place: &Place| {
                let index = places.iter().position(|known| known == place).expect("a place of the operation");
                if index == at { theirs.id(place.kind).to_owned() } else { self.thief.id(place.kind).to_owned() }
            };
            let answer = self.call(operation, headers, &whose).await;
            self.contract.check(&operation.method, &operation.path, &answer);
            answer
        };
        let (real, missing) = (ask(&self.victim).await, ask(&self.nowhere).await);
        let what = format!("{} {} at {} with {headers:?}", operation.method, operation.path, place.name);
        let asked = self.victim.id(place.kind);
        let shown = String::from_utf8_lossy(&real.body).replace(asked, "");
        for secret in self.victim.secrets() {
            assert!(!shown.contains(secret), "{what}: {shown}");
        }
        assert_eq!(
            (real.status, comparable(&real, asked)),
            (missing.status, comparable(&missing, self.nowhere.id(place.kind))),
            "{what}"
        );
        // Workspaces are names, lists and searches find nothing: everything else is not there.
        if place.in_path && place.kind != Kind::Workspace {
            assert_eq!((real.status, &real.json()["error"]), (404, &json!("not_found")), "{what}");
        }
    }

    /// Everything of the victim's that the API shows.
    async fn victims_world(&self) -> Vec<Value> {
        let mut operator = self.app.operator(self.victim.org);
        let mut seen = Vec::new();
        for path in [
            "/connections".to_owned(),
            format!("/connections/{}/log?limit=100", self.victim.connection),
            format!("/workspaces/{}/integrations?status=all", self.victim.workspace),
            format!("/workspaces/{}/destination", self.victim.workspace),
            format!("/orgs/{}/destination", self.victim.org),
            format!("/integrations/{}", self.victim.integration),
            format!("/integrations/{}/destination", self.victim.integration),
            format!("/events/{}", self.victim.event),
            format!("/connections/{}/backfill-runs", self.victim.connection),
            format!("/connections/oauth/status?state={}", self.victim.state),
            "/events".to_owned(),
            "/workspaces".to_owned(),
            "/destinations".to_owned(),
            "/deliveries".to_owned(),
            format!("/deliveries/{}", self.victim.delivery),
            "/admin/keys".to_owned(),
        ] {
            let mut shown = operator.ask("GET", &path, None).await.expect("it is all there");
            forget_times(&mut shown);
            seen.push(shown);
        }
        seen
    }
}

/// Takes out what the gateway notes by itself, beside its requests.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !matches!(name.as_str(), "lastEventAt" | "health"));
            members.values_mut().for_each(forget_times);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// A body with everything taken out that differs from one request to the next.
fn comparable(answer: &Answer, asked: &str) -> Value {
    let text = String::from_utf8_lossy(&answer.body).replace(asked, "<asked>");
    let mut body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    blank(&mut body);
    body
}

fn blank(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), &*member) {
                    (
                        "requestId"
                        | "durationMs"
                        | "createdAt"
                        | "updatedAt"
                        | "previousSecretUntil"
                        | "secret"
                        | "webhookId",
                        _,
                    ) => {
                        *member = json!("<fresh>");
                    }
                    // Rows that the thief made in a workspace of the name asked for.
                    ("id" | "integrationId", Value::String(id)) if id.len() > 20 => *member = json!("<fresh>"),
                    _ => blank(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

on_both! {
    async fn every_operation_of_the_document_asks_for_its_key_and_hides_what_is_anothers(backend) {
        let sink = Sink::start().await.expect("a port");
        let walk = Walk::set(App::start(backend, unreachable_provider()).await, &sink).await;
        let reading = walk.app.make_key(&["--scope", "read"]);
        let before = walk.victims_world().await;
        let operations = walk.contract.operations();
        for operation in &operations {
            let is_public = PUBLIC.contains(&(operation.method.as_str(), operation.path.as_str()));
            let Some(roles) = operation.roles() else {
                assert!(is_public, "{} {} is open to everybody and not in PUBLIC", operation.method, operation.path);
                let answer = walk.call(operation, &[], &|place| walk.victim.id(place.kind).to_owned()).await;
                assert!(answer.json()["error"] != "unauthorized", "{} {}", operation.method, operation.path);
                continue;
            };
            assert!(!is_public, "{} {} is in PUBLIC and asks for a key", operation.method, operation.path);
            let asks_for = |role: &str| roles.iter().any(|known| known == role);
            walk.refused(operation, &[], (401, "unauthorized")).await;
            // Once each: whoever presents many wrong keys waits for it.
            let wrong = if asks_for("write") { ("authorization", "Bearer wrong") } else { ("x-api-key", "wrong") };
            walk.refused(operation, &[wrong, ("x-org-id", "victim")], (401, "unauthorized")).await;
            if asks_for("write") {
                walk.refused(operation, &[("x-api-key", &reading), ("x-org-id", "victim")], (403, "insufficient_scope")).await;
            }
            if asks_for("service") {
                walk.refused(operation, &[("x-api-key", &walk.thief_key)], (403, "service_key_required")).await;
            }
            walk.refused(operation, &[("x-api-key", &walk.thief_key), ("x-org-id", "victim")], (403, "forbidden")).await;
        }
        for operation in &operations {
            let Some(roles) = operation.roles() else { continue };
            let places = places(&walk.contract, operation);
            for (at, place) in places.iter().enumerate() {
                let is_excused = EXCUSED.iter().any(|(method, path, name, _)| {
                    (operation.method.as_str(), operation.path.as_str(), place.name.as_str()) == (*method, *path, *name)
                });
                if is_excused || matches!(place.kind, Kind::Shared(_)) {
                    continue;
                }
                if !roles.iter().any(|role| role == "service") {
                    walk.looks_missing(operation, &places, at, &[("x-api-key", &walk.thief_key)]).await;
                }
                let service = [("x-api-key", App::service_key()), ("x-org-id", "thief")];
                walk.looks_missing(operation, &places, at, &service).await;
            }
        }
        walk.contract.was_kept();
        assert_eq!(walk.victims_world().await, before, "what is the victim's is as it was");
        walk.app.finish().await;
    }
}
