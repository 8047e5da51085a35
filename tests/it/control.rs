//! Control events that end what is linked: who loses it, who keeps it, and who is told.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{self, Encoding, Facts, client::Answer, sink::Sink},
};

use crate::support::{App, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

async fn read(app: &App, org: &str, connection: &Connected) -> Value {
    let path = format!("/connections/{}", connection.connection);
    app.operator(org).ask("GET", &path, None).await.expect("the connection")
}

/// The linked resources of a connection, by the provider's ids.
async fn linked(app: &App, org: &str, connection: &Connected) -> Vec<String> {
    let connection = read(app, org, connection).await;
    let resources = connection["resources"].as_array().expect("resources");
    resources.iter().filter_map(|resource| resource["providerResourceId"].as_str().map(str::to_owned)).collect()
}

/// What the connection is.
async fn status(app: &App, connection: &Connected) -> Value {
    read(app, "org", connection).await["status"].clone()
}

/// Posts a body that GitHub signed, under the name of this event.
async fn post_as(app: &App, event: &str, delivery: String, body: &Value) -> Answer {
    let provider = sim::find("github").expect("simulated");
    let headers = vec![("x-github-event", event.to_owned()), ("x-github-delivery", delivery)];
    let request = provider.signing.sign(headers, body.to_string(), provider.secret.as_bytes(), Encoding::Json);
    app.outsider().post_webhook("github", &request).await.expect("an answer")
}

/// Posts a genuine event with these facts; the answer.
async fn post(app: &App, to: &Connected, kind: &str, facts: &Facts) -> Value {
    let request = to.provider.event(kind, facts, to.provider.secret.as_bytes()).expect("a known kind");
    app.outsider().post_webhook(to.provider.slug, &request).await.expect("an answer").json()
}

/// Adopts an invented Vercel account with its configuration id.
async fn adopt_vercel(app: &App, org: &str, account: u32) -> Connected {
    let provider = sim::find("vercel").expect("simulated");
    let facts = provider.facts(account, 0, SystemClock.now());
    let body = json!({"provider": "vercel", "externalId": facts.external_id, "orgId": org, "connectedBy": "operator",
        "alternateExternalId": facts.alternate_external_id});
    let adopted = app.operator(org).ask("POST", "/admin/connections", Some(&body)).await.expect("adopted");
    Connected { provider, account, connection: adopted["id"].as_str().expect("an id").to_owned() }
}

/// Posts a Vercel deployment that names no account but, beside another, the configuration of these facts; the answer.
async fn post_naming_several(app: &App, facts: &Facts) -> Value {
    let provider = sim::find("vercel").expect("simulated");
    let body = json!({"id": "several", "type": "deployment.created", "createdAt": facts.at.0, "payload": {
        "project": {"id": facts.resource_id}, "deployment": {"id": "dpl_1"},
        "installationIds": ["icfg_of_another", facts.alternate_external_id]}});
    let request = provider.signing.sign(Vec::new(), body.to_string(), provider.secret.as_bytes(), Encoding::Json);
    app.outsider().post_webhook("vercel", &request).await.expect("an answer").json()
}

on_both! {
    async fn a_transferred_repository_stays_linked_where_it_moved_to_and_is_released_elsewhere(backend) {
        let app = App::start(backend, Options::default()).await;
        let provider = sim::find("github").expect("simulated");
        let (giving, receiving) = (app.connect("org", provider, 1).await, app.connect("another", provider, 2).await);
        app.subscribe("org", "ws", &giving, None).await;
        // It moved, and was linked where it is now before the webhook came that says so.
        let before = giving.facts(1, SystemClock.now());
        let there = receiving.facts(1, SystemClock.now());
        let moved = Facts { resource_id: before.resource_id.clone(), ..there };
        let keys = ["github:push", "github:repository.transferred"];
        let mut operator = app.operator("another");
        operator.subscribe("ws", &receiving.connection, &moved, Some(&keys)).await.expect("subscribed");

        let answer = post(&app, &receiving, "github:repository.transferred", &moved).await;
        assert_eq!(answer["outcome"], "routed", "{answer}");
        assert_eq!(linked(&app, "org", &giving).await, Vec::<String>::new());
        assert_eq!(linked(&app, "another", &receiving).await, std::slice::from_ref(&moved.resource_id));
        let later = Facts { delivery_id: "later".into(), ..moved };
        let answer = post(&app, &receiving, "github:push", &later).await;
        assert_eq!(answer["outcome"], "routed", "{answer}");
        app.finish().await;
    }

    async fn a_repository_that_moves_between_two_accounts_of_an_org_takes_its_subscriptions_along(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let provider = sim::find("github").expect("simulated");
        let (giving, receiving) = (app.connect("org", provider, 1).await, app.connect("org", provider, 2).await);
        let moving = app.subscribe("org", "ws", &giving, Some(&["github:push"])).await;
        let doubled = app.subscribe("org", "both", &giving, Some(&["github:push"])).await;
        let own = json!({"destination": {"url": sink.url("/own")}});
        app.operator("org").ask("PATCH", &format!("/integrations/{moving}"), Some(&own)).await.expect("its own");
        let before = giving.facts(1, SystemClock.now());
        let moved = |seed| Facts { resource_id: before.resource_id.clone(), ..receiving.facts(seed, SystemClock.now()) };
        let mut operator = app.operator("org");
        operator.subscribe("both", &receiving.connection, &moved(1), Some(&["github:issue.opened"])).await.expect("subscribed");

        for delivery in ["told", "told-again"] {
            let facts = Facts { delivery_id: delivery.into(), ..moved(1) };
            post(&app, &receiving, "github:repository.transferred", &facts).await;
            assert_eq!(linked(&app, "org", &giving).await, [""; 0]);
            assert_eq!(linked(&app, "org", &receiving).await, std::slice::from_ref(&before.resource_id));
            let shown = app.operator("org").ask("GET", &format!("/integrations/{moving}"), None).await.expect("there");
            assert_eq!((&shown["status"], &shown["connectionId"]), (&json!("active"), &json!(receiving.connection)), "{shown}");
            assert_eq!(shown["sourceConfig"]["installationId"], json!(moved(1).external_id), "{shown}");
            let shown = app.operator("org").ask("GET", &format!("/integrations/{doubled}"), None).await.expect("there");
            assert_eq!((&shown["status"], &shown["statusReason"]), (&json!("removed"), &json!("transferred")), "{shown}");
        }
        let answer = post(&app, &receiving, "github:push", &moved(2)).await;
        assert_eq!(answer["outcome"], "routed", "{answer}");
        sink.wait_for(1, SOON).await.expect("where it went before");
        app.finish().await;
    }

    async fn a_transfer_that_is_killed_between_any_two_steps_ends_in_the_same_rows_when_it_is_told_again(backend) {
        let mut app = App::start(backend, Options::default()).await;
        let provider = sim::find("github").expect("simulated");
        for (round, step) in (0..).zip(["receive", "give", "settle"]) {
            let (giving, receiving) =
                (app.connect("org", provider, 10 + 2 * round).await, app.connect("org", provider, 11 + 2 * round).await);
            let moving = app.subscribe("org", "ws", &giving, Some(&["github:push"])).await;
            let before = giving.facts(1, SystemClock.now());
            let told = Facts { delivery_id: format!("told {round}"), ..receiving.facts(1, SystemClock.now()) };
            let moved = Facts { resource_id: before.resource_id, ..told };
            app.kill().await;
            app.set("SIGNALBOX_TEST_CRASH_AFTER", &format!("transfer.{step}"));
            app.restart().await;
            let told = provider.event("github:repository.transferred", &moved, provider.secret.as_bytes());
            let unanswered = app.outsider().post_webhook(provider.slug, &told.expect("a known kind")).await;
            assert!(unanswered.is_err(), "after {step}: nothing is promised before it is done");
            app.crashed().await;
            app.set("SIGNALBOX_TEST_CRASH_AFTER", "");
            app.restart().await;
            post(&app, &receiving, "github:repository.transferred", &moved).await;
            assert_eq!(linked(&app, "org", &giving).await, [""; 0], "after {step}");
            assert_eq!(linked(&app, "org", &receiving).await, std::slice::from_ref(&moved.resource_id), "after {step}");
            let shown = app.operator("org").ask("GET", &format!("/integrations/{moving}"), None).await.expect("there");
            assert_eq!((&shown["status"], &shown["connectionId"]), (&json!("active"), &json!(receiving.connection)), "{shown}");
            assert_eq!(shown["sourceConfig"]["installationId"], json!(moved.external_id), "after {step}: {shown}");
        }
        app.finish().await;
    }

    async fn whoever_subscribed_to_the_end_of_a_repository_is_told_of_it_and_nobody_else(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "wanting", &github, Some(&["github:repository.deleted"])).await;
        app.subscribe("org", "picky", &github, Some(&["github:push"])).await;
        let (_, answer) = app.post_event(&github, "github:repository.deleted", 1).await;
        let answer = answer.json();
        assert_eq!(answer["outcome"], "routed", "{answer}");
        let path = format!("/events/{}", answer["eventId"].as_str().expect("an event id"));
        let event = app.operator("org").ask("GET", &path, None).await.expect("the event");
        let deliveries = event["deliveries"].as_array().expect("deliveries");
        let workspaces: Vec<&Value> = deliveries.iter().map(|delivery| &delivery["workspaceId"]).collect();
        assert_eq!(workspaces, [&json!("wanting")], "{event}");
        assert_eq!(linked(&app, "org", &github).await, Vec::<String>::new());
        let (_, answer) = app.post_event(&github, "github:repository.deleted", 2).await;
        assert_eq!(answer.json()["outcome"], "control", "it has ended already");
        app.finish().await;
    }

    async fn a_body_of_another_event_ends_nothing_whatever_its_header_says(backend) {
        let app = App::start(backend, Options::default()).await;
        let provider = sim::find("github").expect("simulated");
        let github = app.connect("org", provider, 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let facts = github.facts(1, SystemClock.now());
        let number = |id: &str| id.parse::<u64>().expect("a number");
        let installation = json!({"id": number(&facts.external_id)});
        let repository = json!({"id": number(&facts.resource_id), "full_name": facts.resource_slug});
        let bodies = [
            ("installation", json!({"action": "deleted", "projects_v2_item": {"id": 1}})),
            ("repository", json!({"action": "deleted", "starred_at": null, "repository": repository})),
            ("repository", json!({"action": "deleted", "repository_ruleset": {"id": 1}, "repository": repository})),
            ("installation_repositories", json!({"action": "removed", "repositories_removed": [repository], "team": {"id": 1}})),
        ];
        for (number, (event, mut body)) in bodies.into_iter().enumerate() {
            body["installation"] = installation.clone();
            let answer = post_as(&app, event, format!("posing-{number}"), &body).await;
            assert_eq!(answer.status, 200, "{}", answer.json());
            assert_eq!(linked(&app, "org", &github).await, std::slice::from_ref(&facts.resource_id), "{event}: {body}");
        }
        let (_, answer) = app.post_event(&github, "github:push", 2).await;
        assert_eq!(answer.json()["outcome"], "routed", "the grant stands");
        app.finish().await;
    }

    async fn an_event_about_nothing_but_the_grant_needs_no_more_than_its_id(backend) {
        let app = App::start(backend, Options::default()).await;
        let provider = sim::find("github").expect("simulated");
        let github = app.connect("org", provider, 1).await;
        app.subscribe("org", "ws", &github, None).await;
        let facts = github.facts(1, SystemClock.now());
        let id = facts.external_id.parse::<u64>().expect("a number");
        for (action, becomes) in [("suspend", "suspended"), ("unsuspend", "active"), ("deleted", "revoked")] {
            let body = json!({"action": action, "installation": {"id": id}, "sender": {"id": 1}});
            let answer = post_as(&app, "installation", action.to_owned(), &body).await.json();
            assert_eq!(answer["outcome"], "control", "{action}: {answer}");
            assert_eq!(status(&app, &github).await, becomes, "{action}");
        }
        app.finish().await;
    }

    async fn what_is_told_of_a_former_grant_changes_nothing_of_the_one_that_is_held(backend) {
        let app = App::start(backend, Options::default()).await;
        let vercel = adopt_vercel(&app, "org", 1).await;
        app.subscribe("org", "ws", &vercel, None).await;
        let held = vercel.facts(1, SystemClock.now());
        let former = |delivery: &str| Facts {
            delivery_id: delivery.into(),
            alternate_external_id: "icfg_former".into(),
            ..vercel.facts(1, SystemClock.now())
        };
        let moved = Facts {
            external_id: "team_elsewhere".into(),
            previous_external_id: Some(held.external_id.clone()),
            ..former("moved")
        };
        for (kind, facts) in [("permission-withdrawn", former("lost")), ("transferred", moved), ("removed", former("ended"))] {
            let answer = post(&app, &vercel, &format!("vercel:integration-configuration.{kind}"), &facts).await;
            assert_eq!(answer["outcome"], "control", "{kind}: {answer}");
            let shown = read(&app, "org", &vercel).await;
            assert_eq!((&shown["status"], &shown["externalId"]), (&json!("active"), &json!(held.external_id)), "{kind}");
            assert_eq!(linked(&app, "org", &vercel).await, std::slice::from_ref(&held.resource_id), "{kind}");
        }
        post(&app, &vercel, "vercel:integration-configuration.permission-withdrawn", &held).await;
        assert_eq!(linked(&app, "org", &vercel).await, [""; 0], "it was told of the grant that is held");
        app.finish().await;
    }

    async fn an_event_that_names_several_configurations_belongs_to_the_one_that_is_connected(backend) {
        let app = App::start(backend, Options::default()).await;
        let vercel = adopt_vercel(&app, "org", 1).await;
        app.subscribe("org", "ws", &vercel, None).await;
        let facts = vercel.facts(1, SystemClock.now());
        let answer = post_naming_several(&app, &facts).await;
        assert_eq!(answer["outcome"], "routed", "{answer}");
        let path = format!("/events/{}", answer["eventId"].as_str().expect("an id"));
        let event = app.operator("org").ask("GET", &path, None).await.expect("the event");
        assert_eq!(event["externalId"], json!(facts.alternate_external_id), "{event:#}");
        app.finish().await;
    }

    async fn an_unrouted_event_that_names_several_configurations_is_routed_when_one_of_them_is_connected(backend) {
        let app = App::start(backend, Options::default()).await;
        let facts = sim::find("vercel").expect("simulated").facts(1, 0, SystemClock.now());
        let answer = post_naming_several(&app, &facts).await;
        assert_eq!(answer["outcome"], "unrouted", "{answer}");
        let event = format!("/events/{}", answer["eventId"].as_str().expect("an id"));
        // Somebody has linked the project whose configuration the event does not name, and is the only one who has.
        let stranger = adopt_vercel(&app, "another", 2).await;
        app.operator("another").subscribe("ws", &stranger.connection, &facts, None).await.expect("subscribed");
        let reroute = async |org: &str, connection: &Connected| {
            let path = format!("/connections/{}/reroute", connection.connection);
            app.operator(org).ask("POST", &path, Some(&json!({}))).await.expect("rerouted")["routed"].clone()
        };
        assert_eq!(reroute("another", &stranger).await, 0);
        let unrouted = app.operator("another").ask_for_all("GET", &event).await.expect("the event");
        assert_eq!((&unrouted["outcome"], &unrouted["externalId"]), (&json!("unrouted"), &Value::Null), "{unrouted:#}");

        let vercel = adopt_vercel(&app, "org", 1).await;
        app.subscribe("org", "ws", &vercel, None).await;
        assert_eq!(reroute("org", &vercel).await, 1);
        let explained = app.operator("org").ask("GET", &format!("{event}/explain"), None).await.expect("explained");
        let installation = &explained["installation"];
        let found = (&installation["id"], &installation["matchedBy"]);
        assert_eq!(found, (&json!(vercel.connection), &json!("alternate_external_id")), "{explained:#}");
        app.finish().await;
    }

    async fn of_the_first_grant_of_an_account_no_news_is_too_old(backend) {
        let app = App::start(backend, Options::default()).await;
        let provider = sim::find("vercel").expect("simulated");
        let vercel = app.connect("org", provider, 1).await;
        let months_ago = SystemClock.now().minus(std::time::Duration::from_hours(90 * 24));
        let removed = |delivery: &str| Facts { delivery_id: delivery.into(), ..vercel.facts(1, months_ago) };
        let kind = "vercel:integration-configuration.removed";
        assert_eq!(post(&app, &vercel, kind, &removed("first")).await["outcome"], "control");
        assert_eq!(status(&app, &vercel).await, "revoked");

        let again = app.connect("org", provider, 1).await;
        assert_eq!(again.connection, vercel.connection);
        assert_eq!(post(&app, &vercel, kind, &removed("second")).await["outcome"], "control");
        assert_eq!(status(&app, &vercel).await, "active", "that was about the grant before");
        app.finish().await;
    }
}
