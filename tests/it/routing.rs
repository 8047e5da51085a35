//! From event to deliveries: fan-out, filters, changes effective on the next webhook, control events, explanations.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{self, Encoding, SignedRequest, SimulatedProvider, sink::Sink},
};

use crate::support::{App, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

async fn outcome(app: &App, to: &Connected, kind: &str, seed: u64) -> String {
    let (_, answer) = app.post_event(to, kind, seed).await;
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    body["outcome"].as_str().expect("an outcome").to_owned()
}

/// A genuine event of that kind without whatever names its account.
fn nameless_event(provider: &SimulatedProvider, kind: &str, account: u32, nameless: fn(&mut Value)) -> SignedRequest {
    let facts = provider.facts(account, u64::from(account), SystemClock.now());
    let request = provider.event(kind, &facts, provider.secret.as_bytes()).expect("known");
    let mut body: Value = serde_json::from_slice(&request.body).expect("JSON");
    nameless(&mut body);
    let is_made_anew = |name: &str| [provider.signing.header, "content-type"].contains(&name);
    let headers = request.headers.into_iter().filter(|(name, _)| !is_made_anew(name)).collect();
    provider.signing.sign(headers, body.to_string(), provider.secret.as_bytes(), Encoding::Json)
}

async fn integration(app: &App, id: &str) -> Value {
    app.operator("org").ask("GET", &format!("/integrations/{id}"), None).await.expect("the integration")
}

on_both! {
    async fn exactly_one_outcome_per_webhook(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let stranger = app.connect("org", sim::find("github").expect("simulated"), 2).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let webhooks = [
            (&github, "github:push", "routed"),
            (&github, "github:issue.opened", "filtered"),
            (&stranger, "github:push", "unrouted"),
            (&github, "github:ping", "ignored"),
            (&github, "github:installation.new-permissions-accepted", "control"),
        ];
        for (seed, (to, kind, expected)) in (1..).zip(webhooks) {
            let (_, first) = app.post_event(to, kind, seed).await;
            assert_eq!(first.json()["outcome"], expected, "{kind}");
            // A second copy changes nothing, and has no outcome of its own.
            let (_, second) = app.post_event(to, kind, seed).await;
            assert_eq!((second.json()["status"].as_str(), second.json().get("outcome")), (Some("duplicate"), None), "{kind}");
        }
        let refused = app.send("POST", "/webhooks/github", &[("x-hub-signature-256", "sha256=00")], "{}").await;
        assert_eq!(refused.status, 401);
        let health = app.health(true).await;
        let each_once = json!({"routed": 1, "filtered": 1, "unrouted": 1, "ignored": 1, "control": 1});
        assert_eq!(health["census"]["events"], each_once, "{health:#}");
        let ledger = &health["ledger"];
        let counted = ["received", "stored", "duplicates", "refused"].map(|name| ledger[name].as_u64());
        assert_eq!(counted, [Some(11), Some(5), Some(5), Some(1)], "{ledger:#}");
        assert_eq!(health["adds_up"], json!(true));
        app.finish().await;
    }

    async fn an_event_reaches_every_subscribed_workspace_and_the_decision_says_why_others_did_not_get_it(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let wanting = app.subscribe("org", "one", &github, Some(&["github:push"])).await;
        let by_category = app.subscribe("org", "two", &github, Some(&["push"])).await;
        let other = app.subscribe("org", "three", &github, Some(&["github:issue.opened"])).await;
        let paused = app.subscribe("org", "four", &github, Some(&["github:push"])).await;
        let path = format!("/integrations/{paused}");
        app.operator("org").ask("PATCH", &path, Some(&json!({"autoSync": false}))).await.expect("paused");

        let (_, answer) = app.post_event(&github, "github:push", 1).await;
        let event = answer.json()["eventId"].as_str().expect("an id").to_owned();
        let received = sink.wait_for(2, SOON).await.expect("delivered");
        let mut workspaces: Vec<_> =
            received.iter().filter_map(|r| r.envelope.as_ref().map(|e| e.workspace_id.clone())).collect();
        workspaces.sort();
        assert_eq!(workspaces, ["one", "two"]);

        let explained =
            app.operator("org").ask("GET", &format!("/events/{event}/explain"), None).await.expect("explained");
        let text = explained.to_string();
        for id in [&wanting, &by_category, &other, &paused] {
            assert!(text.contains(id.as_str()), "{id} is missing in {explained:#}");
        }
        assert!(text.contains("filtered:event_not_allowed") && text.contains("filtered:paused"), "{explained:#}");
        app.finish().await;
    }

    async fn changes_are_effective_on_the_very_next_webhook(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        assert_eq!(outcome(&app, &github, "github:push", 1).await, "unrouted");
        let id = app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        assert_eq!(outcome(&app, &github, "github:push", 2).await, "routed");
        let path = format!("/integrations/{id}");
        app.operator("org").ask("PATCH", &path, Some(&json!({"events": ["release"]}))).await.expect("changed");
        assert_eq!(outcome(&app, &github, "github:push", 3).await, "filtered");
        assert_eq!(outcome(&app, &github, "github:release.created", 4).await, "routed");
        app.operator("org").ask("DELETE", &path, None).await.expect("ended");
        assert_eq!(outcome(&app, &github, "github:release.created", 5).await, "unrouted");
        let unknown = app.operator("org").call("PATCH", &path, Some(&json!({"events": ["github:nothing"]}))).await;
        let unknown = unknown.expect("an answer");
        assert_eq!((unknown.status, unknown.json()["error"].as_str()), (400, Some("unknown_event_key")));
        app.finish().await;
    }

    async fn a_category_is_expanded_when_it_is_written(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let id = app.subscribe("org", "ws", &github, Some(&["pull_request"])).await;
        let events = integration(&app, &id).await["sourceConfig"]["sync"]["events"].clone();
        let keys = events.as_array().expect("a list");
        for key in ["github:pull-request.merged", "github:pull-request.synchronize"] {
            assert!(keys.contains(&json!(key)), "{key}: {events}");
        }
        assert!(keys.iter().all(|key| key.as_str().is_some_and(|key| key.starts_with("github:pull-request."))), "{events}");
        app.finish().await;
    }

    async fn a_suspended_installation_does_not_route_and_a_resumed_one_does(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let id = app.subscribe("org", "ws", &github, None).await;
        assert_eq!(outcome(&app, &github, "github:installation.suspend", 1).await, "control");
        assert_eq!(integration(&app, &id).await["status"], "suspended");
        assert_eq!(outcome(&app, &github, "github:push", 2).await, "unrouted");
        assert_eq!(outcome(&app, &github, "github:installation.unsuspend", 3).await, "control");
        assert_eq!(outcome(&app, &github, "github:push", 4).await, "routed");
        app.finish().await;
    }

    async fn an_uninstall_at_any_provider_revokes_the_connection_and_its_integrations(backend) {
        let app = App::start(backend, Options::default()).await;
        let uninstalls = [
            ("github", "github:installation.deleted"),
            ("vercel", "vercel:integration-configuration.removed"),
            ("linear", "linear:oauth-app.revoked"),
            ("sentry", "sentry:installation.deleted"),
        ];
        for (slug, kind) in uninstalls {
            let provider = sim::find(slug).expect("simulated");
            let connected = app.connect("org", provider, 1).await;
            let id = app.subscribe("org", "ws", &connected, None).await;
            assert_eq!(outcome(&app, &connected, kind, 1).await, "control", "{kind}");
            let path = format!("/connections/{}", connected.connection);
            let connection = app.operator("org").ask("GET", &path, None).await.expect("the connection");
            assert_eq!(connection["status"], "revoked", "{slug}: {connection}");
            assert_eq!(connection["resources"], json!([]), "{slug}: {connection}");
            assert_eq!(integration(&app, &id).await["status"], "revoked", "{slug}");
            assert_eq!(outcome(&app, &connected, provider.keys[0], 2).await, "unrouted", "{slug}");
            // The same account can be connected anew, by anybody.
            let again = app.connect("another", provider, 1).await;
            assert_ne!(again.connection, connected.connection);
        }
        app.finish().await;
    }

    async fn a_connection_of_ten_thousand_subscriptions_is_uninstalled_like_any_other(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let ten_thousand = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)";
        app.write_rows(&format!(
            "INSERT INTO gw_resources (id, installation_id, provider_resource_id, kind, attrs, status, created_at, updated_at) \
             {ten_thousand} SELECT r.id || '_' || i, r.installation_id, '9000' || i, r.kind, r.attrs, r.status, r.created_at, \
             r.updated_at FROM gw_resources r, n"
        ))
        .await;
        app.write_rows(&format!(
            "INSERT INTO workspace_integrations (id, org_id, workspace_id, provider, installation_id, resource_id, source_config, \
             status, created_at, updated_at) {ten_thousand} SELECT g.id || '_' || i, g.org_id, g.workspace_id, g.provider, \
             g.installation_id, g.resource_id || '_' || i, g.source_config, g.status, g.created_at, g.updated_at \
             FROM workspace_integrations g, n"
        ))
        .await;
        // Late for its own acknowledgement it may be, as whatever a provider sends again.
        let until = Instant::now() + SOON;
        loop {
            let (_, answer) = app.post_event(&github, "github:installation.deleted", 1).await;
            assert!(answer.status == 200 || Instant::now() < until, "{}", answer.json());
            if answer.status == 200 {
                break;
            }
        }
        let revoked = "SELECT COUNT(*) FROM workspace_integrations WHERE status = 'revoked' AND status_reason = 'provider_revoked'";
        assert_eq!(app.count(revoked).await, 10_000);
        assert_eq!(app.count("SELECT COUNT(*) FROM gw_resources WHERE status = 'removed'").await, 10_000);
        assert_eq!(app.count("SELECT COUNT(*) FROM gw_lifecycle_log WHERE action = 'resource.removed'").await, 10_000);
        app.finish().await;
    }

    async fn a_renamed_repository_is_known_by_its_new_name(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let id = app.subscribe("org", "ws", &github, None).await;
        let before = integration(&app, &id).await["sourceConfig"]["repoFullName"].clone();
        let (facts, answer) = app.post_event(&github, "github:repository.archived", 1).await;
        assert_eq!(answer.status, 200);
        let after = integration(&app, &id).await;
        assert_eq!(after["sourceConfig"]["isArchived"], json!(true), "{after}");
        assert_eq!(after["sourceConfig"]["repoId"], json!(facts.resource_id));
        assert!(after["sourceConfig"]["sync"]["events"].as_array().is_some_and(|events| !events.is_empty()));
        assert!(before.is_string(), "{before}");
        app.finish().await;
    }

    async fn an_unrouted_event_is_kept_and_routed_when_its_link_appears(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let provider = sim::find("github").expect("simulated");
        // Before anybody has connected the account …
        let facts = provider.facts(1, 1, SystemClock.now());
        let early = provider.event("github:push", &facts, provider.secret.as_bytes()).expect("known");
        let answer = app.outsider().post_webhook("github", &early).await.expect("an answer").json();
        assert_eq!(answer["outcome"], "unrouted", "{answer}");
        // … and before anybody has subscribed.
        let github = app.connect("org", provider, 1).await;
        assert_eq!(outcome(&app, &github, "github:push", 2).await, "unrouted");
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let path = format!("/connections/{}/reroute", github.connection);
        app.operator("org").ask("POST", &path, Some(&json!({}))).await.expect("rerouted");
        sink.wait_for(2, SOON).await.expect("both were delivered");
        app.operator("org").ask("POST", &path, Some(&json!({}))).await.expect("rerouted");
        app.finish().await;
        assert_eq!(sink.total(), 2, "rerouting again delivers nothing again");
    }

    async fn an_unrouted_event_that_names_no_account_or_only_the_second_id_of_one_is_routed_when_its_link_appears(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let post = async |slug: &str, kind: &str, account: u32, nameless: fn(&mut Value)| {
            let provider = sim::find(slug).expect("simulated");
            let request = nameless_event(provider, kind, account, nameless);
            let answer = app.outsider().post_webhook(slug, &request).await.expect("an answer").json();
            assert_eq!(answer["outcome"], "unrouted", "{answer}");
            answer["eventId"].as_str().expect("an id").to_owned()
        };
        let without_installation: fn(&mut Value) = |body| body["installation"] = Value::Null;
        let without_team: fn(&mut Value) = |body| {
            body["payload"]["team"] = Value::Null;
            body["payload"]["user"] = Value::Null;
        };
        let push = post("github", "github:push", 1, without_installation).await;
        let contested = post("github", "github:push", 2, without_installation).await;
        let deployment = post("vercel", "vercel:deployment.created", 1, without_team).await;

        let mut operator = app.operator("org");
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        // Another account's repository, which that account has linked too: whose event it is nobody can say.
        let other = app.connect("org", sim::find("github").expect("simulated"), 2).await;
        app.subscribe("org", "ws", &other, Some(&["github:push"])).await;
        operator.subscribe("ws", &github.connection, &other.facts(0, SystemClock.now()), None).await.expect("subscribed");
        let vercel = sim::find("vercel").expect("simulated");
        let facts = vercel.facts(1, 0, SystemClock.now());
        let adopting = json!({"provider": "vercel", "externalId": facts.external_id, "orgId": "org", "connectedBy": "me",
            "alternateExternalId": facts.alternate_external_id});
        let adopted = operator.ask("POST", "/admin/connections", Some(&adopting)).await.expect("adopted");
        let vercel = adopted["id"].as_str().expect("an id").to_owned();
        operator.subscribe("ws", &vercel, &facts, None).await.expect("subscribed");

        for (connection, routed) in [(&github.connection, 1), (&other.connection, 0), (&vercel, 1)] {
            let path = format!("/connections/{connection}/reroute");
            let done = operator.ask("POST", &path, Some(&json!({}))).await.expect("rerouted");
            assert_eq!(done["routed"], json!(routed), "{done}");
        }
        sink.wait_for(2, SOON).await.expect("both are delivered");
        for (event, outcome) in [(&push, "routed"), (&contested, "unrouted"), (&deployment, "routed")] {
            // What nobody has is seen without an org.
            let event = operator.ask_for_all("GET", &format!("/events/{event}")).await.expect("the event");
            assert_eq!(event["outcome"], outcome, "{event:#}");
        }
        app.finish().await;
        assert_eq!(sink.total(), 2);
    }

    async fn a_held_event_stays_held_when_its_link_appears_and_a_person_may_replay_it(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let facts = github.facts(1, SystemClock.now());
        let push = github.provider.event("github:push", &facts, b"unused").expect("known");
        let payload: Value = serde_json::from_slice(&push.body).expect("JSON");
        let body = json!({"connectionId": github.connection, "orgId": "org", "deliveryId": "b-1", "eventType": "push",
            "payload": payload, "receivedAt": SystemClock.now().0});
        let headers = [("x-api-key", App::service_key()), ("x-backfill-hold", "true")];
        let accepted = app.send("POST", "/webhooks/github", &headers, body.to_string()).await.json();
        assert_eq!((&accepted["outcome"], &accepted["held"]), (&json!("unrouted"), &json!(true)), "{accepted}");
        let event = format!("/events/{}", accepted["eventId"].as_str().expect("an id"));

        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let mut operator = app.operator("org");
        let connection = format!("/connections/{}", github.connection);
        let done = operator.ask("POST", &format!("{connection}/reroute"), Some(&json!({}))).await.expect("rerouted");
        assert_eq!(done["routed"], 1, "{done}");
        let delivery = operator.ask("GET", &event, None).await.expect("the event")["deliveries"][0].clone();
        assert_eq!(delivery["status"], "held", "{delivery}");
        let retry = format!("/deliveries/{}/retry", delivery["id"].as_str().expect("an id"));
        let refused = operator.call("POST", &retry, None).await.expect("an answer");
        let refusal = refused.json();
        let told = (refused.status, &refusal["error"], &refusal["deliveryStatus"]);
        assert_eq!(told, (409, &json!("delivery_not_retryable"), &json!("held")), "{refusal}");

        operator.ask("POST", &format!("{event}/replay"), Some(&json!({}))).await.expect("replayed");
        sink.wait_for(1, SOON).await.expect("whoever replays it wants it now");
        let released = operator.ask("POST", &format!("{connection}/release-held"), None).await.expect("released");
        assert_eq!(released["released"], 1, "{released}");
        sink.wait_for(2, SOON).await.expect("and then it is let go");
        app.finish().await;
        assert_eq!(sink.total(), 2);
    }

    async fn late_binding_routes_by_itself_when_it_is_switched_on(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default().with("SIGNALBOX_INGEST__LATE_BINDING", "auto")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        assert_eq!(outcome(&app, &github, "github:push", 1).await, "unrouted");
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        sink.wait_for(1, SOON).await.expect("it was delivered by itself");
        app.finish().await;
    }

    async fn late_binding_survives_the_process_that_heard_of_the_link(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        assert_eq!(outcome(&app, &github, "github:push", 1).await, "unrouted");
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        app.set("SIGNALBOX_INGEST__LATE_BINDING", "auto");
        app.kill().await;
        app.restart().await;
        sink.wait_for(1, SOON).await.expect("it was delivered by itself");
        app.finish().await;
    }

    async fn an_event_that_was_on_its_way_when_its_link_was_made_is_bound_to_it_too(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default().with("SIGNALBOX_INGEST__LATE_BINDING", "auto")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        for seed in [1, 2] {
            assert_eq!(outcome(&app, &github, "github:push", seed).await, "unrouted");
        }
        // Planned without the link, and committed after everything that waited for it was looked at.
        let becomes = async |from: &str, to: &str| {
            let seen = "(SELECT MIN(id) FROM gw_events)";
            app.execute(&format!("UPDATE gw_events SET outcome = '{to}' WHERE outcome = '{from}' AND id <> {seen}")).await;
        };
        becomes("unrouted", "ignored").await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        sink.wait_for(1, SOON).await.expect("what waited goes out at once");
        becomes("ignored", "unrouted").await;
        sink.wait_for(2, SOON).await.expect("and so does what came late");
        app.finish().await;
    }

    async fn a_foreign_org_sees_and_changes_nothing(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let integration = app.subscribe("org", "ws", &github, None).await;
        let (_, answer) = app.post_event(&github, "github:push", 1).await;
        let event = answer.json()["eventId"].as_str().expect("an id").to_owned();
        let mut foreign = app.operator("another");
        let calls = [
            ("GET", format!("/connections/{}", github.connection), None),
            ("GET", format!("/connections/{}/log", github.connection), None),
            ("POST", format!("/connections/{}/resources", github.connection), Some(json!({"providerResourceId": "1"}))),
            ("POST", format!("/connections/{}/reroute", github.connection), Some(json!({}))),
            ("POST", format!("/connections/{}/release-held", github.connection), None),
            ("GET", format!("/integrations/{integration}"), None),
            ("PATCH", format!("/integrations/{integration}"), Some(json!({"events": []}))),
            ("DELETE", format!("/integrations/{integration}"), None),
            ("GET", format!("/events/{event}"), None),
            ("GET", format!("/events/{event}/payload"), None),
            ("GET", format!("/events/{event}/explain"), None),
            ("POST", format!("/events/{event}/replay"), Some(json!({}))),
            ("GET", "/orgs/org/destination".to_owned(), None),
        ];
        for (method, path, body) in calls {
            let answer = foreign.call(method, &path, body.as_ref()).await.expect("an answer");
            assert_eq!((answer.status, answer.json()["error"].as_str()), (404, Some("not_found")), "{method} {path}");
        }
        let taken = json!({"provider": "github", "externalId": github.facts(0, signalbox::model::clock::EpochMs(0)).external_id,
            "orgId": "another", "connectedBy": "thief"});
        let answer = foreign.call("POST", "/admin/connections", Some(&taken)).await.expect("an answer");
        assert_eq!((answer.status, answer.json()["error"].as_str()), (409, Some("installation_already_bound")));
        for path in ["/events", "/connections", "/admin/dlq", "/admin/audit"] {
            let list = foreign.ask("GET", path, None).await.expect("a list");
            assert_eq!(list["items"], json!([]), "{path}: {list}");
        }
        app.finish().await;
    }
}
