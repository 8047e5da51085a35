//! The end of a connection: gate first, then step by step, through crashes, once (`promises.md` P11).

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock as _, SystemClock},
    sim::{
        self, Facts,
        browser::Browser,
        sink::{Behaviour, Sink},
        world::{self, Fault, FaultRule, Simulators, Visit},
    },
};

use crate::support::{App, Backend, Options, on_both};

const CONSOLE: &str = "http://localhost:4107";
const ORG: &str = "org";
const SOON: Duration = Duration::from_mins(1);
const REVOKE_CALL: &str = "POST /oauth/revoke";
const CANCEL_PATH: &str = "/backfill/trigger/cancel";
const CRASH_AFTER: &str = "SIGNALBOX_TEST_CRASH_AFTER";
const STEPS: [&str; 6] =
    ["close_gate", "cancel_backfill", "revoke_token", "deregister_webhook", "remove_resources", "delete_token"];

/// A gateway among simulated providers, with a backfill service that listens.
struct Stage {
    app: App,
    world: Simulators,
    backfill: Sink,
}

impl Stage {
    async fn set(backend: Backend) -> Self {
        let world = Simulators::start(&world::Options::default()).await.expect("ports");
        let backfill = Sink::start().await.expect("a port");
        let options =
            world.urls().into_iter().fold(Options::default(), |options, (name, url)| options.with(name, &url));
        let options = options
            .with("SIGNALBOX_CONSOLE__URL", CONSOLE)
            .with("SIGNALBOX_BACKFILL__URL", &backfill.url("/backfill"))
            .with("SIGNALBOX_BACKFILL__API_KEY", "the-backfill-services-key");
        let app = App::start(backend, options).await;
        world.gateway_is_at(&format!("http://{}", app.address()));
        Self { app, world, backfill }
    }

    /// Connects Linear's first workspace and subscribes to a resource of it; the ids of both.
    async fn connect(&self) -> (String, String) {
        let id = self.connect_for(ORG, "linear").await;
        let mut operator = self.app.operator(ORG);
        let resource = self.world.linear.facts(1, 1).resource_id;
        let body = json!({"connectionId": id, "resources": [{"providerResourceId": resource}]});
        let done = operator.ask("POST", "/workspaces/ws/integrations", Some(&body)).await.expect("subscribed");
        let integration = done["integrations"][0]["id"].as_str().expect("an integration").to_owned();
        (id, integration)
    }

    /// Connects a provider's first account for an org; the connection's id.
    async fn connect_for(&self, org: &str, provider: &str) -> String {
        let mut operator = self.app.operator(org);
        let begun = operator.ask("GET", &format!("/connections/{provider}/authorize"), None).await.expect("begun");
        let mut browser = Browser::new().stopping_at(CONSOLE).with_visit(Visit::of_account(1));
        let page = browser.visit(begun["url"].as_str().expect("a URL")).await.expect("a page");
        assert_eq!(page.parameter("error"), None, "{}", page.url);
        let path = format!("/connections/oauth/status?state={}", begun["state"].as_str().expect("a state"));
        let status = operator.ask("GET", &path, None).await.expect("a status");
        status["connectionId"].as_str().expect("connected").to_owned()
    }

    async fn get(&self, path: &str) -> Value {
        self.get_for(ORG, path).await
    }

    async fn get_for(&self, org: &str, path: &str) -> Value {
        self.app.operator(org).ask("GET", path, None).await.expect("an answer")
    }

    async fn delete(&self, id: &str) -> Value {
        self.delete_for(ORG, id).await
    }

    async fn delete_for(&self, org: &str, id: &str) -> Value {
        self.app.operator(org).ask("DELETE", &format!("/connections/{id}"), None).await.expect("an answer")
    }

    /// The receipt, once the teardown has ended.
    async fn receipt(&self, id: &str) -> Value {
        self.receipt_for(ORG, id).await
    }

