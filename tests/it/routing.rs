//! From event to deliveries: fan-out, filters, changes effective on the next webhook, control events, explanations.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::sim::{self, sink::Sink};

use crate::support::{App, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

async fn outcome(app: &App, to: &Connected, kind: &str, seed: u64) -> String {
    let (_, answer) = app.post_event(to, kind, seed).await;
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    body["outcome"].as_str().expect("an outcome").to_owned()
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
        assert_eq!(events.as_array().map(Vec::len), Some(5), "{events}");
        assert!(events.as_array().is_some_and(|keys| keys.contains(&json!("github:pull-request.merged"))), "{events}");
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
        let facts = provider.facts(1, 1, signalbox::model::clock::Clock::now(&signalbox::model::clock::SystemClock));
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
