//! Delivering: signatures, retries, dead letters and their mending, destinations that misbehave, stopping.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self,
        sink::{Behaviour, Sink},
    },
};

use crate::support::{App, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

async fn connected(app: &App) -> Connected {
    let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
    app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
    github
}

async fn post(app: &App, to: &Connected, seed: u64) -> String {
    let (_, answer) = app.post_event(to, "github:push", seed).await;
    let body = answer.json();
    assert_eq!((answer.status, body["status"].as_str()), (200, Some("accepted")), "{body}");
    body["eventId"].as_str().expect("an id").to_owned()
}

/// Asks until the first delivery of the event has that status.
async fn until_status(app: &App, event: &str, status: &str) -> Value {
    until(app, event, |detail| detail["deliveries"][0]["status"] == status).await
}

/// Asks until the event is as it should be.
async fn until(app: &App, event: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/events/{event}");
    let asked = async {
        loop {
            let detail = app.operator("org").ask("GET", &path, None).await.expect("the event");
            if is_so(&detail) {
                return detail;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, asked).await.unwrap_or_else(|_| panic!("{event} never was so"))
}

on_both! {
    async fn an_envelope_carries_what_the_contract_says_and_any_standard_webhooks_library_verifies_it(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let secret = app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let (facts, _) = app.post_event(&github, "github:push", 1).await;
        let received = sink.wait_for(1, SOON).await.expect("delivered").remove(0);

        let library = standardwebhooks::Webhook::new(&secret).expect("a secret of that form");
        let mut headers = signature_headers(&received);
        library.verify(&received.body, &headers).expect("genuine");
        headers.insert("webhook-id", "dlv_other".parse().expect("a value"));
        library.verify(&received.body, &headers).expect_err("the id is signed");

        let envelope: Value = serde_json::from_slice(&received.body).expect("JSON");
        let members: Vec<_> = envelope.as_object().expect("an object").keys().cloned().collect();
        let mut expected = vec!["eventId", "deliveryId", "connectionId", "orgId", "provider", "eventType", "eventKey",
            "workspaceId", "integrationId", "resourceId", "receivedAt", "payload"];
        expected.sort_unstable();
        let mut found: Vec<_> = members.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(envelope["deliveryId"], json!(facts.delivery_id));
        assert_eq!((envelope["eventType"].as_str(), envelope["eventKey"].as_str()), (Some("push"), Some("github:push")));
        assert!(received.webhook_id.starts_with("dlv_"));
        assert_eq!(received.headers.get("content-type"), Some("application/json"));
        assert!(received.headers.get("user-agent").is_some_and(|agent| agent.starts_with("Signalbox/")));
        assert!(received.headers.get("x-correlation-id").is_some());
        app.finish().await;
    }

    async fn a_failing_destination_is_retried_with_the_same_id_until_it_succeeds(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::FailFirst { times: 2, with: Box::new(Behaviour::status_only(500)) });
        let app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1,1,1")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        let detail = until_status(&app, &event, "delivered").await;
        let received = sink.received();
        assert_eq!(received.len(), 3);
        assert!(received.iter().all(|r| r.webhook_id == received[0].webhook_id));
        let attempts = detail["deliveries"][0]["attempts"].clone();
        let attempts = attempts.as_array().cloned().or_else(|| detail["attempts"].as_array().cloned());
        assert_eq!(attempts.map(|a| a.len()), Some(3), "{detail:#}");
        app.finish().await;
    }

    async fn a_dead_letter_that_is_retried_has_its_whole_schedule_again_and_its_attempts_are_numbered_on(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(500));
        let app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        let detail = until_status(&app, &event, "dead").await;
        let retry = format!("/deliveries/{}/retry", detail["deliveries"][0]["id"].as_str().expect("an id"));
        app.operator("org").ask("POST", &retry, None).await.expect("retried");
        let detail = until(&app, &event, |detail| {
            let delivery = &detail["deliveries"][0];
            delivery["status"] == "dead" && delivery["attemptCount"] == 4
        }).await;
        let attempts = detail["deliveries"][0]["attempts"].as_array().expect("attempts");
        let numbers: Vec<_> = attempts.iter().filter_map(|attempt| attempt["number"].as_u64()).collect();
        assert_eq!(numbers, [1, 2, 3, 4], "a try and a retry, twice");
        app.finish().await;
    }

    async fn a_delivery_that_used_up_its_attempts_is_a_dead_letter_and_can_be_replayed(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(500));
        let app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let (facts, answer) = app.post_event(&github, "github:push", 1).await;
        let event = answer.json()["eventId"].as_str().expect("an id").to_owned();
        until_status(&app, &event, "dead").await;
        assert_eq!(sink.total(), 2, "one try and one retry");

        let mut operator = app.operator("org");
        let dlq = operator.ask("GET", "/admin/dlq", None).await.expect("the list");
        assert_eq!((dlq["limit"].as_i64(), dlq["offset"].as_i64()), (Some(50), Some(0)), "{dlq}");
        assert_eq!(dlq["items"].as_array().map(Vec::len), Some(1), "{dlq}");
        let missing = operator.call("POST", "/admin/dlq/replay", Some(&json!({}))).await.expect("an answer");
        assert_eq!((missing.status, missing.json()["error"].as_str()), (400, Some("missing_delivery_ids")));
        let unknown = json!({"deliveryIds": [{"provider": "github", "deliveryId": "nothing"}]});
        let unknown = operator.call("POST", "/admin/dlq/replay", Some(&unknown)).await.expect("an answer");
        assert_eq!((unknown.status, unknown.json()["error"].as_str()), (404, Some("no_matching_dlq_entries")));
        assert!(unknown.json()["requestedIds"].is_array());

        sink.behave("/in", Behaviour::ok());
        let known = json!({"provider": "github", "deliveryId": facts.delivery_id});
        let twice = json!({"deliveryIds": [known, known]});
        let replayed = operator.ask("POST", "/admin/dlq/replay", Some(&twice)).await.expect("replayed");
        let once = json!({"status": "replayed", "replayed": [facts.delivery_id], "skipped": [], "failed": []});
        assert_eq!(replayed, once, "an id that is named twice ends in one place");
        until_status(&app, &event, "delivered").await;
        let ids: Vec<_> = sink.received().iter().map(|r| r.webhook_id.clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
        app.finish().await;
    }

    async fn catching_up_replays_what_an_installation_missed_in_batches(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(400));
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "1000");
        let app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let mut events = Vec::new();
        for seed in 0..5 {
            events.push(post(&app, &github, seed).await);
        }
        for event in &events {
            until_status(&app, event, "dead").await;
        }
        sink.behave("/in", Behaviour::ok());
        let mut operator = app.operator("org");
        let request = json!({"installationId": github.connection, "batchSize": 3});
        let first = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
        assert_eq!((first["status"].as_str(), first["remaining"].as_i64()), (Some("replayed"), Some(2)), "{first}");
        let second = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
        assert_eq!((second["replayed"].as_array().map(Vec::len), second["remaining"].as_i64()), (Some(2), Some(0)), "{second}");
        for event in &events {
            until_status(&app, event, "delivered").await;
        }
        let third = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
        assert_eq!(third, json!({"status": "empty"}));
        app.finish().await;
    }

    async fn catching_up_finds_what_routes_now_behind_any_number_that_do_not(backend) {
        const STUCK: u64 = 1_100;
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let post_of = async |repository: u64, seed: u64| {
            let mut facts = github.facts(seed, SystemClock.now());
            facts.resource_id = repository.to_string();
            let push = github.provider.event("github:push", &facts, github.provider.secret.as_bytes()).expect("known");
            let answer = app.outsider().post_webhook("github", &push).await.expect("an answer").json();
            assert_eq!(answer["outcome"], "unrouted", "{answer}");
            facts
        };
        let stuck: Vec<_> = stream::iter(0..STUCK).map(|seed| post_of(1, seed)).buffer_unordered(16).collect().await;
        assert_eq!(stuck.len() as u64, STUCK);
        let mut linked = Vec::new();
        for seed in STUCK..STUCK + 3 {
            linked.push(post_of(2, seed).await);
        }
        let mut operator = app.operator("org");
        operator.subscribe("ws", &github.connection, &linked[0], Some(&["github:push"])).await.expect("subscribed");
        let request = json!({"installationId": github.connection, "batchSize": 2});
        for (replayed, remaining) in [(&linked[..2], 1), (&linked[2..], 0)] {
            let done = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
            let ids: Vec<&str> = replayed.iter().map(|facts| facts.delivery_id.as_str()).collect();
            assert_eq!(done, json!({"status": "replayed", "replayed": ids, "remaining": remaining}));
        }
        let over = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
        assert_eq!(over, json!({"status": "empty"}));
        sink.wait_for(3, SOON).await.expect("all three are delivered");
        app.finish().await;
    }

    async fn catching_up_counts_events_and_leaves_alone_what_a_disabled_destination_would_bury_again(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(400));
        sink.behave("/gone", Behaviour::status_only(410));
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "1000");
        let app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        app.subscribe("org", "another", &github, Some(&["github:push"])).await;
        app.subscribe("org", "ended", &github, Some(&["github:push"])).await;
        app.set_destination("org", Some("ended"), &sink.url("/gone")).await;
        let events = [post(&app, &github, 1).await, post(&app, &github, 2).await];
        let until_each_is = async |wanted: [&str; 3]| {
            for event in &events {
                until(&app, event, |detail| {
                    let deliveries = detail["deliveries"].as_array().expect("deliveries");
                    let mut each: Vec<_> = deliveries.iter().filter_map(|it| it["status"].as_str()).collect();
                    each.sort_unstable();
                    each == wanted
                })
                .await;
            }
        };
        until_each_is(["dead", "dead", "dead"]).await;

        sink.behave("/in", Behaviour::ok());
        let mut operator = app.operator("org");
        let request = json!({"installationId": github.connection, "batchSize": 1});
        let mut replayed = Vec::new();
        for remaining in [1, 0] {
            let done = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
            assert_eq!(done["remaining"], json!(remaining), "{done}");
            replayed.extend(done["replayed"].as_array().expect("a list").clone());
        }
        replayed.dedup();
        assert_eq!(replayed.len(), 2, "each event in one call: {replayed:?}");
        until_each_is(["dead", "delivered", "delivered"]).await;
        let over = operator.ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("caught up");
        assert_eq!(over, json!({"status": "empty"}));
        app.finish().await;
    }

    async fn whoever_asks_for_a_retry_or_sends_a_test_does_not_wait_for_the_circuits_next_probe(backend) {
        let sink = Sink::start().await.expect("a port");
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "3600")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "1")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_PROBE_S", "3600");
        let app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let mut operator = app.operator("org");
        let fail_one = async |seed| {
            sink.behave("/in", Behaviour::status_only(500));
            let failed = post(&app, &github, seed).await;
            let detail = until(&app, &failed, |detail| detail["deliveries"][0]["attempts"][0].is_object()).await;
            sink.behave("/in", Behaviour::ok());
            (post(&app, &github, seed + 1).await, detail["deliveries"][0]["id"].as_str().expect("an id").to_owned())
        };

        let (after, failed) = fail_one(1).await;
        operator.ask("POST", &format!("/deliveries/{failed}/retry"), None).await.expect("retried");
        until_status(&app, &after, "delivered").await;

        let (after, _) = fail_one(3).await;
        let tested = operator.ask("POST", "/orgs/org/destination/test", None).await.expect("tested");
        assert_eq!(tested["status"], "delivered", "{tested}");
        until_status(&app, &after, "delivered").await;
        app.finish().await;
    }

    async fn an_answer_of_gone_disables_the_destination(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(410));
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        let detail = until_status(&app, &event, "dead").await;
        assert_eq!(detail["deliveries"][0]["reason"], "gone", "{detail:#}");
        let destination = app.operator("org").ask("GET", "/orgs/org/destination", None).await.expect("there");
        assert!(destination.to_string().contains("gone"), "{destination}");
        app.finish().await;
    }

    async fn what_died_goes_to_the_destination_that_serves_its_integration_when_it_is_tried_again(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/gone", Behaviour::status_only(410));
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/gone")).await;
        let github = connected(&app).await;
        let mut events = Vec::new();
        for seed in 1..=3 {
            events.push(post(&app, &github, seed).await);
        }
        let mut deliveries = Vec::new();
        for event in &events {
            deliveries.push(until_status(&app, event, "dead").await["deliveries"][0].clone());
        }
        app.set_destination("org", Some("ws"), &sink.url("/in")).await;

        let mut operator = app.operator("org");
        let retry = format!("/deliveries/{}/retry", deliveries[0]["id"].as_str().expect("an id"));
        operator.ask("POST", &retry, None).await.expect("retried");
        let detail = until_status(&app, &events[0], "delivered").await;
        assert_ne!(detail["deliveries"][0]["destinationId"], deliveries[0]["destinationId"]);
        let listed = operator.ask("GET", "/admin/dlq?provider=github", None).await.expect("listed");
        let letter = listed["items"].as_array().expect("a list").iter().find(|item| item["eventId"] == events[1].as_str());
        let letter = json!({"provider": "github", "deliveryId": letter.expect("dead")["deliveryId"]});
        let letters = json!({"deliveryIds": [letter]});
        let answer = operator.ask("POST", "/admin/dlq/replay", Some(&letters)).await.expect("replayed");
        assert_eq!(answer["status"], "replayed", "{answer}");
        until_status(&app, &events[1], "delivered").await;
        let caught_up = json!({"installationId": github.connection, "batchSize": 10});
        let answer = operator.ask("POST", "/admin/replay/catchup", Some(&caught_up)).await.expect("caught up");
        assert_eq!((&answer["status"], &answer["remaining"]), (&json!("replayed"), &json!(0)), "{answer}");
        until_status(&app, &events[2], "delivered").await;
        app.finish().await;
    }

    async fn a_redirect_is_not_followed_and_a_private_address_is_not_dialled(backend) {
        let (sink, elsewhere) = (Sink::start().await.expect("a port"), Sink::start().await.expect("a port"));
        sink.behave("/in", Behaviour::redirect(&elsewhere.url("/stolen")));
        let options = Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1");
        let app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        until_status(&app, &event, "dead").await;
        assert_eq!(elsewhere.total(), 0);
        app.finish().await;

        let strict = Options::default()
            .with("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", "false")
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1");
        let app = App::start(crate::support::Backend::sqlite(), strict).await;
        let mut operator = app.operator("org");
        let literal = json!({"url": "http://127.0.0.1:1/in"});
        let refused = operator.call("PUT", "/orgs/org/destination", Some(&literal)).await.expect("an answer");
        assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some("invalid_destination_url")));
        let named = json!({"url": format!("http://localhost:{}/in", elsewhere.address().port())});
        operator.ask("PUT", "/orgs/org/destination", Some(&named)).await.expect("a name is checked when it is dialled");
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        let detail = until_status(&app, &event, "dead").await;
        assert_eq!(detail["deliveries"][0]["reason"], "address_refused", "{detail:#}");
        assert_eq!(elsewhere.total(), 0);
        app.finish().await;
    }

    async fn a_proxy_that_the_environment_names_sees_no_delivery(backend) {
        let (sink, proxy) = (Sink::start().await.expect("a port"), Sink::start().await.expect("a port"));
        let proxy_url = proxy.url("");
        let named = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
        let options = named.into_iter().fold(Options::default(), |options, name| options.with(name, &proxy_url));
        let app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        until_status(&app, &event, "delivered").await;
        assert_eq!((sink.total(), proxy.total()), (1, 0));
        app.finish().await;
    }

    async fn a_delivery_without_a_destination_waits_visibly_and_goes_when_there_is_one(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let github = connected(&app).await;
        let event = post(&app, &github, 1).await;
        let detail = until_status(&app, &event, "pending").await;
        assert_eq!(detail["deliveries"][0]["reason"], "no_destination", "{detail:#}");
        app.set_destination("org", Some("ws"), &sink.url("/in")).await;
        until_status(&app, &event, "delivered").await;
        app.finish().await;
    }

    async fn the_narrowest_destination_wins_and_a_rotated_secret_overlaps(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/org")).await;
        let github = connected(&app).await;
        post(&app, &github, 1).await;
        sink.wait_until("the org's", SOON, |all| all.iter().any(|r| r.path == "/org")).await.expect("delivered");
        let old = app.set_destination("org", Some("ws"), &sink.url("/workspace")).await;
        let mut operator = app.operator("org");
        let rotated = operator.ask("POST", "/workspaces/ws/destination/rotate-secret", None).await.expect("rotated");
        let new = rotated["secret"].as_str().expect("shown once").to_owned();
        assert_ne!(old, new);
        post(&app, &github, 2).await;
        let received = sink.wait_until("the workspace's", SOON, |all| all.iter().any(|r| r.path == "/workspace")).await;
        let received = received.expect("delivered");
        let mine = received.iter().find(|r| r.path == "/workspace").expect("there");
        for secret in [old, new] {
            let library = standardwebhooks::Webhook::new(&secret).expect("a secret");
            library.verify(&mine.body, &signature_headers(mine)).expect("both secrets verify");
        }
        let tested = operator.ask("POST", "/workspaces/ws/destination/test", None).await.expect("tested");
        assert!(tested.to_string().contains("200"), "{tested}");
        let seen = operator.ask("GET", "/workspaces/ws/destination", None).await.expect("there");
        assert!(!seen.to_string().contains("whsec_"), "the secret is shown once: {seen}");
        app.finish().await;
    }

    async fn a_second_rotation_within_a_day_ends_the_overlap_of_the_first(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let mut secrets = vec![app.set_destination("org", None, &sink.url("/in")).await];
        let mut operator = app.operator("org");
        for _ in 0..2 {
            let rotated = operator.ask("POST", "/orgs/org/destination/rotate-secret", None).await.expect("rotated");
            secrets.push(rotated["secret"].as_str().expect("shown once").to_owned());
        }
        operator.ask("POST", "/orgs/org/destination/test", None).await.expect("tested");
        let test = sink.received().remove(0);
        let is_verified_by = |secret: &String| {
            let library = standardwebhooks::Webhook::new(secret).expect("a secret");
            library.verify(&test.body, &signature_headers(&test)).is_ok()
        };
        let verified: Vec<_> = secrets.iter().map(is_verified_by).collect();
        assert_eq!(verified, [false, true, true], "two secrets sign: the newest and the one before");
        app.finish().await;
    }

    async fn a_hanging_destination_delays_nobody_else(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/hang", Behaviour::Hang);
        let options = Options::default().with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "1000");
        let app = App::start(backend, options).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "stuck", &github, Some(&["github:push"])).await;
        app.subscribe("org", "fine", &github, Some(&["github:push"])).await;
        app.set_destination("org", Some("stuck"), &sink.url("/hang")).await;
        app.set_destination("org", Some("fine"), &sink.url("/fine")).await;
        for seed in 0..40 {
            post(&app, &github, seed).await;
        }
        let fine = |all: &[sim::sink::Received]| all.iter().filter(|r| r.path == "/fine").count() == 40;
        sink.wait_until("everything for the other", SOON, fine).await.expect("delivered");

        // What hung is not lost either: once the destination answers, it gets everything.
        sink.behave("/hang", Behaviour::ok());
        app.operator("org").ask("PUT", "/workspaces/stuck/destination", Some(&json!({"url": sink.url("/hang")}))).await.expect("looked at anew");
        let unstuck = |all: &[sim::sink::Received]| {
            let answered = all.iter().filter(|r| r.path == "/hang" && r.answered == Some(200));
            answered.map(|r| &r.webhook_id).collect::<std::collections::BTreeSet<_>>().len() == 40
        };
        sink.wait_until("everything that hung", SOON, unstuck).await.expect("delivered");
        app.finish().await;
    }

    async fn stopping_in_order_loses_nothing_and_repeats_nothing(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::After(Duration::from_millis(300), Box::new(Behaviour::ok())));
        let options = Options::default().with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT_PER_DESTINATION", "4");
        let mut app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        for seed in 0..20 {
            post(&app, &github, seed).await;
        }
        app.terminate().await;
        app.restart().await;
        sink.wait_for(20, SOON).await.expect("all delivered");
        app.finish().await;
        let mut ids: Vec<_> = sink.received().iter().map(|r| r.webhook_id.clone()).collect();
        let total = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), total), (20, 20), "each once: an orderly stop makes no duplicates");
    }

    async fn an_event_can_be_replayed_to_everybody_or_to_some(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = connected(&app).await;
        let second = app.subscribe("org", "other", &github, Some(&["github:issue.opened"])).await;
        let event = post(&app, &github, 1).await;
        sink.wait_for(1, SOON).await.expect("delivered");
        let path = format!("/events/{event}/replay");
        let mut operator = app.operator("org");
        operator.ask("POST", &path, Some(&json!({}))).await.expect("replayed");
        let received = sink.wait_for(2, SOON).await.expect("delivered again");
        assert_ne!(received[0].webhook_id, received[1].webhook_id, "a replay is a new delivery");
        operator.ask("POST", &path, Some(&json!({"integrationIds": [second]}))).await.expect("replayed");
        let received = sink.wait_for(3, SOON).await.expect("delivered to the other");
        assert_eq!(received[2].envelope.as_ref().map(|e| e.workspace_id.as_str()), Some("other"));
        app.finish().await;
    }
}

/// The headers that a Standard Webhooks library looks at.
pub(crate) fn signature_headers(received: &sim::sink::Received) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let value = received.headers.get(name).expect("signed");
        headers.insert(name, value.parse().expect("a value"));
    }
    headers
}