    async fn receipt_for(&self, org: &str, id: &str) -> Value {
        let path = format!("/connections/{id}/teardown");
        let ended = tokio::time::timeout(SOON, async {
            loop {
                let receipt = self.get_for(org, &path).await;
                if receipt["status"] == "completed" {
                    return receipt;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let Ok(receipt) = ended.await else { panic!("it has not ended: {}", self.get_for(org, &path).await) };
        receipt
    }

    async fn restart(&mut self) {
        self.app.restart().await;
        self.world.gateway_is_at(&format!("http://{}", self.app.address()));
    }

    /// How often the log of a connection tells of this.
    async fn times_logged(&self, id: &str, action: &str) -> usize {
        let log = self.get(&format!("/connections/{id}/log?limit=100")).await;
        log["items"].as_array().expect("items").iter().filter(|entry| entry["action"] == action).count()
    }

    fn cancels(&self) -> usize {
        self.backfill.received().iter().filter(|call| call.path == CANCEL_PATH).count()
    }

    /// Until the backfill service was told that much oftener to stop.
    async fn until_cancels(&self, count: usize) {
        let told = async {
            while self.cancels() < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, told).await.expect("the backfill service is told");
    }
}

/// What a receipt says, without its times.
fn settled(receipt: &Value) -> Vec<(String, String, Value)> {
    let steps = receipt["steps"].as_array().expect("steps");
    let text = |step: &Value, name: &str| step[name].as_str().expect("text").to_owned();
    steps.iter().map(|step| (text(step, "step"), text(step, "status"), step["detail"].clone())).collect()
}

fn expected() -> Vec<(String, String, Value)> {
    let row = |step: &str, status: &str, detail: Value| (step.to_owned(), status.to_owned(), detail);
    vec![
        row("close_gate", "done", Value::Null),
        row("cancel_backfill", "done", Value::Null),
        row("revoke_token", "done", json!("revoked")),
        row("deregister_webhook", "skipped", json!("none_registered")),
        row("remove_resources", "done", Value::Null),
        row("delete_token", "done", Value::Null),
    ]
}

on_both! {
    async fn a_connection_ends_gate_first_and_its_receipt_says_what_was_done(backend) {
        let stage = Stage::set(backend).await;
        let (id, integration) = stage.connect().await;
        assert_eq!(stage.delete(&id).await["status"], "teardown_initiated");
        // Whoever hears the answer finds the gate closed.
        let connection = stage.get(&format!("/connections/{id}")).await;
        assert_eq!((&connection["status"], &connection["health"]), (&json!("revoked"), &json!("revoked")));
        let receipt = stage.receipt(&id).await;
        assert_eq!(settled(&receipt), expected(), "{receipt}");
        assert!(receipt["startedAt"].is_string() && receipt["finishedAt"].is_string(), "{receipt}");
        assert_eq!(stage.world.linear.calls(REVOKE_CALL).len(), 1);
        assert_eq!(stage.cancels(), 1);
        let connection = stage.get(&format!("/connections/{id}")).await;
        assert_eq!((&connection["hasToken"], &connection["resources"]), (&json!(false), &json!([])));
        assert_eq!(stage.get(&format!("/integrations/{integration}")).await["status"], "revoked");
        let token = stage.app.operator(ORG).call("GET", &format!("/connections/{id}/token"), None).await;
        assert_eq!(token.expect("an answer").json()["error"], "installation_not_active");
        assert_eq!(stage.delete(&id).await["status"], "revoked", "again, after the end");
        assert_eq!(settled(&stage.receipt(&id).await), expected(), "one receipt");
        assert_eq!(stage.times_logged(&id, "installation.revoked").await, 1);
        assert_eq!(stage.times_logged(&id, "teardown.completed").await, 1);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_teardown_that_is_killed_between_any_two_steps_ends_in_the_same_receipt_and_rows_once(backend) {
        let mut stage = Stage::set(backend).await;
        for (round, step) in STEPS.into_iter().enumerate() {
            // Connecting again revives the connection, under the same id, for the next round.
            let (id, integration) = stage.connect().await;
            stage.app.kill().await;
            stage.app.set(CRASH_AFTER, &format!("teardown.{step}"));
            stage.restart().await;
            let (revokes, cancels) = (stage.world.linear.calls(REVOKE_CALL).len(), stage.cancels());
            // The process may end before it answers.
            drop(stage.app.operator(ORG).call("DELETE", &format!("/connections/{id}"), None).await);
            stage.app.crashed().await;
            stage.app.set(CRASH_AFTER, "");
            stage.restart().await;
            let receipt = stage.receipt(&id).await;
            assert_eq!(settled(&receipt), expected(), "after a crash behind {step}: {receipt}");
            assert_eq!(stage.world.linear.calls(REVOKE_CALL).len(), revokes + 1, "after {step}");
            assert_eq!(stage.cancels(), cancels + 1, "after {step}");
            let connection = stage.get(&format!("/connections/{id}")).await;
            assert_eq!(connection["status"], "revoked", "after {step}");
            assert_eq!((&connection["hasToken"], &connection["resources"]), (&json!(false), &json!([])), "after {step}");
            assert_eq!(stage.get(&format!("/integrations/{integration}")).await["status"], "revoked", "after {step}");
            assert_eq!(stage.times_logged(&id, "installation.revoked").await, round + 1, "after {step}");
            assert_eq!(stage.times_logged(&id, "teardown.completed").await, round + 1, "after {step}");
        }
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn an_unreachable_provider_delays_the_end_and_nothing_else(backend) {
        let stage = Stage::set(backend).await;
        let (id, _) = stage.connect().await;
        stage.world.linear.fail(FaultRule::times(REVOKE_CALL, 2, Fault::status(503)));
        assert_eq!(stage.delete(&id).await["status"], "teardown_initiated");
        assert_eq!(stage.delete(&id).await["status"], "teardown_initiated", "again, while it runs");
        let receipt = stage.receipt(&id).await;
        assert_eq!(settled(&receipt), expected(), "{receipt}");
        assert_eq!(receipt["steps"][2]["attempts"], 3, "{receipt}");
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_connection_that_the_provider_ended_is_torn_down_without_a_call_to_it(backend) {
        let stage = Stage::set(backend).await;
        let (id, integration) = stage.connect().await;
        stage.world.linear.act("uninstall", 1, &json!({})).await.expect("uninstalled");
        let receipt = stage.receipt(&id).await;
        assert_eq!((&receipt["reason"], &receipt["steps"][2]["status"]), (&json!("provider_revoked"), &json!("skipped")));
        assert_eq!(stage.world.linear.calls(REVOKE_CALL).len(), 0);
        assert_eq!(stage.get(&format!("/integrations/{integration}")).await["status"], "revoked");
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn an_end_does_not_end_the_connection_that_another_org_made_of_the_account_meanwhile(backend) {
        let stage = Stage::set(backend).await;
        for (provider, end) in
            [("github", "DELETE /app/installations/*"), ("vercel", "DELETE /v1/integrations/configuration/*")]
        {
            // The end waits for the backfill service, and then would go on.
            stage.backfill.behave(CANCEL_PATH, Behaviour::status_only(503));
            let (former, cancels) = (stage.connect_for("former", provider).await, stage.cancels());
            stage.delete_for("former", &former).await;
            stage.until_cancels(cancels + 1).await;
            let id = stage.connect_for(ORG, provider).await;
            assert_ne!(id, former);
            stage.backfill.behave(CANCEL_PATH, Behaviour::ok());
            let receipt = stage.receipt_for("former", &former).await;
            let expected = ("revoke_token".to_owned(), "skipped".to_owned(), json!("connected_elsewhere"));
            assert_eq!(settled(&receipt)[2], expected, "{receipt}");
            let ends = match provider {
                "github" => stage.world.github.calls(end),
                _ => stage.world.vercel.calls(end),
            };
            assert!(ends.is_empty(), "{provider}");
            assert_eq!(stage.get(&format!("/connections/{id}")).await["status"], "active", "{provider}");
            stage.get(&format!("/connections/{id}/available-resources")).await;
        }
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_dead_token_is_the_end_of_a_grant_only_where_it_was_all_of_the_grant(backend) {
        let stage = Stage::set(backend).await;
        let linear = stage.connect_for(ORG, "linear").await;
        let sentry = stage.connect_for(ORG, "sentry").await;
        let refused = Fault::Status { status: 400, headers: Vec::new(), body: json!({"error": "invalid_grant"}) };
        stage.world.linear.fail(FaultRule::always("POST /oauth/token", refused));
        // The app is installed there as before, and none of its tokens is accepted.
        stage.world.sentry.fail(FaultRule::always("* /api/0/sentry-app-installations/**", Fault::status(401)));
        stage.app.write_rows("UPDATE gw_tokens SET expires_at = 1000").await;
        for (id, status, detail) in [(linear, "done", "already_gone"), (sentry, "gave_up", "token_not_accepted")] {
            stage.delete(&id).await;
            let receipt = stage.receipt(&id).await;
            let expected = ("revoke_token".to_owned(), status.to_owned(), json!(detail));
            assert_eq!(settled(&receipt)[2], expected, "{receipt}");
            assert_eq!(stage.get(&format!("/connections/{id}")).await["status"], "revoked");
            let told = usize::from(status == "gave_up");
            assert_eq!(stage.times_logged(&id, "teardown.step_given_up").await, told, "{detail}");
        }
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn an_end_told_late_is_that_of_the_grant_before(backend) {
        let stage = Stage::set(backend).await;
        stage.connect().await;
        let before = SystemClock.now();
        let (id, _) = stage.connect().await;
        let linear = sim::find("linear").expect("simulated");
        let tell = async |seed, at| {
            let facts = Facts { at, ..stage.world.linear.facts(1, seed) };
            let request = linear.event("linear:oauth-app.revoked", &facts, linear.secret.as_bytes()).expect("known");
            let answer = stage.app.outsider().post_webhook("linear", &request).await.expect("an answer");
            assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("control")), "{}", answer.json());
            stage.get(&format!("/connections/{id}")).await["status"].clone()
        };
        assert_eq!(tell(1, before).await, "active");
        assert_eq!(tell(2, SystemClock.now()).await, "revoked");
        stage.receipt(&id).await;
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_backfill_that_was_cancelled_by_a_teardown_is_not_asked_for_any_more(backend) {
        let stage = Stage::set(backend).await;
        stage.backfill.behave("/backfill/trigger", Behaviour::status_only(503));
        let (id, _) = stage.connect().await;
        stage.backfill.wait_for(1, SOON).await.expect("told");
        stage.delete(&id).await;
        stage.receipt(&id).await;
        stage.backfill.behave("/backfill/trigger", Behaviour::ok());
        // Longer than the first two pauses between tries together.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let calls = stage.backfill.received();
        let cancel = calls.iter().position(|call| call.path == "/backfill/trigger/cancel").expect("cancelled");
        let after: Vec<_> = calls[cancel + 1..].iter().map(|call| &call.path).collect();
        assert!(after.is_empty(), "{after:?}");
        let runs = stage.get(&format!("/connections/{id}/backfill-runs")).await;
        let runs = runs["items"].as_array().expect("runs");
        assert!(!runs.is_empty() && runs.iter().all(|run| run["status"] == "cancelled"), "{runs:?}");
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn the_backfill_service_hears_of_links_and_its_outage_delays_nobody(backend) {
        let stage = Stage::set(backend).await;
        let (id, _) = stage.connect().await;
        let told = stage.backfill.wait_for(1, SOON).await.expect("told");
        let trigger = &told[0];
        let body: Value = serde_json::from_slice(&trigger.body).expect("JSON");
        assert_eq!(trigger.path, "/backfill/trigger");
        assert_eq!(body, json!({"installationId": id, "provider": "linear", "orgId": ORG}));
        assert_eq!(trigger.headers.get("x-api-key"), Some("the-backfill-services-key"));
        let runs = stage.get(&format!("/connections/{id}/backfill-runs")).await;
        assert!(runs["items"].as_array().is_some_and(|runs| !runs.is_empty()), "{runs}");
        stage.app.finish_without(&stage.world.issued()).await;
    }
}
